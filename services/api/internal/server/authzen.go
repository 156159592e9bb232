package server

import (
	"context"
	"crypto/tls"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/request"
)

// The OpenID AuthZEN Authorization API 1.0
// (https://openid.net/specs/authorization-api-1_0.html): other services ask
// what somebody may do. What is asked about is decided as the api itself would
// decide it now: who the subject is comes from the directory and what the
// resource is from the database, never from the request where they know it.

// The routes, at the specification's default paths.
const (
	authzenConfiguration  = "/.well-known/authzen-configuration"
	authzenEvaluation     = "/access/v1/evaluation"
	authzenEvaluations    = "/access/v1/evaluations"
	authzenSearchSubject  = "/access/v1/search/subject"
	authzenSearchResource = "/access/v1/search/resource"
	authzenSearchAction   = "/access/v1/search/action"
)

// AuthzenEntity names a subject or a resource.
type AuthzenEntity struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}

// AuthzenAction names an action.
type AuthzenAction struct {
	Name string `json:"name"`
}

// AuthzenContext says more about a decision.
type AuthzenContext struct {
	DecisionID string        `json:"decision_id,omitempty" doc:"The decision as it is on the ledger"`
	Reason     string        `json:"reason,omitempty" doc:"Why it is denied, for people"`
	Error      *AuthzenError `json:"error,omitempty" doc:"Why there is no decision"`
}

// AuthzenError is what is wrong with one of several evaluations.
type AuthzenError struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
}

// AuthzenDecision is the answer to one evaluation.
type AuthzenDecision struct {
	Decision bool            `json:"decision"`
	Context  *AuthzenContext `json:"context,omitempty"`
}

// AuthzenDecisions is the answer to several evaluations in their order, or to
// one in the form of AuthzenDecision.
type AuthzenDecisions struct {
	Evaluations []AuthzenDecision `json:"evaluations,omitempty" nullable:"false" doc:"One for each evaluation, up to the one that ended them"`
	Decision    *bool             `json:"decision,omitempty" doc:"Given instead where the request has no evaluations"`
	Context     *AuthzenContext   `json:"context,omitempty"`
}

// AuthzenPage tells where a page of a search ends.
type AuthzenPage struct {
	NextToken string `json:"next_token" doc:"The token of the next page; empty on the last one"`
	Count     int    `json:"count" doc:"How many results this page has"`
}

// AuthzenResults is one page of a search.
type AuthzenResults[T any] struct {
	Page    AuthzenPage     `json:"page"`
	Context *AuthzenContext `json:"context,omitempty"`
	Results []T             `json:"results" nullable:"false"`
}

// AuthzenMetadata says where the routes are.
type AuthzenMetadata struct {
	PolicyDecisionPoint       string `json:"policy_decision_point"`
	AccessEvaluationEndpoint  string `json:"access_evaluation_endpoint"`
	AccessEvaluationsEndpoint string `json:"access_evaluations_endpoint"`
	SearchSubjectEndpoint     string `json:"search_subject_endpoint"`
	SearchResourceEndpoint    string `json:"search_resource_endpoint"`
	SearchActionEndpoint      string `json:"search_action_endpoint"`
}

type authzenInput struct{ RawBody []byte }

type bodyOutput[T any] struct{ Body T }

type authzenMetadataOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         AuthzenMetadata
}

func (s *Server) registerAuthzen() {
	huma.Register(s.api, huma.Operation{
		OperationID: "authzen-configuration", Method: http.MethodGet, Path: authzenConfiguration, Tags: []string{"authzen"},
		Summary: "Where the routes of the AuthZEN Authorization API are", Security: []map[string][]string{},
	}, s.authzenMetadata)
	schemas := authzenSchemas()
	registerAuthzen(s, "evaluate", authzenEvaluation, "May the subject do this?", schemas.evaluation, s.evaluation)
	registerAuthzen(s, "evaluate-several", authzenEvaluations, "May the subjects do these?", schemas.evaluations, s.evaluations)
	registerAuthzen(s, "search-subjects", authzenSearchSubject, "Which users may do this?", schemas.subjects, s.searchSubjects)
	registerAuthzen(s, "search-resources", authzenSearchResource, "Which resources may the subject do this to?", schemas.resources, s.searchResources)
	registerAuthzen(s, "search-actions", authzenSearchAction, "What may the subject do to the resource?", schemas.actions, s.searchActions)
}

// registerAuthzen adds one of the POST routes. Bodies are read by members, not
// by huma: what is wrong with one is 400 here, and what is not known is ignored.
func registerAuthzen[O any](s *Server, id, path, summary string, body *huma.Schema, handle func(context.Context, *authzenInput) (*bodyOutput[O], error)) {
	registry := s.api.OpenAPI().Components.Schemas
	register(s, huma.Operation{
		OperationID: id, Method: http.MethodPost, Path: path, Tags: []string{"authzen"}, Summary: summary,
		Description: "OpenID AuthZEN Authorization API 1.0. A denial is an answer like any other: 200.",
		RequestBody: jsonBody(body, "application/json"), SkipValidateBody: true, Errors: []int{400, 401, 403, 413, 415, 422, 503},
		Parameters: []*huma.Param{{
			Name: "X-Request-ID", In: "header", Description: "Comes back with the answer and is recorded", Schema: &huma.Schema{Type: huma.TypeString},
		}},
		Responses: map[string]*huma.Response{"200": {
			Description: "The answer", Content: map[string]*huma.MediaType{"application/json": {Schema: huma.SchemaFromType(registry, typeOf[O]())}},
		}},
	}, handle)
	dropBinary(s.api, id)
}

