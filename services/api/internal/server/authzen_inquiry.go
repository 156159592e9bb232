package server

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/request"
	"github.com/writ-project/writ/pkg/store"
)

// The kind and action that say who may ask about whom.
const (
	authzenKind = "authzen"
	actionCheck = "check"
)

// subjectUser is the one type of subject that there is.
const subjectUser = "user"

// notAsked stands in a decision for an action that a kind does not have, so
// that the names that clients make up do not become subjects and metrics.
const notAsked = "unknown"

// anybody stands in a decision for who is meant by a search for subjects.
const anybody = "*"

// inquiry is one AuthZEN request on its way: what it decides is recorded in one
// batch before it is answered.
type inquiry struct {
	*Server
	caller    *gate.Caller
	at        time.Time
	decisions []*events.Decision
	// others says that the caller may ask about anybody, and so may be told what
	// there is. Nobody else learns from an answer whether a resource that they
	// may not read exists.
	others bool
}

func (s *Server) inquiry(ctx context.Context) *inquiry {
	return &inquiry{Server: s, caller: gate.CallerOf(ctx), at: time.Now()}
}

// person is a subject as the directory knows them in the request's tenant.
type person struct {
	gate.Caller      // as whom the api would decide if they asked themselves
	member      bool // of the tenant
	// unknown is why nothing can be decided about them, if so.
	unknown string
}

const noSuchUser = "this tenant has no such user"

// untold stands for the reasons of which one may tell that a resource exists.
const untold = "denied"

// person makes a subject of a row of the directory. Who is no member of the
// tenant is not told apart from who is nobody anywhere.
func (q *inquiry) person(ctx context.Context, u *user.User) *person {
	p := &person{member: len(u.Tenants[q.caller.Tenant].Roles) > 0}
	p.Caller = gate.Caller{Principal: u.Principal(u.ID, q.caller.Tenant, request.Info(ctx), q.at), Tenant: q.caller.Tenant, User: u}
	if !p.member {
		p.unknown = noSuchUser
	}
	return p
}

// stranger is a subject whom the directory does not know.
func (q *inquiry) stranger(ctx context.Context, id, why string) *person {
	p := q.person(ctx, &user.User{Meta: kind.Meta{ID: id}})
	p.unknown = why
	return p
}

// find looks a subject up by id or e-mail address.
func (q *inquiry) find(ctx context.Context, e entity) (*person, error) {
	address := strings.Contains(e.id, "@")
	switch {
	case e.typ != subjectUser:
		return q.stranger(ctx, e.typ+":"+e.id, fmt.Sprintf("there are no subjects of type %q", e.typ)), nil
	case address:
		page, err := q.Store.List(ctx, user.Kind, store.Query{
			Tenant: q.caller.Tenant, Limit: 1,
			Where: store.Where{SQL: `lower("email") = ? AND "email" <> ''`, Args: []any{lowerASCII(e.id)}}, // as the unique index has it
		})
		if err != nil {
			return nil, err
		}
		if len(page.Items) > 0 {
			return q.person(ctx, page.Items[0].Value.(*user.User)), nil
		}
		return q.stranger(ctx, "unknown", noSuchUser), nil // the ledger holds no addresses
	}
	row, err := q.Store.Get(ctx, user.Kind, e.id)
	if fault.Is(err, fault.NotFound) {
		return q.stranger(ctx, e.id, noSuchUser), nil
	}
	if err != nil {
		return nil, err
	}
	return q.person(ctx, row.Value.(*user.User)), nil
}

// lowerASCII is lower() as both databases have it.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// subjects finds the subjects of evaluations, each once, and makes sure that
// the caller may ask about all of them. They come in the entities' order.
func (q *inquiry) subjects(ctx context.Context, entities []entity) ([]*person, error) {
	type key struct{ typ, id string }
	asked, byID := map[key]*person{}, map[string]*person{}
	out := make([]*person, len(entities))
	var ids []string
	for i, e := range entities {
		k := key{e.typ, e.id}
		if asked[k] == nil {
			p, err := q.find(ctx, e)
			if err != nil {
				return nil, err
			}
			if same := byID[p.ID]; same != nil {
				p = same // by id and by address
			} else {
				byID[p.ID], ids = p, append(ids, p.ID)
			}
			asked[k] = p
		}
		out[i] = asked[k]
	}
	return out, q.mayAsk(ctx, ids...)
}

