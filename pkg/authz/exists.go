package authz

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
)

// iterator is a name for an element that nothing else in a plan can have.
var iterator = regexp.MustCompile(`^[a-z_][A-Za-z0-9_]*$`)

// unrolled writes exists and all over a list of values: as an OR or an AND of
// what is said of each element, which is what CEL does, errors included.
func (b *builder) unrolled(name string, ops []*operand, depth int) (string, error) {
	with, ofNone := " OR ", "FALSE"
	if name == "all" {
		with, ofNone = " AND ", "TRUE"
	}
	lambda := []*operand(nil)
	if len(ops) == 2 && ops[1].GetExpression().GetOperator() == "lambda" {
		lambda = ops[1].GetExpression().GetOperands()
	}
	if len(lambda) != 2 {
		return "", fmt.Errorf("%s of another shape than one element of one list", name)
	}
	list, element := ops[0].GetValue().GetListValue(), lambda[1].GetVariable()
	switch {
	case list == nil:
		return "", fmt.Errorf("%s over something that is no list of values", name)
	case len(list.GetValues()) == 0:
		return ofNone, nil
	case len(list.GetValues()) > maxOperands:
		return "", fmt.Errorf("%s over %d values, at most %d", name, len(list.GetValues()), maxOperands)
	case !iterator.MatchString(element) || slices.Contains(reserved, element):
		return "", fmt.Errorf("%s with an element called %q", name, element)
	}
	outer := b.elements
	defer func() { b.elements = outer }()
	return b.joined(with, len(list.GetValues()), func(i int) (string, error) {
		b.elements = maps.Clone(outer)
		if b.elements == nil {
			b.elements = map[string]*structpb.Value{}
		}
		b.elements[element] = list.GetValues()[i]
		return b.boolean(lambda[0], depth+1)
	})
}

// reserved are the names that conditions have a meaning for.
var reserved = []string{"request", "runtime", "constants", "variables", "globals"}

// compareValues works a comparison of two values out: Cerbos leaves it where
// one of them is an element of a list. Both have one type.
func compareValues(name string, l, r term) (bool, error) {
	order := 0
	switch a := l.value.(type) {
	case string:
		order = strings.Compare(a, r.value.(string)) // CEL orders strings by their bytes
	case float64:
		switch c := r.value.(float64); {
		case a < c:
			order = -1
		case a > c:
			order = 1
		}
	case bool:
		if a != r.value.(bool) {
			order = 1
		}
		if name != "eq" && name != "ne" {
			return false, fmt.Errorf("%s of booleans", name)
		}
	default:
		return false, fmt.Errorf("%s of two values", name)
	}
	switch name {
	case "eq":
		return order == 0, nil
	case "ne":
		return order != 0, nil
	case "lt":
		return order < 0, nil
	case "le":
		return order <= 0, nil
	case "gt":
		return order > 0, nil
	}
	return order >= 0, nil
}

// inValues looks a value up, as CEL does: values of two types are not equal.
func inValues(l term, list *structpb.ListValue) (string, error) {
	for _, v := range list.GetValues() {
		t, err := valueTerm(v)
		if err != nil {
			return "", err
		}
		if t.typ == l.typ && t.value == l.value {
			return "TRUE", nil
		}
	}
	return "FALSE", nil
}