func (s *Server) authzenMetadata(ctx context.Context, _ *struct{}) (*authzenMetadataOutput, error) {
	base, cache := strings.TrimRight(s.PublicURL, "/"), "public, max-age=3600"
	if base == "" { // then the caller's word for it, which nobody else should be told
		r := request.HTTP(ctx)
		base, cache = schemeOf(r.TLS)+"://"+r.Host, "no-store"
	}
	return &authzenMetadataOutput{CacheControl: cache, Body: AuthzenMetadata{
		PolicyDecisionPoint:       base,
		AccessEvaluationEndpoint:  base + authzenEvaluation,
		AccessEvaluationsEndpoint: base + authzenEvaluations,
		SearchSubjectEndpoint:     base + authzenSearchSubject,
		SearchResourceEndpoint:    base + authzenSearchResource,
		SearchActionEndpoint:      base + authzenSearchAction,
	}}, nil
}

func schemeOf(t *tls.ConnectionState) string {
	if t == nil {
		return "http"
	}
	return "https"
}

// authzenBodies are the JSON schemas of the bodies.
type authzenBodies struct{ evaluation, evaluations, subjects, resources, actions *huma.Schema }

func authzenSchemas() authzenBodies {
	free := func(doc string) *huma.Schema {
		return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true, Description: doc}
	}
	object := func(properties map[string]*huma.Schema, required ...string) *huma.Schema {
		slices.Sort(required)
		return &huma.Schema{Type: huma.TypeObject, Properties: properties, Required: required, AdditionalProperties: true}
	}
	length := maxName
	one := 1
	name := &huma.Schema{Type: huma.TypeString, MinLength: &one, MaxLength: &length}
	entity := func(doc string, required ...string) *huma.Schema {
		e := object(map[string]*huma.Schema{"type": name, "id": name, "properties": free("")}, required...)
		e.Description = doc
		return e
	}
	const aboutSubject = "type user; the user's id or e-mail address. The directory says who that is: properties are ignored"
	const aboutResource = "The kind and the id. Properties must fit the kind. They stand for the attributes of a resource that is to be created and, for who may ask about others, of one that does not exist; else they are ignored"
	members := map[string]*huma.Schema{
		"subject":  entity(aboutSubject, "type", "id"),
		"resource": entity(aboutResource, "type", "id"),
		"action":   object(map[string]*huma.Schema{"name": name, "properties": free("changes: the names of the fields that an update sets")}, "name"),
		"context":  free("Ignored: address and time are the request's own"),
	}
	with := func(change map[string]*huma.Schema) map[string]*huma.Schema {
		all := maps.Clone(members)
		maps.Copy(all, change)
		return all
	}
	minimum := 0.0
	page := object(map[string]*huma.Schema{
		"token":      {Type: huma.TypeString, Description: "next_token of the page before; all else must be as it was"},
		"limit":      {Type: huma.TypeInteger, Minimum: &minimum, Description: "At most 100 are given"},
		"properties": free("Ignored"),
	})
	most := maxEvaluations
	actions := with(map[string]*huma.Schema{"page": page})
	delete(actions, "action")
	return authzenBodies{
		evaluation: object(members, "subject", "action", "resource"),
		evaluations: object(with(map[string]*huma.Schema{
			"evaluations": {
				Type: huma.TypeArray, MaxItems: &most, Items: object(members),
				Description: "Each may leave out what is the same for all and stands beside them. Without any, the members beside them are the one evaluation",
			},
			"options": object(map[string]*huma.Schema{"evaluations_semantic": {
				Type: huma.TypeString, Enum: []any{executeAll, denyOnFirstDeny, permitOnFirstPermit}, Default: executeAll,
			}}),
		})),
		subjects:  object(with(map[string]*huma.Schema{"subject": entity("type user; an id is ignored", "type"), "page": page}), "subject", "action", "resource"),
		resources: object(with(map[string]*huma.Schema{"resource": entity("The kind; an id is ignored", "type"), "page": page}), "subject", "action", "resource"),
		actions:   object(actions, "subject", "resource"),
	}
}

// actionsOf are all actions that a kind knows.
func actionsOf(d *kind.Definition) []string {
	all := append([]string{kind.ActionCreate, kind.ActionRead, kind.ActionList, kind.ActionUpdate, kind.ActionDelete}, d.Actions()...)
	for _, h := range d.Hidden {
		if !slices.Contains(all, h.Action) {
			all = append(all, h.Action)
		}
	}
	return all
}

// kindNamed finds a kind that this server serves.
func (s *Server) kindNamed(name string) (*kind.Definition, bool) {
	i := slices.IndexFunc(s.Kinds, func(d *kind.Definition) bool { return d.Name == name })
	if i < 0 {
		return nil, false
	}
	return s.Kinds[i], true
}

// contextOf tells a client about a decision.
func contextOf(d *events.Decision) *AuthzenContext {
	c := &AuthzenContext{DecisionID: d.ID}
	if d.Effect != events.Allow {
		if c.Reason = d.Policy.Reason; c.Reason == "" {
			c.Reason = "the policy does not allow it"
		}
	}
	return c
}

// badMember says what is wrong with a part of the body: 400, as the
// specification wants it where other routes say 422.
func badMember(location, format string, args ...any) *fault.Error {
	e := fault.InvalidField(location, format, args...)
	e.Kind, e.Code = fault.Malformed, "malformed"
	return e
}
