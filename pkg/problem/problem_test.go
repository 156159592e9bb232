package problem

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/request"
)

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// TestProblemIsNotMuchLargerThanWhatItIsAbout: 80,000 wrong members, or one with a
// name of a megabyte, make a small answer.
func TestProblemIsNotMuchLargerThanWhatItIsAbout(t *testing.T) {
	e := fault.New(fault.Invalid, "invalid", "no")
	var all []error
	for i := range 80_000 {
		e.Fields = append(e.Fields, fault.Field{Location: fmt.Sprintf("body.x%d", i), Message: "unknown"})
		all = append(all, errors.New(strings.Repeat("x", 100)))
	}
	long := fault.InvalidField("body."+strings.Repeat("x", 1<<20), "unknown")
	for name, p := range map[string]*Problem{
		"ours": From(t.Context(), silent, e), "huma's": newError(422, "validation failed", all...).(*Problem), "a long name": From(t.Context(), silent, long),
		"a long path": New(404, "not-found", strings.Repeat("ä", 1<<20)),
	} {
		b, err := json.Marshal(p)
		if err != nil || len(b) > 32<<10 || len(p.Errors) > maxErrors {
			t.Errorf("%s: %d bytes and %d errors (%v), want at most 32 KiB and %d", name, len(b), len(p.Errors), err, maxErrors)
		}
		if len(p.Errors) == maxErrors && p.MoreErrors != 80_000-maxErrors {
			t.Errorf("%s: it tells of %d more errors, want %d", name, p.MoreErrors, 80_000-maxErrors)
		}
	}
}

// TestClientThatWentAwayIsNoOutage: whatever was given up with it, and says that
// something did not answer, is 499 and nothing that pages.
func TestClientThatWentAwayIsNoOutage(t *testing.T) {
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelInfo}))
	for name, c := range map[string]struct {
		err     error
		hangsUp bool
		want    int
	}{
		"given up":                         {context.Canceled, true, StatusGone},
		"the ledger's, wrapped":            {fmt.Errorf("record: %w", fault.Unreachable("ledger", context.Canceled)), true, StatusGone},
		"the ledger's, which stays":        {fault.Unreachable("ledger", io.EOF), false, 503},
		"a step of ours that was given up": {context.Canceled, false, 503},
		"a defect":                         {io.ErrUnexpectedEOF, true, 500},
		"denied":                           {fault.New(fault.Denied, "denied", "no"), true, 403},
	} {
		logged.Reset()
		ctx, hangUp := context.WithCancel(t.Context())
		handler := request.Identify(nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c.hangsUp {
				hangUp()
			}
			Write(w, r, From(r.Context(), log, c.err))
		}))
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
		hangUp()
		if w.Code != c.want {
			t.Errorf("%s: %d, want %d", name, w.Code, c.want)
		}
		if quiet := logged.Len() == 0; quiet != (c.want == StatusGone || c.want == 403) {
			t.Errorf("%s: the log has %q", name, logged.String())
		}
	}
}

func TestNumberThatDoesNotFitIsToldWithoutGo(t *testing.T) {
	type expense struct {
		Amount float64 `json:"amount"`
	}
	var into expense
	for body, want := range map[string]string{`{"amount":1e400}`: "1e400", `{"amount":"x"}`: "string", `[]`: "array"} {
		err := json.Unmarshal([]byte(body), &into)
		if got := withoutGo(err.Error()); strings.Contains(got, "Go ") || strings.Contains(got, "float64") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want words of JSON and %s", body, got, want)
		}
	}
}

// TestConditionalAnswersOnlyWhatTheAnswerSaysOfItself: no body, and none of its
// headers, comes with 304 or 412.
func TestConditionalAnswersOnlyWhatTheAnswerSaysOfItself(t *testing.T) {
	answer := func(status int, tag string) http.Handler {
		return Conditional(silent)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", tag)
			w.Header().Set("Cache-Control", "private, no-cache")
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "secret")
		}))
	}
	for name, c := range map[string]struct {
		status int
		method string
		header string
		value  string
		want   int
	}{
		"the same":                 {200, "GET", "If-None-Match", `"2-ab"`, 304},
		"the same, weakly":         {200, "GET", "If-None-Match", `W/"2-ab"`, 304},
		"the same version only":    {200, "GET", "If-None-Match", `"2"`, 200},
		"any":                      {200, "HEAD", "If-None-Match", `*`, 304},
		"what is not there":        {404, "GET", "If-None-Match", `*`, 404},
		"If-Match, another's view": {200, "GET", "If-Match", `"2"`, 412},
		"If-Match":                 {200, "GET", "If-Match", `"2-ab"`, 200},
		"a write is not its":       {200, "POST", "If-None-Match", `*`, 200},
		"a tag that is none":       {200, "GET", "If-None-Match", `2`, 422},
	} {
		r := httptest.NewRequest(c.method, "/", nil)
		r.Header.Set(c.header, c.value)
		w := httptest.NewRecorder()
		answer(c.status, `"2-ab"`).ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s: %d, want %d", name, w.Code, c.want)
		}
		if held := c.want != c.status; held && (strings.Contains(w.Body.String(), "secret") || c.want == 304 && (w.Body.Len() > 0 || w.Header().Get("Content-Type") != "" || w.Header().Get("ETag") == "" || w.Header().Get("Cache-Control") == "")) {
			t.Errorf("%s: %v %s", name, w.Header(), w.Body)
		}
	}
}
