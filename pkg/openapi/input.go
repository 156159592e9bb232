package openapi

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/writ-project/writ/pkg/problem"
	"github.com/writ-project/writ/pkg/request"
)

// Input gives a huma middleware that reads what a document says and huma does not:
// UUIDs in paths in either case, parameters that may not be empty, and no media type
// that the operation does not name. huma would take any type that ends in +json for JSON.
func Input(api huma.API) func(huma.Context, func(huma.Context)) {
	return func(hc huma.Context, next func(huma.Context)) {
		r, _ := humachi.Unwrap(hc)
		op := hc.Operation()
		p := mediaType(op, r)
		if p == nil {
			p = empty(op, r)
		}
		for _, param := range op.Parameters {
			if p == nil && param.In == "path" && param.Schema != nil && param.Schema.Format == "uuid" {
				id, ok := request.UUID(hc.Param(param.Name))
				if !ok {
					p = invalid("path."+param.Name, "want a UUID, such as 0192d4e0-7b3a-7c58-9f0e-2d6a1b5c8e4f")
				}
				r.SetPathValue(param.Name, id)
			}
		}
		if p != nil {
			p.RequestID = request.Info(hc.Context()).ID
			problem.Answer(api, hc, p)
			return
		}
		next(hc)
	}
}

func invalid(location, message string) *problem.Problem {
	p := problem.New(http.StatusUnprocessableEntity, "invalid", "Validation failed")
	p.Errors = []problem.FieldError{{Location: location, Message: message}}
	return p
}

// empty refuses a query parameter that is given without a value where an empty text
// is none: huma takes it for one that is not given, and a filter that is passed over
// shows more than was meant.
func empty(op *huma.Operation, r *http.Request) *problem.Problem {
	query := r.URL.Query()
	for _, param := range op.Parameters {
		s := param.Schema
		if param.In != "query" || !query.Has(param.Name) || query.Get(param.Name) != "" || s == nil {
			continue
		}
		if s.Type != huma.TypeString || len(s.Enum) > 0 || s.Format != "" || s.MinLength != nil && *s.MinLength > 0 {
			return invalid("query."+param.Name, "is empty")
		}
	}
	return nil
}

// mediaType refuses a body of a type that the operation does not name: 415, with
// those that it names (RFC 9110, 15.5.16; RFC 5789, 3.1). One that does not say is
// taken for the first.
func mediaType(op *huma.Operation, r *http.Request) *problem.Problem {
	if op.RequestBody == nil {
		return nil
	}
	given, ok := request.MediaType(r)
	if given == "" && ok {
		return nil
	}
	if _, named := op.RequestBody.Content[given]; named && ok {
		return nil
	}
	names := strings.Join(slices.Sorted(maps.Keys(op.RequestBody.Content)), ", ")
	p := problem.New(http.StatusUnsupportedMediaType, "unsupported-media-type", "Send "+names)
	p.Errors = []problem.FieldError{{Location: "header.Content-Type", Message: "want " + names}}
	if p.With("Accept", names); op.Method == http.MethodPatch {
		p.With("Accept-Patch", names)
	}
	return p
}
