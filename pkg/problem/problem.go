// Package problem turns errors into the one answer that they all have over
// HTTP: problem details (RFC 9457), from one table of kinds of trouble.
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/request"
)

// ContentType is the media type of every problem.
const ContentType = "application/problem+json"

// Problem is an error as RFC 9457 wants it told.
type Problem struct {
	Type   string `json:"type" doc:"about:blank: the status says what kind of problem it is"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Code is stable, for programs.
	Code       string       `json:"code" doc:"Stable, for programs"`
	RequestID  string       `json:"request_id,omitempty"`
	DecisionID string       `json:"decision_id,omitempty" doc:"The decision that denied"`
	CommandID  string       `json:"command_id,omitempty" doc:"The command that was rejected or failed"`
	Errors     []FieldError `json:"errors,omitempty" maxItems:"32" doc:"The parts of the request that are wrong; the first 32"`
	MoreErrors int          `json:"more_errors,omitempty" doc:"How many more parts are wrong that errors does not tell"`

	headers http.Header
}

// FieldError is one wrong part of a request.
type FieldError struct {
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
func (p *Problem) ContentType(string) string { return ContentType }

var (
	_ huma.StatusError       = (*Problem)(nil)
	_ huma.HeadersError      = (*Problem)(nil)
	_ huma.ContentTypeFilter = (*Problem)(nil)
)

// New makes a problem that no kind of fault stands for.
func New(status int, code, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: title(status), Status: status, Code: code, Detail: short(detail), headers: http.Header{}}
}

// StatusGone is the status of requests whose client has gone away before the
// answer (nginx's 499): nobody reads it, and in metrics it is not our outage.
const StatusGone = 499

func title(status int) string {
	if status == StatusGone {
		return "Client Closed Request"
	}
	return http.StatusText(status)
}

// Bounds of a problem: what somebody sends must not come back many times as large.
const (
	maxErrors = 32
	maxText   = 512 // bytes of a message or a location
)

// short cuts a text that a request may have made long.
func short(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}

// add names one more wrong part of the request, or counts it.
func (p *Problem) add(e FieldError) {
	if len(p.Errors) == maxErrors {
		p.MoreErrors++
		return
	}
	p.Errors = append(p.Errors, FieldError{Location: short(e.Location), Message: short(e.Message)})
}

// With adds a header of the answer.
func (p *Problem) With(header, value string) *Problem {
	p.headers.Set(header, value)
	return p
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
	fault.Misconfigured:   http.StatusInternalServerError,
}

// VersionConflict is the code of a conflict that is about If-Match: 412.
const VersionConflict = "version-conflict"

// From turns an error into an answer and logs what is ours to mend. An error
// that is a Problem already stays what it is.
func From(ctx context.Context, log *slog.Logger, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		p.RequestID = request.Info(ctx).ID
		return p
	}
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		f = &fault.Error{Err: err}
		if errors.Is(err, context.DeadlineExceeded) {
			f = &fault.Error{Kind: fault.Unavailable, Code: "timeout", Message: "it took too long"}
		}
		if errors.Is(err, context.Canceled) {
			f = &fault.Error{Kind: fault.Unavailable, Code: "canceled", Message: "the request was given up"}
		}
	}
	if f.Kind == fault.Unavailable && request.Gone(ctx) { // whatever did not answer: it was not waited for
		p := gone()
		p.RequestID = request.Info(ctx).ID
		log.DebugContext(ctx, "the client went away", "error", err, "request_id", p.RequestID)
		return p
	}
	status := statuses[f.Kind]
	if f.Kind == fault.KindConflict && f.Code == VersionConflict {
		status = http.StatusPreconditionFailed
	}
	p := New(status, f.Code, Sentence(f.Message))
	p.RequestID = request.Info(ctx).ID
	p.DecisionID = f.DecisionID
	for _, e := range f.Fields {
		p.add(FieldError{Location: e.Location, Message: e.Message})
	}
	switch f.Kind {
	case fault.Internal:
		p.Code, p.Detail = "internal", internal
		log.ErrorContext(ctx, "request failed", "error", err, "request_id", p.RequestID)
	case fault.Misconfigured:
		log.ErrorContext(ctx, "request not answered", "error", err, "request_id", p.RequestID)
	case fault.Unavailable:
		log.WarnContext(ctx, "request not served", "error", err, "request_id", p.RequestID)
	case fault.Unauthenticated:
		p.headers.Set("WWW-Authenticate", `Bearer realm="writ", error="invalid_token"`)
	}
	if f.Kind == fault.Unavailable || f.Kind == fault.Limited {
		wait := max(f.RetryAfter, time.Second)
		p.headers.Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	}
	return p
}

func gone() *Problem {
	return New(StatusGone, "client-gone", "The client went away before the answer")
}

const internal = "Something went wrong on our side"

// Internal is the answer to what is ours to mend; the caller has logged it.
func Internal() *Problem { return New(http.StatusInternalServerError, "internal", internal) }

// Sentence begins a message with a capital letter.
func Sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// Write answers with a problem outside huma.
func Write(w http.ResponseWriter, r *http.Request, p *Problem) {
	p.RequestID = request.Info(r.Context()).ID
	for k, v := range p.headers {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", ContentType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client may be gone
}
