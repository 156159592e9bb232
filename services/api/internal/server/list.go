package server

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/store"
)

type listInput struct {
	Limit   int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
	Cursor  string `query:"cursor" doc:"next_cursor of the page before" maxLength:"4096"`
	Q       string `query:"q" doc:"Part of a name, an e-mail address or the like; case does not matter" maxLength:"200"`
	Sort    string `query:"sort" doc:"A field to sort by; - before it for descending" default:"created_at" maxLength:"64"`
	Include string `query:"include" enum:"permissions" doc:"permissions: add to each item what the caller may do with it"`

	filters map[string]string
}

// Resolve implements huma.Resolver: the filters' names depend on the kind.
func (in *listInput) Resolve(ctx huma.Context) []error {
	in.filters = map[string]string{}
	known := map[string]*huma.Param{}
	for _, p := range ctx.Operation().Parameters {
		if p.In == "query" {
			known[p.Name] = p
		}
	}
	var errs []error
	u := ctx.URL()
	for name, values := range u.Query() {
		p := known[name]
		switch {
		case p == nil:
			errs = append(errs, &huma.ErrorDetail{Location: "query." + name, Message: "unknown query parameter"})
		case p.Extensions[filterMark] == nil: // huma's to read
		case len(p.Schema.Enum) > 0 && !slices.Contains(p.Schema.Enum, any(values[0])):
			errs = append(errs, &huma.ErrorDetail{Location: "query." + name, Message: fmt.Sprintf("want one of %v", p.Schema.Enum)})
		default:
			in.filters[name] = values[0]
		}
	}
	return errs
}

// filterMark marks the parameters of an operation that are filters on fields.
const filterMark = "x-writ-filter"

type listOutput struct {
	Body struct {
		Items      []any  `json:"items"`
		NextCursor string `json:"next_cursor,omitempty" doc:"Absent on the last page"`
	}
}

func (k *resources) list(ctx context.Context, in *listInput) (*listOutput, error) {
	c := gate.CallerOf(ctx)
	equals, err := k.equals(in.filters)
	if err != nil {
		return nil, err
	}
	if field := strings.TrimPrefix(in.Sort, "-"); k.hides(field) {
		return nil, fault.InvalidField("query.sort", "cannot sort by %s: not everybody may see it", field)
	}
	plan, err := k.plan(ctx, c, k.def, kind.ActionList)
	if err != nil {
		return nil, err
	}
	filter, err := plan.Filter(k.def, string(k.Store.Dialect()))
	if err != nil {
		return nil, err // a plan that we cannot turn into SQL exactly: no rows
	}
	d, err := planDecision(ctx, c, k.def, plan)
	if err != nil {
		return nil, err
	}
	if err := k.record(ctx, d); err != nil {
		return nil, err
	}
	out := &listOutput{}
	if filter.Kind == authz.Never {
		out.Body.Items = []any{}
		return out, nil
	}
	page, err := k.page(ctx, plan, k.def, store.Query{
		Tenant: c.Tenant, Where: store.Where{SQL: filter.SQL, Args: filter.Args}, Equals: equals,
		Search: in.Q, Sort: in.Sort, Cursor: in.Cursor, Limit: in.Limit,
	}, func(rows []kind.Row) ([]bool, error) { return k.allowed(ctx, c, kind.ActionList, rows) })
	if err != nil {
		return nil, err
	}
	out.Body.NextCursor = page.NextCursor
	out.Body.Items, err = k.present(ctx, c, page.Items, in.Include == includePermissions)
	return out, err
}

// hides reports whether a field is not shown to everybody who may list: an order by
// it would tell what it holds.
func (k *resources) hides(field string) bool {
	return k.def == user.Kind && slices.Contains(user.Unseen, field) ||
		slices.ContainsFunc(k.def.Hidden, func(h kind.Hidden) bool { return h.Field == field })
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
			var n float64
			if n, err = strconv.ParseFloat(text, 64); math.IsNaN(n) || math.IsInf(n, 0) {
				err = strconv.ErrRange // no number in JSON
			}
			out[name] = n
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
