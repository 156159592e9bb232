package authz

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	"google.golang.org/protobuf/types/known/structpb"
)

type operand = enginev1.PlanResourcesFilter_Expression_Operand

// builder writes one condition. Placeholders stand in the text in the order of args.
type builder struct {
	columns   map[string]column
	dialect   string
	principal *enginev1.Principal
	args      []any
	elements  map[string]*structpb.Value // of the lists that exists and all go through
	parts     int                        // written so far
}

// unknown is CEL's error value in SQL: neither true nor false, also when negated.
const unknown = "CAST(NULL AS BOOLEAN)"

func (b *builder) bind(v any) string {
	b.args = append(b.args, v)
	return "?"
}

// boolean writes an operand that stands where CEL wants a truth value.
func (b *builder) boolean(op *operand, depth int) (string, error) {
	if depth > maxDepth {
		return "", fmt.Errorf("more than %d levels", maxDepth)
	}
	if b.parts++; b.parts > maxParts {
		return "", fmt.Errorf("more than %d parts", maxParts)
	}
	e := op.GetExpression()
	if e == nil {
		t, err := b.term(op)
		if err != nil {
			return "", err
		}
		return b.truth(t)
	}
	switch name, ops := e.GetOperator(), e.GetOperands(); name {
	case "and", "or":
		if len(ops) == 0 {
			return "", fmt.Errorf("%s of nothing", name)
		}
		if len(ops) > maxOperands {
			return "", fmt.Errorf("%s of %d operands, at most %d", name, len(ops), maxOperands)
		}
		return b.joined(" "+strings.ToUpper(name)+" ", len(ops), func(i int) (string, error) { return b.boolean(ops[i], depth+1) })
	case "not":
		if len(ops) != 1 {
			return "", fmt.Errorf("not of %d operands", len(ops))
		}
		part, err := b.boolean(ops[0], depth+1)
		if err != nil {
			return "", err
		}
		return "(NOT " + part + ")", nil
	case "eq", "ne", "lt", "le", "gt", "ge":
		if x := self(op); x != nil {
			return b.missing(x)
		}
		l, r, err := b.pair(name, ops)
		if err != nil {
			return "", err
		}
		return b.compare(name, l, r)
	case "in":
		return b.in(ops)
	case "startsWith", "endsWith", "contains":
		l, r, err := b.pair(name, ops)
		if err != nil {
			return "", err
		}
		return b.substring(name, l, r)
	case "exists", "all":
		return b.unrolled(name, ops, depth)
	default:
		return "", fmt.Errorf("operator %q is not supported", name)
	}
}

// joined writes n parts, each once: the planner drops a repeated one only if a
// map happens to come out in the same order twice.
func (b *builder) joined(with string, n int, write func(int) (string, error)) (string, error) {
	type written struct {
		sql  string
		args []any
	}
	var parts []written
	var text []string
	for i := range n {
		before := len(b.args)
		sql, err := write(i)
		if err != nil {
			return "", err
		}
		args := b.args[before:]
		if slices.ContainsFunc(parts, func(w written) bool { return w.sql == sql && slices.Equal(w.args, args) }) {
			b.args = b.args[:before]
			continue
		}
		parts, text = append(parts, written{sql, slices.Clone(args)}), append(text, sql)
	}
	if len(text) == 1 {
		return text[0], nil
	}
	return "(" + strings.Join(text, with) + ")", nil
}

func (b *builder) pair(name string, ops []*operand) (l, r term, err error) {
	if len(ops) != 2 {
		return l, r, fmt.Errorf("%s of %d operands", name, len(ops))
	}
	if l, err = b.term(ops[0]); err != nil {
		return l, r, err
	}
	r, err = b.term(ops[1])
	return l, r, err
}

func (b *builder) truth(t term) (string, error) {
	switch {
	case t.missing:
		return unknown, nil
	case t.typ != typeBool:
		return "", fmt.Errorf("%s stands where a boolean is wanted", t)
	case t.isColumn():
		return "(" + t.column.sql + " = TRUE)", nil
	case t.value.(bool):
		return "TRUE", nil
	}
	return "FALSE", nil
}

