package authz

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/writ-project/writ/pkg/kind"
)

// valueType is what CEL and SQL must agree on before they can be compared.
type valueType string

const (
	typeString valueType = "string"
	typeNumber valueType = "number"
	typeBool   valueType = "boolean"
	typeTime   valueType = "time"
	typeOther  valueType = "list or object" // kept as JSON: no condition reaches into it
)

// column is an attribute's column.
type column struct {
	sql      string // quoted
	typ      valueType
	float    bool
	nullable bool
}

// term is a side of a comparison: a column, a value, or an attribute of the
// principal that is missing.
type term struct {
	typ     valueType
	column  *column
	value   any // string, float64, bool or time.Time
	text    string
	missing bool
}

func (t term) isColumn() bool { return t.column != nil }

// String names the term without its value: plans hold principals' attributes.
func (t term) String() string {
	if t.isColumn() {
		return string(t.typ) + " " + t.text
	}
	return "a " + string(t.typ)
}

// columnsOf maps what policies call an attribute to its column.
func columnsOf(def *kind.Definition) map[string]column {
	out := make(map[string]column)
	types := make(map[string]reflect.Type)
	for _, f := range reflect.VisibleFields(def.Type()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		types[name] = f.Type
	}
	for _, name := range def.AttrNames() {
		c, ok := def.Column(name)
		t := types[name]
		if !ok || t == nil {
			continue
		}
		col := column{sql: quote(c.Name)}
		if t.Kind() == reflect.Pointer {
			col.nullable = true
			t = t.Elem()
		}
		switch {
		case t == reflect.TypeFor[time.Time]():
			col.typ = typeTime
		case t.Kind() == reflect.String:
			col.typ = typeString
		case t.Kind() == reflect.Bool:
			col.typ = typeBool
		case reflect.Zero(t).CanInt():
			col.typ = typeNumber
		case reflect.Zero(t).CanFloat():
			col.typ, col.float = typeNumber, true
		default:
			col.typ = typeOther
		}
		out[name] = col
	}
	return out
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// comparable writes a column as what CEL sees. CEL knows one kind of number,
// the double; a larger integer is rounded there and must be rounded here.
func (b *builder) comparable(t term) string {
	c := t.column
	switch {
	case c.typ == typeTime:
		return timeSQL(c)
	case c.typ == typeNumber && c.float && b.dialect == Postgres:
		return "NULLIF(CAST(" + c.sql + " AS DOUBLE PRECISION), 'NaN')" // there NaN is larger than any number
	case c.typ == typeNumber:
		return "CAST(" + c.sql + " AS DOUBLE PRECISION)"
	}
	return c.sql
}

// expand spells Cerbos' abbreviations out.
func expand(variable string) string {
	switch {
	case variable == "R" || strings.HasPrefix(variable, "R."):
		return "request.resource" + variable[1:]
	case variable == "P" || strings.HasPrefix(variable, "P."):
		return "request.principal" + variable[1:]
	}
	return variable
}

func (b *builder) term(op *operand) (term, error) {
	if v := op.GetValue(); v != nil {
		return valueTerm(v)
	}
	if e := op.GetExpression(); e != nil {
		if e.GetOperator() == "timestamp" && len(e.GetOperands()) == 1 {
			return b.timestamp(e.GetOperands()[0])
		}
		if e.GetOperator() == "get-field" && lacks(e.GetOperands()) {
			return term{missing: true}, nil
		}
		return term{}, fmt.Errorf("operator %q is not supported as a value", e.GetOperator())
	}
	if v, ok := b.elements[op.GetVariable()]; ok {
		return valueTerm(v)
	}
	t, err := b.variable(expand(op.GetVariable()))
	if err == nil && t.typ == typeTime {
		return term{}, fmt.Errorf("time %s must stand in timestamp(): as text its order is another", t.text)
	}
	return t, err
}

// attrOf gives the name of a resource's attribute.
func attrOf(variable string) (name string, ok bool) {
	return strings.CutPrefix(variable, "request.resource.attr.")
}

func (b *builder) variable(name string) (term, error) {
	if attr, ok := attrOf(name); ok {
		c, ok := b.columns[attr]
		if !ok {
			return term{}, fmt.Errorf("attribute %s is not one that rows have", attr)
		}
		if c.typ == typeOther {
			return term{}, fmt.Errorf("attribute %s is a list or an object", attr)
		}
		return term{typ: c.typ, column: &c, text: attr}, nil
	}
	if name == "request.resource.id" {
		return term{typ: typeString, column: &column{sql: quote("id"), typ: typeString}, text: "id"}, nil
	}
	// The principal was known when the plan was made. What is left of it in the
	// plan is what it does not have.
	if attr, ok := strings.CutPrefix(name, "request.principal.attr."); ok && lookup(b.principal.GetAttr(), strings.Split(attr, ".")) == nil {
		return term{missing: true}, nil
	}
	return term{}, fmt.Errorf("variable %q is not supported", name)
}

// lacks reports whether get-field asks an object, spelled out in the plan, for
// a field that it does not have: how a missing attribute of the principal
// stands beside one of the resource.
func lacks(ops []*operand) bool {
	if len(ops) != 2 || ops[1].GetVariable() == "" {
		return false
	}
	name := ops[1].GetVariable()
	if v := ops[0].GetValue(); v != nil {
		_, has := v.GetStructValue().GetFields()[name]
		return v.GetStructValue() != nil && !has
	}
	object := ops[0].GetExpression()
	if object.GetOperator() != "struct" {
		return false
	}
	for _, field := range object.GetOperands() {
		set := field.GetExpression()
		if set.GetOperator() != "set-field" || len(set.GetOperands()) != 2 {
			return false
		}
		key, ok := set.GetOperands()[0].GetValue().GetKind().(*structpb.Value_StringValue)
		if !ok || key.StringValue == name {
			return false
		}
	}
	return true
}

func valueTerm(v *structpb.Value) (term, error) {
	switch x := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return term{typ: typeString, value: x.StringValue}, nil
	case *structpb.Value_NumberValue:
		return term{typ: typeNumber, value: x.NumberValue}, nil
	case *structpb.Value_BoolValue:
		return term{typ: typeBool, value: x.BoolValue}, nil
	}
	return term{}, fmt.Errorf("a value that is no string, number or boolean")
}

