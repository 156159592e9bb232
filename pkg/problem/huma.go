package problem

import (
	"errors"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/request"
)

// Install makes problems of what huma itself finds wrong with a request. The
// hooks are global in huma: install them once, before anything is served.
func Install() { huma.NewError, huma.NewErrorWithContext = newError, newErrorIn }

func newError(status int, msg string, errs ...error) huma.StatusError {
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
	p := New(status, code, Sentence(msg))
	for _, err := range errs {
		var d huma.ErrorDetailer
		if errors.As(err, &d) {
			e := d.ErrorDetail()
			p.add(named(e))
		} else if err != nil && status < http.StatusInternalServerError {
			p.add(FieldError{Message: withoutGo(err.Error())})
		}
	}
	return p
}

// newErrorIn is newError for a request.
func newErrorIn(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
	if status >= http.StatusInternalServerError && request.Gone(ctx.Context()) {
		p := gone()
		p.RequestID = request.Info(ctx.Context()).ID
		return p
	}
	err := newError(status, msg, errs...)
	if p, ok := errors.AsType[*Problem](err); ok {
		p.RequestID = request.Info(ctx.Context()).ID
	}
	return err
}

// named makes the field of an error of huma, which locates a missing member at
// the object that lacks it.
func named(e *huma.ErrorDetail) FieldError {
	const missing = "expected required property "
	if name, _, ok := strings.Cut(strings.TrimPrefix(e.Message, missing), " "); ok && strings.HasPrefix(e.Message, missing) {
		return FieldError{Location: e.Location + "." + name, Message: e.Message}
	}
	return FieldError{Location: e.Location, Message: withoutGo(e.Message)}
}

// goType is how encoding/json tells what does not fit into a type of Go's.
var goType = regexp.MustCompile(`json: cannot unmarshal (number \S+|[a-z]+) into Go (?:value|struct field \S+) of type \S+`)

// withoutGo says it in the words of JSON: to a client our types mean nothing.
func withoutGo(message string) string {
	return goType.ReplaceAllStringFunc(message, func(m string) string {
		what := goType.FindStringSubmatch(m)[1]
		if number, ok := strings.CutPrefix(what, "number "); ok {
			return "the number " + number + " is too large, or not of the kind that is wanted"
		}
		return "a value of another type than " + what + " is wanted"
	})
}

// Answer answers with a problem from a huma middleware.
func Answer(api huma.API, hc huma.Context, p *Problem) {
	for k, values := range p.headers {
		for _, v := range values {
			hc.SetHeader(k, v)
		}
	}
	hc.SetHeader("Content-Type", ContentType)
	hc.SetStatus(p.Status)
	body, _ := api.Transform(hc, "", p)
	_ = api.Marshal(hc.BodyWriter(), ContentType, body) // the client may be gone
}

// Describe puts the problem answers that op.Errors names into its description.
func Describe(api huma.API, op *huma.Operation) {
	schema := huma.SchemaFromType(api.OpenAPI().Components.Schemas, reflect.TypeFor[Problem]())
	text := map[int]string{
		400: "The request cannot be read", 401: "No session, or none that is valid", 403: "The policy denies it", 404: "There is none, or none that you may know of",
		409: "It exists already", 412: "It is not what the preconditions want, such as another version", 413: "The body is larger than 1 MiB", 415: "The body is of another media type (Accept, Accept-Patch), or in a content coding (Accept-Encoding)",
		422: "Something in the request breaks a rule", 429: "Too many requests", 500: internal,
		503: "A part that is needed does not answer; nothing was done",
	}
	for _, status := range op.Errors {
		op.Responses[strconv.Itoa(status)] = &huma.Response{
			Description: text[status],
			Content:     map[string]*huma.MediaType{ContentType: {Schema: schema}},
		}
		switch status {
		case 401:
			op.Responses["401"].Headers = map[string]*huma.Header{"WWW-Authenticate": {Schema: &huma.Schema{Type: "string"}}}
		case 429, 503:
			op.Responses[strconv.Itoa(status)].Headers = map[string]*huma.Header{"Retry-After": {Schema: &huma.Schema{Type: "integer"}, Description: "Seconds"}}
		}
	}
	op.Errors = nil
}
