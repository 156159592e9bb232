package store

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// maxArms is into how many parts a list is split at most.
const maxArms = 8

// arms splits a condition at an OR into parts of which each is a range of an
// index in the order of the list. No database reads
//
//	tenant = ? AND (owner_id = ? OR region = ?) ORDER BY created_at, id LIMIT 51
//
// from an index without reading past rows that do not match, or all that do;
// but each does so with one SELECT per part, joined by UNION ALL, and merges
// them as far as the limit. A row that several parts select comes several
// times, one after the other.
//
// It is split only if ordered says of every part that it has a column = ? with
// such an index; else it stays whole, because a part without one may read the
// whole tenant to find nothing. It is also the way out for whatever is not
// understood: the text of a condition is read for ANDs and ORs only.
func arms(where Where, ordered func(column string) bool) []Where {
	whole := []Where{where}
	all, ok := pieces(where, "AND")
	if !ok || slices.ContainsFunc(all, func(w Where) bool { return indexed(w, ordered) }) {
		return whole
	}
	for i, factor := range all {
		parts, ok := alternatives(factor)
		if !ok || len(parts) > maxArms || !every(parts, func(w Where) bool { return indexed(w, ordered) }) {
			continue
		}
		out := make([]Where, len(parts))
		for j, part := range parts {
			factors := slices.Clone(all)
			factors[i] = part
			out[j] = conjunction(factors)
		}
		return out
	}
	return whole
}

// never are parts of an OR that select no row, as a query plan spells them for
// an attribute that the principal lacks.
var never = []string{"FALSE", "NULL", "CAST(NULL AS BOOLEAN)"}

var oneOf = regexp.MustCompile(`^("\w+") IN \(\?(?:, \?)*\)$`)

// alternatives are the parts of an OR, each once and without those that select
// nothing, or of an IN; not ok if it is neither.
func alternatives(w Where) (out []Where, ok bool) {
	add := func(more ...Where) {
		for _, m := range more {
			if !slices.ContainsFunc(out, func(have Where) bool { return reflect.DeepEqual(have, m) }) {
				out = append(out, m)
			}
		}
	}
	if m := oneOf.FindStringSubmatch(bare(w.SQL)); m != nil {
		for _, arg := range w.Args {
			add(Where{SQL: m[1] + " = ?", Args: []any{arg}})
		}
		return out, true
	}
	parts, ok := pieces(w, "OR")
	if !ok || len(parts) < 2 {
		return nil, false
	}
	for _, p := range parts {
		p.SQL = bare(p.SQL)
		if slices.Contains(never, p.SQL) {
			continue
		}
		if inner, ok := alternatives(p); ok {
			add(inner...)
		} else {
			add(p)
		}
	}
	return out, len(out) > 0
}

var equality = regexp.MustCompile(`^"?(\w+)"? = \?$`)

// indexed reports whether one of the condition's factors is a comparison that
// an ordered index answers.
func indexed(w Where, ordered func(column string) bool) bool {
	factors, ok := pieces(w, "AND")
	return ok && slices.ContainsFunc(factors, func(f Where) bool {
		m := equality.FindStringSubmatch(bare(f.SQL))
		return m != nil && ordered(m[1])
	})
}

func every[T any](all []T, is func(T) bool) bool {
	return !slices.ContainsFunc(all, func(one T) bool { return !is(one) })
}

// conjunction puts factors together.
func conjunction(factors []Where) Where {
	var out Where
	texts := make([]string, len(factors))
	for i, f := range factors {
		texts[i] = "(" + f.SQL + ")"
		out.Args = append(out.Args, f.Args...)
	}
	out.SQL = strings.Join(texts, " AND ")
	return out
}

// pieces cuts a condition at each outermost AND or OR, each piece with its
// arguments. One without is a single piece. Not ok if the text holds what may
// not be cut so: an OR beside an AND, which binds stronger, a BETWEEN, or
// anything that is not plain SQL.
func pieces(w Where, at string) ([]Where, bool) {
	text := bare(w.SQL)
	words, ok := outermost(text)
	if !ok {
		return nil, false
	}
	var out []Where
	start, arg := 0, 0
	add := func(end int) bool {
		piece := strings.TrimSpace(text[start:end])
		n := placeholders(piece)
		if piece == "" || arg+n > len(w.Args) {
			return false
		}
		out = append(out, Where{SQL: piece, Args: w.Args[arg : arg+n]})
		arg += n
		return true
	}
	for _, word := range words {
		switch {
		case word.text == "BETWEEN", word.text == "OR" && at == "AND":
			return []Where{w}, at == "AND" && word.text == "OR"
		case word.text == at:
			if !add(word.at) {
				return nil, false
			}
			start = word.at + len(at)
		}
	}
	if !add(len(text)) || arg != len(w.Args) {
		return nil, false
	}
	return out, true
}

// bare takes off the parentheses around the whole.
func bare(text string) string {
	text = strings.TrimSpace(text)
	for strings.HasPrefix(text, "(") && closing(text) == len(text)-1 {
		text = strings.TrimSpace(text[1 : len(text)-1])
	}
	return text
}
