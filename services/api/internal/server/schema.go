package server

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/kind"
)

// registerKind adds the operations of one kind. Everything that is particular
// about it comes from its definition.
func (s *Server) registerKind(d *kind.Definition) {
	sc := schemasOf(s.api, d)
	k := &resources{Server: s, def: d, notNull: append(slices.Clone(sc.create.Required), "owner_id")}
	path, tags := "/v1/"+d.Plural, []string{d.Plural}
	common := []int{400, 401, 403, 404, 409, 413, 415, 422, 503}

	register(s, huma.Operation{
		OperationID: "create-" + d.Name, Method: http.MethodPost, Path: path, Tags: tags, Summary: "Create " + article(d.Name) + d.Name,
		DefaultStatus: http.StatusAccepted, RequestBody: jsonBody(sc.create, "application/json"), Errors: common,
		Responses: map[string]*huma.Response{"201": sc.resource("Created, and waited for"), "202": sc.accepted},
	}, k.create)
	register(s, huma.Operation{
		OperationID: "update-" + d.Name, Method: http.MethodPatch, Path: path + "/{id}", Tags: tags, Summary: "Change " + article(d.Name) + d.Name + " (RFC 7396 merge patch)",
		DefaultStatus: http.StatusAccepted, RequestBody: jsonBody(sc.patch, "application/json", "application/merge-patch+json"), Errors: append(common, 412),
		Responses: map[string]*huma.Response{"200": sc.resource("Changed, and waited for"), "202": sc.accepted},
	}, k.update)
	register(s, huma.Operation{
		OperationID: "delete-" + d.Name, Method: http.MethodDelete, Path: path + "/{id}", Tags: tags, Summary: "Delete " + article(d.Name) + d.Name,
		DefaultStatus: http.StatusAccepted, Errors: []int{400, 401, 403, 404, 412, 422, 503},
		Responses: map[string]*huma.Response{"202": sc.accepted, "204": {Description: "Deleted, and waited for"}},
	}, k.delete)
	register(s, huma.Operation{
		OperationID: "get-" + d.Name, Method: http.MethodGet, Path: path + "/{id}", Tags: tags, Summary: "Read " + article(d.Name) + d.Name,
		Errors:    []int{401, 404, 422, 503},
		Responses: map[string]*huma.Response{"200": sc.resource("The " + d.Name), "304": {Description: "Not modified"}},
	}, k.get)
	register(s, huma.Operation{
		OperationID: "list-" + d.Plural, Method: http.MethodGet, Path: path, Tags: tags, Summary: "List the " + d.Plural + " that you may see",
		Errors: []int{401, 422, 503}, Parameters: sc.filters, Responses: map[string]*huma.Response{"200": sc.page},
	}, k.list)
	for _, action := range d.Routed() {
		register(s, huma.Operation{
			OperationID: action + "-" + d.Name, Method: http.MethodPost, Path: path + "/{id}/" + action, Tags: tags,
			Summary: strings.ToUpper(action[:1]) + action[1:] + " " + article(d.Name) + d.Name, DefaultStatus: http.StatusAccepted,
			Errors:    []int{400, 401, 403, 404, 409, 412, 422, 503},
			Responses: map[string]*huma.Response{"200": sc.resource("Done, and waited for"), "202": sc.accepted},
		}, k.act(action))
	}
	for _, op := range []string{"create-" + d.Name, "update-" + d.Name} {
		dropBinary(s.api, op)
	}
}

// schemas are the JSON schemas of a kind.
type schemas struct {
	full, create, patch *huma.Schema
	accepted, page      *huma.Response
	filters             []*huma.Param
}

