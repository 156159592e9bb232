package server

import (
	"context"
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/store"
)

type listInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
	Cursor string `query:"cursor" doc:"next_cursor of the page before" maxLength:"2048"`
	Q      string `query:"q" doc:"Part of a name, an e-mail address or the like; case does not matter" maxLength:"200"`
	Sort   string `query:"sort" doc:"A field to sort by; - before it for descending" default:"created_at" maxLength:"64"`

	filters map[string]string
}

// Resolve implements huma.Resolver: the filters' names depend on the kind.
func (in *listInput) Resolve(ctx huma.Context) []error {
	in.filters = map[string]string{}
	known := map[string]bool{}
	for _, p := range ctx.Operation().Parameters {
		if p.In == "query" {
			known[p.Name] = p.Extensions[filterMark] != nil
		}
	}
	var errs []error
	u := ctx.URL()
	for name, values := range u.Query() {
		filter, ok := known[name]
		switch {
		case !ok:
			errs = append(errs, &huma.ErrorDetail{Location: "query." + name, Message: "unknown query parameter"})
		case len(values) > 1:
			errs = append(errs, &huma.ErrorDetail{Location: "query." + name, Message: "given more than once"})
		case filter:
			in.filters[name] = values[0]
		}
	}
	return errs
}

// filterMark marks the parameters of an operation that are filters on fields.
const filterMark = "x-writ-filter"

type listOutput struct {
	Body struct {
		Items      any    `json:"items"`
		NextCursor string `json:"next_cursor,omitempty" doc:"Absent on the last page"`
	}
}

func (k *resources) list(ctx context.Context, in *listInput) (*listOutput, error) {
	c := callerOf(ctx)
	equals, err := k.equals(in.filters)
	if err != nil {
		return nil, err
	}
	plan, err := k.Authz.Plan(ctx, authz.PlanRequest{Principal: c.Principal, Kind: k.def.Name, Action: kind.ActionList, Tenant: c.Tenant})
	if err != nil {
		return nil, err
	}
	filter, err := plan.Filter(k.def, string(k.Store.Dialect()))
	if err != nil {
		return nil, err // a plan that we cannot turn into SQL exactly: no rows
	}
	d, err := newDecision(ctx, c, events.Resource{Kind: k.def.Name}, kind.ActionList)
	if err != nil {
		return nil, err
	}
	d.Effect, d.Policy, d.CallID, d.Plan = plan.Effect, plan.Policy, plan.CallID, plan.Raw
	d.EvaluatedAt, d.TookMicros = plan.EvaluatedAt.UTC(), plan.Took.Microseconds()
	if err := k.record(ctx, d); err != nil {
		return nil, err
	}
	out := &listOutput{}
	if filter.Kind == authz.Never {
		out.Body.Items = []kind.Row{}
		return out, nil
	}
	page, err := k.Store.List(ctx, k.def, store.Query{
		Tenant: c.Tenant, Where: store.Where{SQL: filter.SQL, Args: filter.Args}, Equals: equals,
		Search: in.Q, Sort: in.Sort, Cursor: in.Cursor, Limit: in.Limit,
	})
	if err != nil {
		return nil, err
	}
	if page.Items == nil {
		page.Items = []kind.Row{}
	}
	out.Body.Items, out.Body.NextCursor = page.Items, page.NextCursor
	return out, nil
}

// equals reads the caller's filters as values of their fields' types.
func (k *resources) equals(filters map[string]string) (map[string]any, error) {
	out := make(map[string]any, len(filters))
	for name, text := range filters {
		var err error
		switch t := k.fieldType(name); t.Kind() {
		case reflect.Bool:
			out[name], err = strconv.ParseBool(text)
		case reflect.Int, reflect.Int64:
			out[name], err = strconv.ParseInt(text, 10, 64)
		case reflect.Float64:
			out[name], err = strconv.ParseFloat(text, 64)
		default:
			out[name] = text
		}
		if err != nil {
			return nil, fault.InvalidField("query."+name, "%q is not a value of this field", text)
		}
	}
	return out, nil
}

func (k *resources) fieldType(name string) reflect.Type {
	c, _ := k.def.Column(name)
	t := c.Type()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}
