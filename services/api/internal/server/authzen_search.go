package server

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/store"
)

// Limits of a search.
const (
	defaultResults = 50
	maxResults     = 100 // on one page
	maxToken       = 4096
	// A page of subjects may be short, even empty, and not the last: so many
	// users are looked at for one, in so many reads.
	maxUsers     = 400
	maxUserReads = 16
	// usersAtOnce is how many users are asked about side by side.
	usersAtOnce = 8
)

// pageToken says where the next page starts and of which search.
type pageToken struct {
	Of    string  `json:"of"`
	Limit float64 `json:"limit"`
	At    string  `json:"at"`
}

func (t pageToken) String() string {
	b, _ := json.Marshal(t) // never fails: texts and a number that came as JSON
	return base64.RawURLEncoding.EncodeToString(b)
}

// page reads which page of a search is asked for. A token is good for the
// search that gave it and no other.
func (m members) page(route, tenant string) (t pageToken, err error) {
	p, err := m.object("body", "page")
	if err != nil {
		return t, err
	}
	properties, err := p.object("body.page", "properties")
	if err != nil {
		return t, err
	}
	if properties == nil {
		properties = members{}
	}
	b, err := json.Marshal([]any{route, tenant, m["subject"], m["action"], m["resource"], m["context"], properties})
	if err != nil {
		return t, fmt.Errorf("encode the search: %w", err)
	}
	sum := sha256.Sum256(b)
	t = pageToken{Of: base64.RawURLEncoding.EncodeToString(sum[:16]), Limit: defaultResults}
	limit, limited := p["limit"].(float64)
	switch {
	case p["limit"] == nil:
	case !limited || limit < 0 || limit != math.Trunc(limit) || limit >= 1<<53:
		return t, badMember("body.page.limit", "want a whole number, not below 0")
	default:
		t.Limit = limit
	}
	token, isText := p["token"].(string)
	if p["token"] == nil || isText && token == "" {
		return t, nil
	}
	b, err = base64.RawURLEncoding.DecodeString(token)
	var before pageToken
	if err != nil || len(token) > maxToken || json.Unmarshal(b, &before) != nil {
		return t, errToken()
	}
	if before.Of != t.Of || limited && before.Limit != t.Limit || before.Limit < 0 {
		return t, badMember("body.page.token", "it is another search's")
	}
	return before, nil
}

func errToken() error { return badMember("body.page.token", "want next_token of the page before") }

// limit is how many results the page may hold.
func (t pageToken) limit() int { return int(min(t.Limit, maxResults)) }

// next is the token of the page that starts at a place; none for none.
func (t pageToken) next(at string) string {
	if at == "" {
		return ""
	}
	t.At = at
	return t.String()
}

// found makes the answer.
func found[T any](results []T, next string, about *AuthzenContext) *bodyOutput[AuthzenResults[T]] {
	out := &bodyOutput[AuthzenResults[T]]{AuthzenResults[T]{Page: AuthzenPage{next, len(results)}, Results: results}}
	if results == nil {
		out.Body.Results = []T{}
	}
	out.Body.Context = about
	return out
}

// searchResources gives the resources that a query plan selects.
func (s *Server) searchResources(ctx context.Context, in *authzenInput) (*bodyOutput[AuthzenResults[AuthzenEntity]], error) {
	q := s.inquiry(ctx)
	m, err := readMembers(in.RawBody)
	if err != nil {
		return nil, err
	}
	subject, err := m.entity("body", "subject", false)
	if err != nil {
		return nil, err
	}
	a, err := m.action("body")
	if err != nil {
		return nil, err
	}
	resource, err := m.entity("body", "resource", true)
	if err != nil {
		return nil, err
	}
	page, err := m.page(authzenSearchResource, q.caller.Tenant)
	if err != nil {
		return nil, err
	}
	p, err := q.subject(ctx, subject)
	if err != nil {
		return nil, err
	}
	def, d, err := q.vocabulary(ctx, &p.Caller, resource, a.name)
	if err != nil {
		return nil, err
	}
	if d == nil && p.unknown != "" {
		if d, err = q.refuse(ctx, &p.Caller, events.Resource{Kind: def.Name}, a.name, p.unknown); err != nil {
			return nil, err
		}
	}
	if d != nil {
		return found[AuthzenEntity](nil, "", contextOf(d)), q.recordAll(ctx, q.decisions)
	}
	plan, d, err := q.plan(ctx, p, def, a)
	if err != nil {
		return nil, err
	}
	filter, err := plan.Filter(def, string(q.Store.Dialect()))
	if err != nil {
		return nil, err // a plan that we cannot turn into SQL exactly: no rows
	}
	if err := q.recordAll(ctx, q.decisions); err != nil {
		return nil, err
	}
	switch {
	case filter.Kind == authz.Never:
		return found[AuthzenEntity](nil, "", contextOf(d)), nil
	case page.limit() == 0:
		return found[AuthzenEntity](nil, page.String(), contextOf(d)), nil
	}
	list, err := q.page(ctx, plan, def, store.Query{
		Tenant: q.caller.Tenant, Where: store.Where{SQL: filter.SQL, Args: filter.Args}, Cursor: page.At, Limit: page.limit(),
	}, func(rows []kind.Row) ([]bool, error) { return q.allowedRows(ctx, p, def, a, rows) })
	if fault.Is(err, fault.Invalid) {
		return nil, errToken()
	}
	if err != nil {
		return nil, err
	}
	results := make([]AuthzenEntity, len(list.Items))
	for i, row := range list.Items {
		results[i] = AuthzenEntity{def.Name, row.ID}
	}
	return found(results, page.next(list.NextCursor), contextOf(d)), nil
}

