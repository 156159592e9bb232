package authz

import (
	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// simplify takes out of a condition what keepOperands put in and says nothing:
// `x != x` for an x that every row has, or beside a comparison of the same x,
// which is already unknown where x is missing. Under no negation (positive),
// where unknown and false select alike, any. It also undoes the double negations
// that failClosed makes. Nothing else changes, so that SQL sees the comparisons
// that indexes are for.
func simplify(op *operand, columns map[string]column, positive bool, depth int) *operand {
	e := op.GetExpression()
	if e == nil || depth > maxDepth { // which boolean refuses
		return op
	}
	switch e.GetOperator() {
	case "ne":
		if x := self(op); x != nil && (positive || always(x, columns)) {
			return constant(false)
		}
	case "not":
		if len(e.GetOperands()) == 1 {
			part := simplify(e.GetOperands()[0], columns, false, depth+1)
			if b, ok := truthOf(part); ok {
				return constant(!b)
			}
			if twice := part.GetExpression(); twice.GetOperator() == "not" && len(twice.GetOperands()) == 1 {
				return twice.GetOperands()[0]
			}
			return expression("not", part)
		}
	case "and", "or":
		return simplifyJoin(e, columns, positive, depth)
	}
	return op
}

func simplifyJoin(e *enginev1.PlanResourcesFilter_Expression, columns map[string]column, positive bool, depth int) *operand {
	or := e.GetOperator() == "or"
	var kept []*operand
	for _, sub := range e.GetOperands() {
		sub = simplify(sub, columns, positive, depth+1)
		if b, ok := truthOf(sub); ok {
			if b == or {
				return sub // true or anything, false and anything
			}
			continue
		}
		kept = append(kept, sub)
	}
	if or {
		kept = withoutEchoes(kept)
	}
	switch {
	case len(e.GetOperands()) == 0:
		return expression(e.GetOperator())
	case len(kept) == 0:
		return constant(!or)
	case len(kept) == 1:
		return kept[0]
	}
	return expression(e.GetOperator(), kept...)
}

// withoutEchoes drops each `x != x` beside a comparison that is unknown whenever x is missing.
func withoutEchoes(ops []*operand) []*operand {
	var kept []*operand
	for _, op := range ops {
		x, echo := self(op), false
		for _, other := range ops {
			e := other.GetExpression()
			if x == nil || self(other) != nil || len(e.GetOperands()) != 2 {
				continue
			}
			switch e.GetOperator() {
			case "eq", "in":
				echo = echo || proto.Equal(e.GetOperands()[0], x) || e.GetOperator() == "eq" && proto.Equal(e.GetOperands()[1], x)
			}
		}
		if !echo {
			kept = append(kept, op)
		}
	}
	return kept
}

// self gives the x of `x != x`.
func self(op *operand) *operand {
	e := op.GetExpression()
	if ops := e.GetOperands(); e.GetOperator() == "ne" && len(ops) == 2 && ops[0].GetVariable() != "" && proto.Equal(ops[0], ops[1]) {
		return ops[0]
	}
	return nil
}

// always reports whether every row has the attribute.
func always(x *operand, columns map[string]column) bool {
	name := expand(x.GetVariable())
	if name == "request.resource.id" {
		return true
	}
	attr, ok := attrOf(name)
	c, known := columns[attr]
	return ok && known && !c.nullable
}

func truthOf(op *operand) (value, ok bool) {
	v, ok := op.GetValue().GetKind().(*structpb.Value_BoolValue)
	return ok && v.BoolValue, ok
}

func constant(b bool) *operand {
	return &operand{Node: &enginev1.PlanResourcesFilter_Expression_Operand_Value{Value: structpb.NewBoolValue(b)}}
}

func expression(name string, ops ...*operand) *operand {
	return &operand{Node: &enginev1.PlanResourcesFilter_Expression_Operand_Expression{
		Expression: &enginev1.PlanResourcesFilter_Expression{Operator: name, Operands: ops}}}
}
