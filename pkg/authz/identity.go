package authz

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	runtimev1 "github.com/cerbos/cerbos/api/genpb/cerbos/runtime/v1"
	exprpb "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
)

// Identity tells how the policies about an action on a kind see who the
// principal is. Most ask only whether an id is the principal's: then one
// principal is like another, and so is what each of them owns.
type Identity struct {
	// Hidden says that P.id is compared (== and !=) with the attributes Attr, R.id
	// and constants, and seen in no other way.
	Hidden bool
	// Attr are the resource attributes that P.id is compared with.
	Attr []string
	// OpaqueID says that R.id is compared with P.id and constants, if at all.
	OpaqueID bool

	seen  map[string]bool
	attrs bool // any attribute
	index *identityIndex
}

// Opaque reports whether a resource's attribute is compared with P.id and
// constants and tested with has(), if at all, and schemas want text there and no
// more.
func (i Identity) Opaque(name string) bool {
	return i.index != nil && !i.attrs && !i.seen[name] && !i.index.all && !i.index.judged[name]
}

// Ordinary reports whether an id equals no constant in the policies and no
// principal has a policy by that name.
func (i Identity) Ordinary(id string) bool {
	return i.index != nil && !i.index.constants[id] && !i.index.principals[bare(id)]
}

// Identity tells how the policies about an action on a kind see who the
// principal is. It errs on the side of seeing.
func (c *Candidate) Identity(kind, action string) Identity { return c.identity.of(kind, action) }

// bare is what is left of an id by all ways of writing it: Cerbos replaces some characters.
func bare(id string) string {
	b := make([]byte, 0, 64)
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			b = append(b, c)
		case 'A' <= c && c <= 'Z':
			b = append(b, c+'a'-'A')
		}
	}
	return string(b)
}

// identityIndex knows what each rule does with ids.
type identityIndex struct {
	rules      []ruleIDs
	constants  map[string]bool // all strings in the policies
	principals map[string]bool // bare
	judged     map[string]bool // attributes of which a schema wants more than text
	all        bool            // a schema may want anything
}

type ruleIDs struct {
	resource, action name
	ids              idUse
}

// idUse is how expressions use ids.
type idUse struct {
	principal, resource, attrs bool            // P.id, R.id, any attribute: seen otherwise than compared
	compared                   map[string]bool // attributes that P.id is compared with
	seen                       map[string]bool // attributes that are seen otherwise
}

func indexIdentity(t *runtimev1.RuleTable, dir string) (*identityIndex, error) {
	x := &identityIndex{constants: map[string]bool{}, principals: map[string]bool{}, judged: map[string]bool{}}
	for _, row := range t.GetRules() {
		r := idReader{constants: x.constants, idUse: idUse{compared: map[string]bool{}, seen: map[string]bool{}}}
		readRule(&r, row)
		if id := row.GetPrincipal(); id != "" {
			x.principals[bare(id)] = true
		}
		x.rules = append(x.rules, ruleIDs{nameOf(row.GetResource()), actionOf(row), r.idUse})
	}
	return x, x.readSchemas(dir)
}

func (x *identityIndex) of(kind, action string) Identity {
	use := idUse{compared: map[string]bool{}, seen: map[string]bool{"tenant": true}} // which Batch looks at
	for _, r := range x.rules {
		if !r.resource.covers(nameOf(kind)) || !r.action.covers(nameOf(action)) {
			continue
		}
		use.principal = use.principal || r.ids.principal
		use.resource = use.resource || r.ids.resource
		use.attrs = use.attrs || r.ids.attrs
		for name := range r.ids.compared {
			use.compared[name] = true
		}
		for name := range r.ids.seen {
			use.seen[name] = true
		}
	}
	return Identity{Hidden: !use.principal, Attr: slices.Sorted(maps.Keys(use.compared)), OpaqueID: !use.resource, seen: use.seen, attrs: use.attrs, index: x}
}

// idReader collects how expressions use ids.
type idReader struct {
	idUse
	constants map[string]bool
}

func (r *idReader) everything() { r.principal, r.resource, r.attrs = true, true, true }