var sqlOperator = map[string]string{"eq": "=", "ne": "<>", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

// mirrored gives the operator with its sides exchanged.
var mirrored = map[string]string{"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}

func (b *builder) compare(name string, l, r term) (string, error) {
	if l.missing || r.missing {
		return unknown, nil // whatever it is compared with, CEL fails on the missing side
	}
	if l.typ != r.typ {
		return "", fmt.Errorf("%s compared with %s", l, r)
	}
	if !l.isColumn() && !r.isColumn() {
		if len(b.elements) == 0 {
			return "", fmt.Errorf("%s of two values", name) // Cerbos works these out itself
		}
		same, err := compareValues(name, l, r)
		return strings.ToUpper(strconv.FormatBool(same)), err
	}
	if !l.isColumn() {
		l, r, name = r, l, mirrored[name]
	}
	order := name != "eq" && name != "ne"
	switch {
	case order && l.typ == typeBool:
		return "", fmt.Errorf("%s of booleans", name)
	case l.typ == typeTime && !r.isColumn():
		return b.compareTime(name, l, r)
	}
	left, right := b.comparable(l), ""
	if r.isColumn() {
		right = b.comparable(r)
	} else {
		right = b.bind(r.value)
	}
	if order && l.typ == typeString && b.dialect == Postgres {
		left += ` COLLATE "C"` // CEL orders strings by their bytes, and so does SQLite
	}
	return "(" + left + " " + sqlOperator[name] + " " + right + ")", nil
}

func (b *builder) in(ops []*operand) (string, error) {
	if len(ops) != 2 {
		return "", fmt.Errorf("in of %d operands", len(ops))
	}
	if expand(ops[1].GetVariable()) == "request.resource.attr" {
		return b.present(ops[0])
	}
	l, err := b.term(ops[0])
	if err != nil {
		return "", err
	}
	list := ops[1].GetValue().GetListValue()
	if list == nil {
		if r, err := b.term(ops[1]); err == nil && r.missing {
			return unknown, nil
		}
		return "", fmt.Errorf("in of something that is no list of values")
	}
	if l.missing {
		return unknown, nil
	}
	if !l.isColumn() && len(b.elements) > 0 {
		return inValues(l, list)
	}
	if l.typ == typeTime || !l.isColumn() {
		return "", fmt.Errorf("%s in a list", l)
	}
	marks := make([]string, 0, len(list.GetValues()))
	left := b.comparable(l)
	for _, v := range list.GetValues() {
		t, err := valueTerm(v)
		if err != nil {
			return "", err
		}
		if t.typ != l.typ {
			return "", fmt.Errorf("%s in a list with %s", l, t)
		}
		marks = append(marks, b.bind(t.value))
	}
	if len(marks) == 0 {
		return "(" + left + " <> " + left + ")", nil // false, or NULL for NULL
	}
	return "(" + left + " IN (" + strings.Join(marks, ", ") + "))", nil
}

// missing writes `x != x`: false, or unknown where a row has no x. So it is
// written for an attribute of any type.
func (b *builder) missing(x *operand) (string, error) {
	name := expand(x.GetVariable())
	if _, ok := b.elements[name]; ok || name == "request.resource.id" {
		return "FALSE", nil
	}
	attr, ok := attrOf(name)
	c, known := b.columns[attr]
	if !ok || !known {
		return "", fmt.Errorf("variable %q is not an attribute that rows have", x.GetVariable())
	}
	return "(CASE WHEN " + c.sql + " IS NOT NULL THEN FALSE END)", nil
}

// present writes `"x" in R.attr`: it is never an error, a missing attribute makes it false.
func (b *builder) present(op *operand) (string, error) {
	t, err := b.term(op)
	if err != nil {
		return "", err
	}
	name, ok := t.value.(string)
	if !ok {
		return "", fmt.Errorf("%s in R.attr", t)
	}
	c, ok := b.columns[name]
	if !ok {
		return "", fmt.Errorf("attribute %s is not one that rows have", name)
	}
	return "(" + c.sql + " IS NOT NULL)", nil
}

// substring compares bytes. SQLite's functions on text stop at a zero byte,
// those on blobs do not; both see UTF-8, where a part of the bytes of valid
// text that is valid text itself is a part of the text.
func (b *builder) substring(name string, l, r term) (string, error) {
	if l.missing || r.missing {
		return unknown, nil
	}
	if l.typ != typeString || r.typ != typeString || !l.isColumn() || r.isColumn() {
		return "", fmt.Errorf("%s of %s and %s", name, l, r)
	}
	c, part := l.column.sql, r.value.(string)
	if part == "" {
		return "(" + c + " = " + c + ")", nil // true, or NULL for NULL
	}
	if b.dialect == Postgres {
		switch name {
		case "startsWith":
			return "starts_with(" + c + ", " + b.bind(part) + ")", nil
		case "endsWith":
			return fmt.Sprintf("(right(%s, %d) = %s)", c, len([]rune(part)), b.bind(part)), nil
		}
		return "(strpos(" + c + ", " + b.bind(part) + ") > 0)", nil
	}
	blob := "CAST(" + c + " AS BLOB)"
	found := "instr(" + blob + ", CAST(" + b.bind(part) + " AS BLOB)) > 0"
	switch name {
	case "startsWith":
		found = fmt.Sprintf("substr(%s, 1, %d) = CAST(? AS BLOB)", blob, len(part))
	case "endsWith":
		found = fmt.Sprintf("substr(%s, -%d) = CAST(? AS BLOB)", blob, len(part))
	}
	// Of an empty blob SQLite's functions give NULL, which would be an error in CEL.
	return "(CASE WHEN " + c + " = '' THEN FALSE ELSE " + found + " END)", nil
}
