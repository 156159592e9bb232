package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/fault"
)

// Problem is an error as RFC 9457 wants it told.
type Problem struct {
	Type   string `json:"type" doc:"about:blank: the status says what kind of problem it is"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Code is stable, for programs.
	Code       string         `json:"code" doc:"Stable, for programs"`
	RequestID  string         `json:"request_id,omitempty"`
	DecisionID string         `json:"decision_id,omitempty" doc:"The decision that denied"`
	CommandID  string         `json:"command_id,omitempty" doc:"The command that was rejected or failed"`
	Errors     []ProblemField `json:"errors,omitempty" doc:"The parts of the request that are wrong"`

	headers http.Header
}

// ProblemField is one wrong part of a request.
type ProblemField struct {
	Location string `json:"location" doc:"body.email, query.limit, header.If-Match"`
	Message  string `json:"message"`
}

// Error implements error.
func (p *Problem) Error() string { return p.Title + ": " + p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header { return p.headers }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

var (
	_ huma.StatusError       = (*Problem)(nil)
	_ huma.HeadersError      = (*Problem)(nil)
	_ huma.ContentTypeFilter = (*Problem)(nil)
)

func newProblem(status int, code, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail, headers: http.Header{}}
}

// statuses is the one table from kinds of trouble to HTTP.
var statuses = map[fault.Kind]int{
	fault.Internal:        http.StatusInternalServerError,
	fault.Malformed:       http.StatusBadRequest,
	fault.Invalid:         http.StatusUnprocessableEntity,
	fault.TooLarge:        http.StatusRequestEntityTooLarge,
	fault.Unauthenticated: http.StatusUnauthorized,
	fault.Denied:          http.StatusForbidden,
	fault.NotFound:        http.StatusNotFound,
	fault.KindConflict:    http.StatusConflict,
	fault.KeyReused:       http.StatusUnprocessableEntity,
	fault.Unavailable:     http.StatusServiceUnavailable,
	fault.Limited:         http.StatusTooManyRequests,
}

// precondition is the code of a conflict that is about If-Match.
const precondition = "version-conflict"

// problem turns an error into an answer and logs what is ours to mend.
func (s *Server) problem(ctx context.Context, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		p.RequestID = requestInfo(ctx).ID
		return p
	}
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		f = &fault.Error{Err: err}
		if errors.Is(err, context.DeadlineExceeded) {
			f = &fault.Error{Kind: fault.Unavailable, Code: "timeout", Message: "it took too long"}
		}
		if errors.Is(err, context.Canceled) { // the client went away: nobody reads this
			f = &fault.Error{Kind: fault.Unavailable, Code: "canceled", Message: "the request was given up"}
		}
	}
	status := statuses[f.Kind]
	if f.Kind == fault.KindConflict && f.Code == precondition {
		status = http.StatusPreconditionFailed
	}
	p := newProblem(status, f.Code, sentence(f.Message))
	p.RequestID = requestInfo(ctx).ID
	p.DecisionID = f.DecisionID
	for _, e := range f.Fields {
		p.Errors = append(p.Errors, ProblemField{Location: e.Location, Message: e.Message})
	}
	switch f.Kind {
	case fault.Internal:
		p.Code, p.Detail = "internal", "Something went wrong on our side"
		s.Log.ErrorContext(ctx, "request failed", "error", err, "request_id", p.RequestID)
	case fault.Unavailable:
		s.Log.WarnContext(ctx, "request not served", "error", err, "request_id", p.RequestID)
	case fault.Unauthenticated:
		p.headers.Set("WWW-Authenticate", `Bearer realm="writ", error="invalid_token"`)
	}
	if f.Kind == fault.Unavailable || f.Kind == fault.Limited {
		wait := max(f.RetryAfter, time.Second)
		p.headers.Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	}
	return p
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// newHumaError makes problems of what huma itself finds wrong.
func newHumaError(status int, msg string, errs ...error) huma.StatusError {
	code := map[int]string{
		http.StatusBadRequest: "malformed", http.StatusUnprocessableEntity: "invalid", http.StatusRequestEntityTooLarge: "too-large",
		http.StatusUnsupportedMediaType: "unsupported-media-type", http.StatusNotAcceptable: "not-acceptable", http.StatusRequestTimeout: "timeout",
	}[status]
	if status == http.StatusInternalServerError && msg == "cannot read request body" { // the client went away, or sent rubbish
		status, code = http.StatusBadRequest, "malformed"
	}
	if code == "" {
		code = "internal"
	}
	p := newProblem(status, code, sentence(msg))
	for _, err := range errs {
		var d huma.ErrorDetailer
		if errors.As(err, &d) {
			e := d.ErrorDetail()
			p.Errors = append(p.Errors, named(e))
		} else if err != nil && status < http.StatusInternalServerError {
			p.Errors = append(p.Errors, ProblemField{Message: err.Error()})
		}
	}
	return p
}

// newHumaErrorIn is newHumaError for a request.
func newHumaErrorIn(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
	err := newHumaError(status, msg, errs...)
	if p, ok := errors.AsType[*Problem](err); ok {
		p.RequestID = requestInfo(ctx.Context()).ID
	}
	return err
}

// named makes the field of an error of huma, which locates a missing member at
// the object that lacks it.
func named(e *huma.ErrorDetail) ProblemField {
	const missing = "expected required property "
	if name, _, ok := strings.Cut(strings.TrimPrefix(e.Message, missing), " "); ok && strings.HasPrefix(e.Message, missing) {
		return ProblemField{Location: e.Location + "." + name, Message: e.Message}
	}
	return ProblemField{Location: e.Location, Message: e.Message}
}

// writeProblem answers outside huma.
func writeProblem(w http.ResponseWriter, r *http.Request, p *Problem) {
	p.RequestID = requestInfo(r.Context()).ID
	for k, v := range p.headers {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client may be gone
}

// describeProblems puts the problem answers into the operation's description.
func describeProblems(api huma.API, op *huma.Operation) {
	schema := huma.SchemaFromType(api.OpenAPI().Components.Schemas, typeOf[Problem]())
	text := map[int]string{
		400: "The request cannot be read", 401: "No session, or none that is valid", 403: "The policy denies it", 404: "There is none, or none that you may know of",
		409: "It exists already", 412: "The version is another", 413: "The body is larger than 1 MiB", 415: "Neither JSON nor merge patch",
		422: "Something in the request breaks a rule", 500: "Something went wrong on our side",
		503: "A part that is needed does not answer; nothing was done",
	}
	for _, status := range op.Errors {
		op.Responses[strconv.Itoa(status)] = &huma.Response{
			Description: text[status],
			Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: schema}},
		}
		switch status {
		case 401:
			op.Responses["401"].Headers = map[string]*huma.Header{"WWW-Authenticate": {Schema: &huma.Schema{Type: "string"}}}
		case 503:
			op.Responses["503"].Headers = map[string]*huma.Header{"Retry-After": {Schema: &huma.Schema{Type: "integer"}, Description: "Seconds"}}
		}
	}
	op.Errors = nil
}
