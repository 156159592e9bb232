package authz

import (
	"bytes"
	"encoding/json"

	runtimev1 "github.com/cerbos/cerbos/api/genpb/cerbos/runtime/v1"
	exprpb "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
)

// readIndex knows what the expressions of each compiled rule can see of a
// question, derived roles counted with every rule.
type readIndex struct {
	rules []ruleReads
	all   Reads
}

type ruleReads struct {
	resource, action name
	reads            Reads
}

func indexReads(t *runtimev1.RuleTable) readIndex {
	var index readIndex
	shared := (*reader)(&index.all)
	for _, p := range t.GetPolicyDerivedRoles() {
		for _, d := range p.GetDerivedRoles() {
			readCondition(shared, d.GetCondition())
			for _, v := range d.GetOrderedVariables() {
				readCompiled(shared, v.GetExpr())
			}
		}
	}
	for _, row := range t.GetRules() {
		var reads Reads
		r := (*reader)(&reads)
		readRule(r, row)
		index.rules = append(index.rules, ruleReads{nameOf(row.GetResource()), actionOf(row), reads})
	}
	return index
}

func (x readIndex) of(kind, action string) Reads {
	reads := x.all
	for _, r := range x.rules {
		if r.resource.covers(nameOf(kind)) && r.action.covers(nameOf(action)) {
			reads.ResourceID = reads.ResourceID || r.reads.ResourceID
			reads.Request = reads.Request || r.reads.Request
			reads.Clock = reads.Clock || r.reads.Clock
		}
	}
	return reads
}

// reader collects what expressions read.
type reader Reads

func (r *reader) everything() { *r = reader{ResourceID: true, Request: true, Clock: true} }

func (r *reader) expr(e *exprpb.Expr) {
	switch k := e.GetExprKind().(type) {
	case *exprpb.Expr_IdentExpr:
		r.whole(k.IdentExpr.GetName())
	case *exprpb.Expr_SelectExpr:
		r.selection(e, k.SelectExpr)
	case *exprpb.Expr_CallExpr:
		if f := k.CallExpr.GetFunction(); f == "now" || f == "timeSince" {
			r.Clock = true
		}
		r.expr(k.CallExpr.GetTarget())
		for _, a := range k.CallExpr.GetArgs() {
			r.expr(a)
		}
	case *exprpb.Expr_ListExpr:
		for _, x := range k.ListExpr.GetElements() {
			r.expr(x)
		}
	case *exprpb.Expr_StructExpr:
		for _, x := range k.StructExpr.GetEntries() {
			r.expr(x.GetMapKey())
			r.expr(x.GetValue())
		}
	case *exprpb.Expr_ComprehensionExpr:
		c := k.ComprehensionExpr
		for _, x := range []*exprpb.Expr{c.GetIterRange(), c.GetAccuInit(), c.GetLoopCondition(), c.GetLoopStep(), c.GetResult()} {
			r.expr(x)
		}
	}
}

// whole is for a name that stands alone: all below it is read.
func (r *reader) whole(name string) {
	switch name {
	case "R":
		r.ResourceID = true
	case "P":
		r.Request = true
	case "request":
		r.ResourceID, r.Request = true, true
	}
}

func (r *reader) selection(e *exprpb.Expr, s *exprpb.Expr_Select) {
	switch root, path := selected(e); root {
	case "R.attr":
	case "P.attr":
		r.Request = r.Request || path[0] == "request"
	case "R":
		r.ResourceID = r.ResourceID || path[0] == "id"
	case "P":
		r.Request = r.Request || path[0] == "attr" // all of them
	case "request":
		switch path[0] {
		case "resource":
			r.whole("R")
		case "principal":
			r.whole("P")
		}
	default:
		r.expr(s.GetOperand())
	}
}

// schemasJudge reports whether a schema in dir could tell two requests' times or
// addresses apart: it says more of the attribute request than that its members
// are strings, or says it in a way that is not looked into here.
func schemasJudge(dir string) (judge bool, err error) {
	err = eachSchema(dir, func(b []byte) { judge = judge || !harmless(b) })
	return judge, err
}

// plainSchema reads a schema that only says which properties there are, and of
// which type: ok is false for any other, which may judge anything.
func plainSchema(schema []byte) (top map[string]json.RawMessage, ok bool) {
	if json.Unmarshal(schema, &top) != nil {
		return nil, false
	}
	for keyword := range top {
		switch keyword {
		case "$schema", "$id", "title", "description", "type", "properties", "required", "additionalProperties":
		default:
			return nil, false
		}
	}
	rest := top["additionalProperties"]
	return top, rest == nil || bytes.Equal(rest, []byte("true")) || bytes.Equal(rest, []byte("false"))
}

func harmless(schema []byte) bool {
	top, ok := plainSchema(schema)
	if !ok {
		return false
	}
	var properties map[string]json.RawMessage
	if top["properties"] != nil && json.Unmarshal(top["properties"], &properties) != nil {
		return false
	}
	if properties["request"] == nil {
		return true
	}
	var request struct {
		Type       string `json:"type"`
		Properties map[string]struct {
			Type string `json:"type"`
		} `json:"properties"`
	}
	d := json.NewDecoder(bytes.NewReader(properties["request"]))
	d.DisallowUnknownFields()
	return d.Decode(&request) == nil
}