func (r *idReader) expr(e *exprpb.Expr) {
	switch k := e.GetExprKind().(type) {
	case *exprpb.Expr_ConstExpr:
		if s, ok := k.ConstExpr.GetConstantKind().(*exprpb.Constant_StringValue); ok {
			r.constants[s.StringValue] = true
		}
	case *exprpb.Expr_IdentExpr:
		r.whole(k.IdentExpr.GetName())
	case *exprpb.Expr_SelectExpr:
		r.selection(e, k.SelectExpr)
	case *exprpb.Expr_CallExpr:
		f, args := k.CallExpr.GetFunction(), k.CallExpr.GetArgs()
		if (f == "_==_" || f == "_!=_") && len(args) == 2 && (r.compares(args[0], args[1]) || r.compares(args[1], args[0])) {
			return
		}
		r.expr(k.CallExpr.GetTarget())
		for _, a := range args {
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
		for _, v := range []string{c.GetIterVar(), c.GetIterVar2(), c.GetAccuVar()} {
			if v == "P" || v == "R" || v == "request" { // which would be taken for the other below
				r.everything()
			}
		}
		for _, x := range []*exprpb.Expr{c.GetIterRange(), c.GetAccuInit(), c.GetLoopCondition(), c.GetLoopStep(), c.GetResult()} {
			r.expr(x)
		}
	}
}

// compares reports whether a is P.id or a constant and b an id or a constant,
// and takes note of it.
func (r *idReader) compares(a, b *exprpb.Expr) bool {
	root, path := selected(a)
	principal := root == "P" && len(path) == 1 && path[0] == "id" && !a.GetSelectExpr().GetTestOnly()
	if !principal && a.GetConstExpr() == nil {
		return false
	}
	if b.GetConstExpr() == nil {
		switch root, path := selected(b); {
		case b.GetSelectExpr().GetTestOnly() || len(path) != 1:
			return false
		case root == "R.attr":
			if principal {
				r.compared[path[0]] = true
			}
		case (root == "R" || root == "P") && path[0] == "id":
		default:
			return false
		}
	}
	for _, x := range []*exprpb.Expr{a, b} {
		if x.GetConstExpr() != nil {
			r.expr(x)
		}
	}
	return true
}

// whole is for a name that stands alone: all below it is used.
func (r *idReader) whole(name string) {
	switch name {
	case "R":
		r.resource, r.attrs = true, true
	case "P":
		r.principal = true
	case "request", "runtime": // the derived roles follow from ids
		r.everything()
	}
}

func (r *idReader) selection(e *exprpb.Expr, s *exprpb.Expr_Select) {
	switch root, path := selected(e); root {
	case "R.attr":
		if !s.GetTestOnly() || len(path) > 1 {
			r.seen[path[0]] = true
		}
	case "R":
		r.resource = r.resource || path[0] == "id"
		r.attrs = r.attrs || path[0] == "attr"
	case "P":
		r.principal = r.principal || path[0] == "id"
	case "P.attr":
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

// readSchemas finds the attributes of which a schema wants more than text.
func (x *identityIndex) readSchemas(dir string) error {
	return eachSchema(dir, func(b []byte) {
		top, ok := plainSchema(b)
		var properties map[string]map[string]any
		if !ok || top["properties"] != nil && json.Unmarshal(top["properties"], &properties) != nil {
			x.all = true
			return
		}
		for name, want := range properties {
			for keyword, v := range want {
				switch {
				case keyword == "title", keyword == "description", keyword == "type" && v == "string", keyword == "minLength" && (v == 0.0 || v == 1.0):
				default:
					x.judged[name] = true
				}
			}
		}
	})
}

// eachSchema reads the schemas in a folder of policies.
func eachSchema(dir string, look func([]byte)) error {
	err := fs.WalkDir(os.DirFS(dir), "_schemas", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err) && name == "_schemas":
			return fs.SkipAll // none at all
		case err != nil || entry.IsDir():
			return err
		}
		b, err := fs.ReadFile(os.DirFS(dir), name)
		if err == nil {
			look(b)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read policies in %s: %w", dir, err)
	}
	return nil
}