// timestamp is CEL's function of that name: RFC 3339 to an instant between the
// years 1 and 9999.
func (b *builder) timestamp(op *operand) (term, error) {
	if v, ok := op.GetValue().GetKind().(*structpb.Value_StringValue); ok {
		at, err := time.Parse(time.RFC3339, v.StringValue)
		if err != nil || at.UnixMicro() < firstMicro || at.UnixMicro() > lastMicro {
			return term{}, fmt.Errorf("timestamp of a text that is none")
		}
		return term{typ: typeTime, value: at}, nil
	}
	if op.GetVariable() == "" {
		return term{}, fmt.Errorf("timestamp of something that is no attribute")
	}
	t, err := b.variable(expand(op.GetVariable()))
	if err == nil && !t.missing && t.typ != typeTime {
		return term{}, fmt.Errorf("timestamp of %s", t)
	}
	return t, err
}

// What CEL's timestamps span, in microseconds.
const (
	firstMicro = -62135596800000000 // 0001-01-01T00:00:00Z
	lastMicro  = 253402300799999999 // 9999-12-31T23:59:59.999999Z
)

func timeSQL(c *column) string {
	return "CASE WHEN " + c.sql + " BETWEEN " + strconv.Itoa(firstMicro) + " AND " + strconv.Itoa(lastMicro) + " THEN " + c.sql + " END"
}

// compareTime compares whole microseconds with an instant that may lie between two.
func (b *builder) compareTime(name string, l, r term) (string, error) {
	at := r.value.(time.Time)
	floor := at.Unix()*1_000_000 + int64(at.Nanosecond()/1000)
	between := at.Nanosecond()%1000 != 0
	left := timeSQL(l.column)
	if between {
		switch name {
		case "eq":
			return "(" + left + " <> " + left + ")", nil // false, or NULL for NULL
		case "ne":
			return "(" + left + " = " + left + ")", nil
		case "lt": // before floor+x is at floor or before
			name = "le"
		case "ge":
			name = "gt"
		}
	}
	return "(" + left + " " + sqlOperator[name] + " " + b.bind(floor) + ")", nil
}
