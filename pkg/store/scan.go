package store

import (
	"iter"
	"strings"
)

// word is a keyword of a condition and where it stands.
type word struct {
	text string
	at   int
}

// outermost finds the AND, OR and BETWEEN that stand in no parentheses, CASE or
// quotes. Not ok where a text holds more of SQL than that can be told of:
// comments, other kinds of quotes, several statements.
func outermost(text string) ([]word, bool) {
	if strings.ContainsAny(text, "\\;$[`:") || strings.Contains(text, "--") || strings.Contains(text, "/*") {
		return nil, false
	}
	var out []word
	depth := 0
	for at, token := range tokens(text) {
		switch token {
		case "(", "CASE":
			depth++
		case ")", "END":
			if depth--; depth < 0 {
				return nil, false
			}
		case "AND", "OR", "BETWEEN":
			if depth == 0 {
				out = append(out, word{token, at})
			}
		}
	}
	return out, depth == 0
}

// tokens gives the words, in upper case, and the parentheses and question marks
// of a text, each with its place; nothing that is quoted.
func tokens(text string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		for i := 0; i < len(text); i++ {
			start := i
			switch c := text[i]; {
			case c == '\'' || c == '"':
				for i++; i < len(text) && text[i] != c; i++ { // a doubled quote opens again at once
				}
				continue
			case letter(c):
				for i+1 < len(text) && letter(text[i+1]) {
					i++
				}
			case c != '(' && c != ')' && c != '?':
				continue
			}
			if !yield(start, strings.ToUpper(text[start:i+1])) {
				return
			}
		}
	}
}

func letter(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= 0x80
}

// closing is where the parenthesis that the text begins with is closed; -1 if it is not.
func closing(text string) int {
	depth := 0
	for at, token := range tokens(text) {
		switch token {
		case "(":
			depth++
		case ")":
			if depth--; depth == 0 {
				return at
			}
		}
	}
	return -1
}

func placeholders(text string) int {
	n := 0
	for _, token := range tokens(text) {
		if token == "?" {
			n++
		}
	}
	return n
}