// allowedRows checks what a plan selected as the plan was asked for, and records that.
func (q *inquiry) allowedRows(ctx context.Context, p *person, def *kind.Definition, a action, rows []kind.Row) ([]bool, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	items := make([]authz.Item, len(rows))
	for i, row := range rows {
		r := events.Resource{Kind: def.Name, ID: row.ID, Version: row.Version, Attr: def.Attrs(row)}
		if a.name == kind.ActionCreate || a.name == kind.ActionUpdate {
			r.Attr["changes"] = append([]string{}, a.changes...)
		}
		items[i] = authz.Item{Resource: r, Actions: []string{a.name}}
	}
	decisions, _, err := q.check(ctx, &p.Caller, items)
	if err != nil {
		return nil, err
	}
	out := make([]bool, len(rows))
	for i, d := range decisions {
		out[i] = d.Effect == events.Allow
	}
	return out, q.recordAll(ctx, decisions)
}

// plan asks which resources a subject may do the action to.
func (q *inquiry) plan(ctx context.Context, p *person, def *kind.Definition, a action) (authz.Plan, *events.Decision, error) {
	attr := map[string]any{"tenant": p.Tenant}
	if a.name == kind.ActionCreate || a.name == kind.ActionUpdate {
		attr["changes"] = append([]string{}, a.changes...)
	}
	plan, err := q.Authz.Plan(ctx, authz.PlanRequest{
		Principal: p.Principal, Kind: def.Name, Action: a.name, Attr: attr, Tenant: p.Tenant, Scope: authz.TenantScope(p.Tenant),
	})
	if err != nil {
		return plan, nil, fmt.Errorf("plan %s of %s: %w", a.name, def.Name, err)
	}
	d, err := planDecision(ctx, &p.Caller, def, plan)
	if err != nil {
		return plan, nil, err
	}
	q.keep(d)
	return plan, d, nil
}

// searchActions gives the actions of the resource's kind that the policy allows.
func (s *Server) searchActions(ctx context.Context, in *authzenInput) (*bodyOutput[AuthzenResults[AuthzenAction]], error) {
	q := s.inquiry(ctx)
	m, err := readMembers(in.RawBody)
	if err != nil {
		return nil, err
	}
	var e evaluation
	if e.subject, err = m.entity("body", "subject", false); err != nil {
		return nil, err
	}
	if e.resource, err = m.entity("body", "resource", false); err != nil {
		return nil, err
	}
	page, err := m.page(authzenSearchAction, q.caller.Tenant)
	if err != nil {
		return nil, err
	}
	first := 0
	if page.At != "" {
		if first, err = strconv.Atoi(page.At); err != nil || first < 0 {
			return nil, errToken()
		}
	}
	var all []asked
	if def, ok := s.kindNamed(e.resource.typ); ok {
		for _, name := range actionsOf(def) {
			e.action = action{name: name}
			all = append(all, asked{evaluation: e})
		}
	} else {
		e.action = action{name: notAsked}
		all = []asked{{evaluation: e}} // to be refused, and recorded
	}
	if all, err = s.evaluate(ctx, all, executeAll); err != nil {
		return nil, err
	}
	var allowed []AuthzenAction
	for _, a := range all {
		if a.fault != nil {
			return nil, a.fault
		}
		if a.answer.Decision {
			allowed = append(allowed, AuthzenAction{a.action.name})
		}
	}
	first = min(first, len(allowed))
	last, next := min(first+page.limit(), len(allowed)), ""
	if last < len(allowed) {
		next = page.next(strconv.Itoa(last))
	}
	var why *AuthzenContext
	if len(allowed) == 0 {
		why = all[0].answer.Context
	}
	return found(allowed[first:last], next, why), nil
}

