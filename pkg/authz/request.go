package authz

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"

	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/writ-project/writ/pkg/events"
)

// errRequest marks a question that must not be put: a defect of the caller.
var errRequest = errors.New("authz: malformed request")

// question is a checked request in Cerbos' types.
type question struct {
	principal *enginev1.Principal
	resources []*enginev1.Resource
	actions   [][]string // per resource, without repeats
}

func (b Batch) question() (question, error) {
	var q question
	if err := b.bounded(); err != nil {
		return q, err
	}
	principal, err := toPrincipal(b.Principal)
	if err != nil {
		return q, err
	}
	q.principal = principal
	q.resources = make([]*enginev1.Resource, len(b.Items))
	q.actions = make([][]string, len(b.Items))
	for i := range b.Items {
		if q.actions[i], err = b.Items[i].valid(b.Tenant); err != nil {
			return q, err
		}
		if q.resources[i], err = toResource(&b.Items[i].Resource, b.Scope); err != nil {
			return q, err
		}
	}
	return q, nil
}

func (b Batch) bounded() error {
	if len(b.Items) > MaxItems {
		return fmt.Errorf("%w: %d resources, at most %d", errRequest, len(b.Items), MaxItems)
	}
	return nil
}

// valid checks an item of a request about a tenant, but for its attributes'
// values, and gives its actions without repeats.
func (i *Item) valid(tenant string) (actions []string, err error) {
	r := &i.Resource
	if r.Kind == "" || r.ID == "" {
		return nil, fmt.Errorf("%w: resource %q of kind %q: both id and kind are needed", errRequest, r.ID, r.Kind)
	}
	if !acrossTenants[r.Kind] {
		if err := sameTenant(tenant, r.Attr); err != nil {
			return nil, err
		}
	}
	actions = unique(i.Actions)
	if n := len(actions); n == 0 || n > MaxActions {
		return nil, fmt.Errorf("%w: %d actions, from 1 to %d", errRequest, n, MaxActions)
	}
	return actions, nil
}

func toResource(r *events.Resource, scope string) (*enginev1.Resource, error) {
	attr, err := toValues(r.Attr)
	if err != nil {
		return nil, fmt.Errorf("%w: resource %s: %w", errRequest, r.Kind, err)
	}
	return &enginev1.Resource{Kind: r.Kind, Id: r.ID, Attr: attr, Scope: scope}, nil
}

// acrossTenants are the kinds about which one tenant may ask of another: whoever
// makes tenants is no member of them, and names their first members. What is
// allowed stands in their policies alone.
var acrossTenants = map[string]bool{"tenant": true, "user": true}

// sameTenant refuses a row of another tenant: a defect of the caller. The
// policies deny it as well, by the attribute tenant of principal and resource.
func sameTenant(tenant string, attr map[string]any) error {
	if have, ok := attr["tenant"].(string); ok && tenant != "" && have != "" && have != tenant {
		return fmt.Errorf("%w: a resource of tenant %q in a request of tenant %q", errRequest, have, tenant)
	}
	return nil
}

// whoAsks checks who asks, but for their attributes' values.
func whoAsks(p events.Principal) (askedBy, error) {
	roles := unique(p.Roles)
	if p.ID == "" || len(roles) == 0 {
		return askedBy{}, fmt.Errorf("%w: principal %q with %d roles: an id and a role are needed", errRequest, p.ID, len(roles))
	}
	return askedBy{p.ID, roles, p.Attr}, nil
}

func toPrincipal(p events.Principal) (*enginev1.Principal, error) {
	who, err := whoAsks(p)
	if err != nil {
		return nil, err
	}
	attr, err := toValues(p.Attr)
	if err != nil {
		return nil, fmt.Errorf("%w: principal: %w", errRequest, err)
	}
	return &enginev1.Principal{Id: p.ID, Roles: who.roles, Attr: attr}, nil
}

// unique drops empty and repeated strings. The lists are short; one without any
// is given back as it is.
func unique(in []string) []string {
	for i, s := range in {
		if s != "" && !slices.Contains(in[:i], s) {
			continue
		}
		out := slices.Clone(in[:i])
		for _, s := range in[i:] {
			if s != "" && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
		return out
	}
	return in
}

func toValues(attr map[string]any) (map[string]*structpb.Value, error) {
	if len(attr) == 0 {
		return nil, nil
	}
	out := make(map[string]*structpb.Value, len(attr))
	for name, v := range attr {
		value, err := toValue(v)
		if err != nil {
			return nil, attrError(name, err)
		}
		out[name] = value
	}
	return out, nil
}

func attrError(name string, err error) error { return fmt.Errorf("attribute %s: %w", name, err) }

// toValue is structpb.NewValue for what attributes hold, with the named types
// and typed slices that it refuses and without the numbers that JSON cannot hold.
func toValue(v any) (*structpb.Value, error) {
	switch x := v.(type) {
	case nil:
		return structpb.NewNullValue(), nil
	case string:
		return structpb.NewStringValue(x), nil
	case bool:
		return structpb.NewBoolValue(x), nil
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, fmt.Errorf("%v is not a JSON number", x)
		}
		return structpb.NewNumberValue(x), nil
	case time.Time:
		return structpb.NewStringValue(x.UTC().Format(time.RFC3339Nano)), nil
	}
	r := reflect.ValueOf(v)
	switch {
	case r.Kind() == reflect.String:
		return structpb.NewStringValue(r.String()), nil
	case r.Kind() == reflect.Bool:
		return structpb.NewBoolValue(r.Bool()), nil
	case r.CanInt():
		return structpb.NewNumberValue(float64(r.Int())), nil
	case r.CanUint():
		return structpb.NewNumberValue(float64(r.Uint())), nil
	case r.CanFloat():
		return toValue(r.Float())
	case r.Kind() == reflect.Slice || r.Kind() == reflect.Array:
		list := &structpb.ListValue{Values: make([]*structpb.Value, r.Len())}
		for i := range list.Values {
			value, err := toValue(r.Index(i).Interface())
			if err != nil {
				return nil, err
			}
			list.Values[i] = value
		}
		return structpb.NewListValue(list), nil
	case r.Kind() == reflect.Map && r.Type().Key().Kind() == reflect.String:
		fields := make(map[string]*structpb.Value, r.Len())
		for iter := r.MapRange(); iter.Next(); {
			value, err := toValue(iter.Value().Interface())
			if err != nil {
				return nil, err
			}
			fields[iter.Key().String()] = value
		}
		return structpb.NewStructValue(&structpb.Struct{Fields: fields}), nil
	}
	return nil, fmt.Errorf("%T cannot be an attribute", v)
}
