package authz

import (
	"errors"
	"fmt"
	"math"
	"reflect"
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
	if len(b.Items) > MaxItems {
		return q, fmt.Errorf("%w: %d resources, at most %d", errRequest, len(b.Items), MaxItems)
	}
	principal, err := toPrincipal(b.Principal)
	if err != nil {
		return q, err
	}
	q.principal = principal
	q.resources = make([]*enginev1.Resource, len(b.Items))
	q.actions = make([][]string, len(b.Items))
	for i, item := range b.Items {
		r := item.Resource
		if r.Kind == "" || r.ID == "" {
			return q, fmt.Errorf("%w: resource %q of kind %q: both id and kind are needed", errRequest, r.ID, r.Kind)
		}
		if !acrossTenants[r.Kind] {
			if err := sameTenant(b.Tenant, r.Attr); err != nil {
				return q, err
			}
		}
		attr, err := toValues(r.Attr)
		if err != nil {
			return q, fmt.Errorf("%w: resource %s: %w", errRequest, r.Kind, err)
		}
		q.resources[i] = &enginev1.Resource{Kind: r.Kind, Id: r.ID, Attr: attr, Scope: b.Scope}
		q.actions[i] = unique(item.Actions)
		if n := len(q.actions[i]); n == 0 || n > MaxActions {
			return q, fmt.Errorf("%w: %d actions, from 1 to %d", errRequest, n, MaxActions)
		}
	}
	return q, nil
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

func toPrincipal(p events.Principal) (*enginev1.Principal, error) {
	roles := unique(p.Roles)
	if p.ID == "" || len(roles) == 0 {
		return nil, fmt.Errorf("%w: principal %q with %d roles: an id and a role are needed", errRequest, p.ID, len(roles))
	}
	attr, err := toValues(p.Attr)
	if err != nil {
		return nil, fmt.Errorf("%w: principal: %w", errRequest, err)
	}
	return &enginev1.Principal{Id: p.ID, Roles: roles, Attr: attr}, nil
}

// unique drops empty and repeated strings. The lists are short.
func unique(in []string) []string {
	out := make([]string, 0, len(in))
next:
	for _, s := range in {
		if s == "" {
			continue
		}
		for _, have := range out {
			if have == s {
				continue next
			}
		}
		out = append(out, s)
	}
	return out
}

func toValues(attr map[string]any) (map[string]*structpb.Value, error) {
	if len(attr) == 0 {
		return nil, nil
	}
	out := make(map[string]*structpb.Value, len(attr))
	for name, v := range attr {
		value, err := toValue(v)
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		out[name] = value
	}
	return out, nil
}

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