func schemasOf(api huma.API, d *kind.Definition) schemas {
	registry := api.OpenAPI().Components.Schemas
	ref := registry.Schema(d.Type(), true, "")
	full := registry.SchemaFromRef(ref.Ref)
	create := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: false, Properties: map[string]*huma.Schema{}}
	patch := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: false, Properties: map[string]*huma.Schema{}}
	for name, p := range full.Properties {
		if p.ReadOnly {
			continue
		}
		required := slices.Contains(full.Required, name) && name != "owner_id"
		if required {
			create.Required = append(create.Required, name)
		}
		field := *p
		create.Properties[name] = &field
		changed := *p
		changed.Default = nil
		changed.Nullable = !required && name != "owner_id" // RFC 7396: null removes
		patch.Properties[name] = &changed
	}
	slices.Sort(create.Required)
	full.Properties["permissions"] = permissionsSchema(d)

	out := schemas{full: ref, create: create, patch: patch}
	out.accepted = &huma.Response{
		Description: "Accepted: it is on the ledger and will be applied",
		Headers:     map[string]*huma.Header{"Location": text("The command")},
		Content:     map[string]*huma.MediaType{"application/json": {Schema: huma.SchemaFromType(registry, typeOf[Accepted]())}},
	}
	out.page = &huma.Response{Description: "One page", Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{
		Type: huma.TypeObject, Required: []string{"items"}, Properties: map[string]*huma.Schema{
			"items":       {Type: huma.TypeArray, Items: ref},
			"next_cursor": {Type: huma.TypeString, Description: "Absent on the last page"},
		},
	}}}}
	for _, name := range d.AttrNames() {
		p := full.Properties[name]
		hidden := slices.ContainsFunc(d.Hidden, func(h kind.Hidden) bool { return h.Field == name }) // which a filter would tell
		if hidden || name == "tenant" || p.Type == huma.TypeObject || p.Type == huma.TypeArray || p.Format == "date-time" {
			continue
		}
		out.filters = append(out.filters, &huma.Param{
			Name: name, In: "query", Description: "Only those with this " + name, Schema: &huma.Schema{Type: p.Type, Enum: p.Enum},
			Extensions: map[string]any{filterMark: true},
		})
	}
	return out
}

// permissionsSchema is the member that ?include=permissions adds.
func permissionsSchema(d *kind.Definition) *huma.Schema {
	p := &huma.Schema{
		Type: huma.TypeObject, ReadOnly: true, AdditionalProperties: false, Properties: map[string]*huma.Schema{},
		Description: "With include=permissions: what the caller may do with it", Required: permitted(d),
	}
	for _, action := range p.Required {
		p.Properties[action] = &huma.Schema{Type: huma.TypeBoolean}
	}
	return p
}

func (s schemas) resource(description string) *huma.Response {
	return &huma.Response{
		Description: description,
		Headers:     map[string]*huma.Header{"ETag": text("The version, and where the caller is shown less or more than the whole row, - and a digest of that")},
		Content:     map[string]*huma.MediaType{"application/json": {Schema: s.full}},
	}
}

func text(description string) *huma.Header {
	return &huma.Header{Description: description, Schema: &huma.Schema{Type: huma.TypeString}}
}

func jsonBody(s *huma.Schema, types ...string) *huma.RequestBody {
	b := &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{}}
	for _, t := range types {
		b.Content[t] = &huma.MediaType{Schema: s}
	}
	return b
}

// dropBinary takes out the media type that huma adds for a raw body: the body
// is JSON and is validated as such; it is kept raw because its bytes go on the
// ledger as they are.
func dropBinary(api huma.API, operationID string) {
	for _, item := range api.OpenAPI().Paths {
		for _, op := range []*huma.Operation{item.Post, item.Put, item.Patch} {
			if op != nil && op.OperationID == operationID {
				maps.DeleteFunc(op.RequestBody.Content, func(t string, _ *huma.MediaType) bool { return t == "application/octet-stream" })
			}
		}
	}
}

// article is the indefinite one of a kind's name, and a space.
func article(name string) string {
	if strings.ContainsAny(name[:1], "aeiou") {
		return "an "
	}
	return "a "
}