// searchSubjects looks through the users of the tenant.
func (s *Server) searchSubjects(ctx context.Context, in *authzenInput) (*bodyOutput[AuthzenResults[AuthzenEntity]], error) {
	q := s.inquiry(ctx)
	m, err := readMembers(in.RawBody)
	if err != nil {
		return nil, err
	}
	subject, err := m.entity("body", "subject", true)
	if err != nil {
		return nil, err
	}
	a, err := m.action("body")
	if err != nil {
		return nil, err
	}
	resource, err := m.entity("body", "resource", false)
	if err != nil {
		return nil, err
	}
	page, err := m.page(authzenSearchSubject, q.caller.Tenant)
	if err != nil {
		return nil, err
	}
	if err := q.mayAsk(ctx, anybody); err != nil {
		return nil, err
	}
	def, d, err := q.vocabulary(ctx, q.caller, resource, a.name)
	if err != nil {
		return nil, err
	}
	if d == nil && subject.typ != subjectUser {
		why := fmt.Sprintf("there are no subjects of type %q", subject.typ)
		if d, err = q.refuse(ctx, q.caller, events.Resource{Kind: authzenKind, ID: anybody}, notAsked, why); err != nil {
			return nil, err
		}
	}
	if d != nil {
		return found[AuthzenEntity](nil, "", contextOf(d)), q.recordAll(ctx, q.decisions)
	}
	if page.limit() == 0 {
		return found[AuthzenEntity](nil, page.String(), nil), q.recordAll(ctx, q.decisions)
	}
	rows, err := q.rows(ctx, def, []string{resource.id})
	if err != nil {
		return nil, err
	}
	results, next, err := q.allowed(ctx, asked{evaluation: evaluation{action: a, resource: resource}}, map[string]map[string]kind.Row{def.Name: rows}, page)
	if err != nil {
		return nil, err
	}
	return found(results, page.next(next), nil), q.recordAll(ctx, q.decisions)
}

// allowed looks through a bounded number of the tenant's users for those who
// are allowed what is asked.
func (q *inquiry) allowed(ctx context.Context, about asked, rows map[string]map[string]kind.Row, page pageToken) ([]AuthzenEntity, string, error) {
	var out []AuthzenEntity
	cursor := page.At
	for seen, reads := 0, 0; reads < maxUserReads && seen < maxUsers; reads++ {
		list, err := q.Store.List(ctx, user.Kind, store.Query{
			Tenant: q.caller.Tenant, Cursor: cursor, Limit: min(page.limit()-len(out), maxUsers-seen),
		})
		if fault.Is(err, fault.Invalid) {
			return nil, "", errToken()
		}
		if err != nil {
			return nil, "", err
		}
		allowed, err := q.each(ctx, list.Items, about, rows)
		if err != nil {
			return nil, "", err
		}
		for i, row := range list.Items {
			if allowed[i] {
				out = append(out, AuthzenEntity{subjectUser, row.ID})
			}
		}
		if cursor = list.NextCursor; cursor == "" || len(out) == page.limit() {
			break
		}
		seen += len(list.Items)
	}
	return out, cursor, nil
}

// each asks about users side by side: each is a principal and so a call of its own.
func (q *inquiry) each(ctx context.Context, users []kind.Row, about asked, rows map[string]map[string]kind.Row) ([]bool, error) {
	parts := make([]inquiry, len(users))
	out := make([]bool, len(users))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(usersAtOnce)
	for i, row := range users {
		parts[i] = inquiry{Server: q.Server, caller: q.caller, at: q.at, others: q.others}
		p := q.person(ctx, row.Value.(*user.User))
		if !p.member {
			continue
		}
		g.Go(func() error {
			a := about
			if err := parts[i].settle(gctx, p, []*asked{&a}, rows); err != nil {
				return err
			}
			if a.fault != nil {
				return a.fault
			}
			out[i] = a.answer.Decision
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, part := range parts {
		q.decisions = append(q.decisions, part.decisions...)
	}
	return out, nil
}
