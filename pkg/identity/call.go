package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/stytchauth/stytch-go/v16/stytch/stytcherror"

	"github.com/writ-project/writ/pkg/fault"
)

const (
	// maxAnswer is the most of an answer that is read, in bytes.
	maxAnswer = 4 << 20
	// maxRetryAfter bounds what Stytch may ask us to wait.
	maxRetryAfter = 5 * time.Minute
)

// notMade is the code of a request that could not be made.
const notMade = "stytch-request"

// reply is what stytch-go does not tell of an answer.
type reply struct {
	status     int
	retryAfter time.Duration
}

type replyKey struct{}

// transport notes Retry-After for the call it belongs to and bounds answers.
type transport struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if rep, ok := r.Context().Value(replyKey{}).(*reply); ok {
		rep.status = res.StatusCode
		rep.retryAfter = parseRetryAfter(res.Header.Get("Retry-After"))
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, maxAnswer), res.Body}
	return res, nil
}

// CloseIdleConnections implements what http.Client.CloseIdleConnections calls.
func (t transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func newHTTPClient(given *http.Client) *http.Client {
	var base http.RoundTripper
	switch {
	case given != nil && given.Transport != nil:
		base = given.Transport
	case given != nil:
		base = http.DefaultTransport
	default:
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = maxLookups
		base = t
	}
	return &http.Client{
		Transport: transport{base},
		// The secret goes to the configured address and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func checkBaseURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.RawQuery != "" {
		return errors.New("STYTCH_BASE_URL must be an http or https URL")
	}
	return nil
}

// parseRetryAfter reads seconds or a date (RFC 9110, 10.2.3); 0 for neither.
func parseRetryAfter(s string) time.Duration {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 {
		return min(time.Duration(min(n, 3600))*time.Second, maxRetryAfter)
	}
	if t, err := http.ParseTime(s); err == nil {
		return min(max(time.Until(t), 0), maxRetryAfter)
	}
	return 0
}

// call runs one call to Stytch: 5 s at most, its error classified. doing says
// what for, without personal data. What it tells of the project's credentials is
// noted in project, nil for a call that needs none.
func call[T any](ctx context.Context, project *credentials, doing string, fn func(context.Context) (*T, error)) (*T, error) {
	var rep reply
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, replyKey{}, &rep), callTimeout)
	defer cancel()
	out, err := fn(ctx)
	if err != nil {
		err = classify(fmt.Errorf("%s: %w", doing, err), rep)
		project.note(err)
		return nil, err
	}
	project.note(nil)
	return out, nil
}

// classify turns an error of stytch-go into a fault.
func classify(err error, rep reply) error {
	stytchErr, readable := errors.AsType[stytcherror.Error](err)
	status := rep.status
	if readable && status == 0 { // stytch-go's own: the request could not be made of what it was given
		out := fault.New(fault.Internal, notMade, "the request to Stytch could not be made")
		out.Err = err
		return out
	}
	if !readable || stytchErr.ErrorType == "" || status == http.StatusTooManyRequests || status >= 500 || status < 400 {
		down := fault.Unreachable("stytch", asked{err, rep.retryAfter})
		down.RetryAfter = max(down.RetryAfter, rep.retryAfter)
		return down
	}
	code := strings.ReplaceAll(string(stytchErr.ErrorType), "_", "-")
	if code == "unauthorized-credentials" || code == "project-not-found" {
		return errCredentials(code, err)
	}
	kind := fault.Invalid
	message := "Stytch refuses the request"
	switch {
	case strings.HasPrefix(code, "duplicate-"):
		kind, message = fault.KindConflict, "there is one already"
	case status == http.StatusNotFound:
		kind, message = fault.NotFound, "Stytch does not know it"
	case status == http.StatusUnauthorized:
		kind, message = fault.Unauthenticated, "Stytch does not accept it"
	}
	out := fault.New(kind, code, "%s", message)
	out.Err = err
	return out
}

// asked is an error with the Retry-After that came with it.
type asked struct {
	error
	after time.Duration
}

func (a asked) Unwrap() error { return a.error }

// RetryAfter is how long Stytch itself asked to wait, 5 minutes at most; 0 if it
// asked for nothing. fault.Error.RetryAfter is never 0.
func RetryAfter(err error) time.Duration {
	if a, ok := errors.AsType[asked](err); ok {
		return a.after
	}
	return 0
}

// unreadable is for an answer that is no error but lacks what it must have.
func unreadable(doing string) error {
	return fault.Unreachable("stytch", errors.New(doing+": the answer cannot be read"))
}

// code gives a fault's code, "" for none.
func code(err error) string {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Code
	}
	return ""
}