// subject is subjects for one.
func (q *inquiry) subject(ctx context.Context, e entity) (*person, error) {
	all, err := q.subjects(ctx, []entity{e})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// mayAsk decides whether the caller may ask about subjects; the error is a
// denial, recorded, for the first of whom they may not.
func (q *inquiry) mayAsk(ctx context.Context, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	items := make([]authz.Item, len(ids)+1)
	for i, id := range append(slices.Clone(ids), anybody) {
		items[i] = authz.Item{
			Resource: events.Resource{Kind: authzenKind, ID: id, Attr: map[string]any{"subject": id, "tenant": q.caller.Tenant}},
			Actions:  []string{actionCheck},
		}
	}
	all, answers, err := q.check(ctx, q.caller, items[:len(ids)], items[len(ids)])
	if err != nil {
		return err
	}
	q.others = answers[len(ids)].For(actionCheck).Effect == events.Allow
	for _, d := range all {
		if d.Effect != events.Allow {
			if err := q.recordAll(ctx, q.decisions); err != nil {
				return err
			}
			return denied(d)
		}
	}
	return nil
}

// check asks about items in one call, as a principal. There is a decision for
// the first action of each. What else is asked, more actions and more items,
// only bounds what the caller is told: it permits nothing and is not recorded.
func (q *inquiry) check(ctx context.Context, as *gate.Caller, items []authz.Item, more ...authz.Item) ([]*events.Decision, []authz.Answer, error) {
	answers, err := q.Authz.CheckAll(ctx, authz.Batch{
		Principal: as.Principal, Items: slices.Concat(items, more), Tenant: as.Tenant, Scope: authz.TenantScope(as.Tenant),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("authorize %d resources: %w", len(items)+len(more), err)
	}
	out := make([]*events.Decision, len(items))
	for i, item := range items {
		if out[i], err = newDecision(ctx, as, item.Resource, item.Actions[0]); err != nil {
			return nil, nil, err
		}
		fill(out[i], answers[i], answers[i].For(item.Actions[0]))
	}
	q.keep(out...)
	return out, answers, nil
}

// keep has decisions recorded, with who asked where that is not the principal.
func (q *inquiry) keep(all ...*events.Decision) {
	for _, d := range all {
		if d.Principal.ID != q.caller.ID {
			d.Asker = q.caller.ID
		}
	}
	q.decisions = append(q.decisions, all...)
}

// refuse is a denial without the policy: of what there is not.
func (q *inquiry) refuse(ctx context.Context, as *gate.Caller, res events.Resource, action, why string) (*events.Decision, error) {
	d, err := newDecision(ctx, as, res, action)
	if err != nil {
		return nil, err
	}
	d.Effect, d.EvaluatedAt = events.Deny, q.at.UTC()
	d.Policy = events.Policy{Revision: q.Authz.Revision(), Reason: why}
	q.keep(d)
	return d, nil
}

// vocabulary finds the kind of a resource and refuses what the kind or its
// actions are not: the decision is nil if there is something to ask.
func (q *inquiry) vocabulary(ctx context.Context, as *gate.Caller, res entity, action string) (*kind.Definition, *events.Decision, error) {
	def, ok := q.kindNamed(res.typ)
	if !ok {
		d, err := q.refuse(ctx, as, events.Resource{Kind: authzenKind, ID: res.id}, notAsked, fmt.Sprintf("there are no resources of type %q", res.typ))
		return nil, d, err
	}
	if !slices.Contains(actionsOf(def), action) {
		d, err := q.refuse(ctx, as, events.Resource{Kind: def.Name, ID: res.id}, notAsked, fmt.Sprintf("a %s has no action %q", def.Name, action))
		return nil, d, err
	}
	return def, nil, nil
}

// rows reads the resources of a kind that are in the caller's tenant.
func (q *inquiry) rows(ctx context.Context, def *kind.Definition, ids []string) (map[string]kind.Row, error) {
	slices.Sort(ids)
	ids = slices.Compact(ids)
	out := make(map[string]kind.Row, len(ids))
	for part := range slices.Chunk(ids, store.MaxLimit) {
		args := make([]any, len(part))
		for i, id := range part {
			args[i] = id
		}
		marks := "?" + strings.Repeat(", ?", len(part)-1)
		page, err := q.Store.List(ctx, def, store.Query{
			Tenant: q.caller.Tenant, Sort: "id", Limit: store.MaxLimit, Where: store.Where{SQL: `"id" IN (` + marks + ")", Args: args},
		})
		if err != nil {
			return nil, err
		}
		for _, row := range page.Items {
			out[row.ID] = row
		}
	}
	return out, nil
}

// resource makes what is asked about: the row, or, where there is none, what
// the request says about it. What is to be created is never a row, whatever id
// it is given: no answer about it says what there is.
func (q *inquiry) resource(ctx context.Context, p *person, def *kind.Definition, row *kind.Row, a *asked, given properties) (events.Resource, error) {
	res := events.Resource{Kind: def.Name, ID: a.resource.id}
	changes, create := a.action.changes, a.action.name == kind.ActionCreate
	if row != nil && !create {
		res.Version, res.Attr = row.Version, def.Attrs(*row)
	} else {
		attr, err := q.supposed(ctx, p, def, given, create)
		if err != nil {
			return res, err
		}
		res.Attr = attr
		if create && changes == nil {
			changes = given.names
		}
	}
	if create || a.action.name == kind.ActionUpdate {
		names := make([]any, len(changes))
		for i, n := range changes {
			names[i] = n
		}
		res.Attr["changes"] = names
	}
	return res, nil
}

// properties are what a request says about a resource, as a body of its kind.
type properties struct {
	body  json.RawMessage
	names []string
}

func unfit(def *kind.Definition) *fault.Error {
	return badMember("body.resource.properties", "they do not fit a %s", def.Name)
}

// propertiesOf reads what the request says about a resource. Whether it fits the
// kind does not depend on whether there is such a resource.
func (e entity) propertiesOf(def *kind.Definition) (properties, error) {
	given := members{}
	for _, name := range def.AttrNames() {
		if v := e.properties[name]; v != nil && name != "tenant" {
			given[name] = v
		}
	}
	body, err := json.Marshal(given)
	if err != nil {
		return properties{}, fmt.Errorf("encode properties: %w", err)
	}
	if _, err := def.Decode(body); err != nil {
		return properties{}, unfit(def)
	}
	names, err := kind.Names(body)
	if err != nil {
		return properties{}, unfit(def)
	}
	return properties{body, names}, nil
}

// supposed gives the attributes of a resource that does not exist, as far as
// the request tells. One that is to be created is given what the api would give
// it: its owner, what it inherits, its defaults.
func (q *inquiry) supposed(ctx context.Context, p *person, def *kind.Definition, given properties, create bool) (map[string]any, error) {
	body, blank := given.body, def.Attrs(def.New())
	if create {
		var err error
		if body, err = (&resources{Server: q.Server, def: def}).complete(ctx, &p.Caller, body); err != nil {
			return nil, err
		}
	}
	row, err := def.Decode(body)
	if err != nil {
		return nil, unfit(def)
	}
	have, err := kind.Names(body)
	if err != nil {
		return nil, unfit(def)
	}
	attr := map[string]any{}
	for name, v := range def.Attrs(row) {
		isDefault := create && blank[name] != nil && !reflect.ValueOf(blank[name]).IsZero()
		if isDefault || slices.Contains(have, name) { // a zero that nobody named is no attribute: policies must not take it for one
			attr[name] = v
		}
	}
	if owner, _ := attr["owner_id"].(string); owner == "" && create {
		attr["owner_id"] = p.ID
	}
	attr["tenant"] = q.caller.Tenant
	return attr, nil
}
