package stytchemu_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/users"
	"github.com/stytchauth/stytch-go/v16/stytch/stytcherror"

	"github.com/writ-project/writ/pkg/stytchemu"
)

func (p *project) order(t *testing.T, f stytchemu.Fault) {
	t.Helper()
	if err := p.emu.Fail(f); err != nil {
		t.Fatal(err)
	}
}

func TestFaultKinds(t *testing.T) {
	p, ctx := start(t, ""), t.Context()
	create := func(ctx context.Context, email string) error {
		_, err := p.Users.Create(ctx, &users.CreateParams{Email: email})
		return err
	}
	p.order(t, stytchemu.Fault{Kind: stytchemu.FaultLimited, RetryAfter: 1500 * time.Millisecond})
	wantError(t, create(ctx, "a@example.com"), 429, "too_many_requests")
	p.order(t, stytchemu.Fault{Kind: stytchemu.FaultInternal, Count: 2})
	wantError(t, create(ctx, "a@example.com"), 500, "internal_server_error")
	wantError(t, create(ctx, "a@example.com"), 500, "internal_server_error")

	var readable stytcherror.Error
	p.order(t, stytchemu.Fault{Kind: stytchemu.FaultUnreadable})
	if err := create(ctx, "a@example.com"); err == nil || errors.As(err, &readable) {
		t.Fatalf("502: %v", err)
	}
	p.order(t, stytchemu.Fault{Kind: stytchemu.FaultHang})
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := create(short, "a@example.com"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("hang: %v", err)
	}
	p.order(t, stytchemu.Fault{Kind: stytchemu.FaultHang, Delay: 10 * time.Millisecond})
	if err := create(ctx, "a@example.com"); err == nil {
		t.Fatal("hang ended in an answer")
	}
	if err := create(ctx, "a@example.com"); err != nil {
		t.Fatalf("a fault had an effect, or is not done: %v", err)
	}
	p.order(t, stytchemu.Fault{Kind: stytchemu.FaultSlow, Delay: 30 * time.Millisecond})
	began := time.Now()
	if err := create(ctx, "b@example.com"); err != nil || time.Since(began) < 30*time.Millisecond {
		t.Fatalf("slow: %v after %s", err, time.Since(began))
	}
	p.order(t, stytchemu.Fault{Kind: stytchemu.FaultLost})
	if err := create(ctx, "c@example.com"); err == nil || errors.As(err, &readable) {
		t.Fatalf("lost: %v", err)
	}
	wantError(t, create(ctx, "c@example.com"), 400, "duplicate_email")
	p.order(t, stytchemu.Fault{Kind: stytchemu.FaultLate, Delay: 200 * time.Millisecond})
	impatient, stop := context.WithTimeout(ctx, 20*time.Millisecond)
	defer stop()
	if err := create(impatient, "d@example.com"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("late: %v", err)
	}
	p.order(t, stytchemu.Fault{Kind: stytchemu.FaultSlow, Delay: 500 * time.Millisecond})
	wantError(t, create(ctx, "d@example.com"), 400, "duplicate_email")
}

func TestFaultPathsAndChance(t *testing.T) {
	p, ctx := start(t, ""), t.Context()
	p.order(t, stytchemu.Fault{Kind: stytchemu.FaultInternal, Path: "/v1/users/search", Count: 100})
	if _, err := p.Users.Create(ctx, &users.CreateParams{Email: "a@example.com"}); err != nil {
		t.Fatal(err)
	}
	_, err := p.Users.Search(ctx, &users.SearchParams{})
	wantError(t, err, 500, "internal_server_error")
	if fs := p.emu.Faults(); len(fs) != 1 || fs[0].Count != 99 {
		t.Fatalf("faults %+v", fs)
	}
	run := func() string {
		p.emu.ClearFaults()
		p.order(t, stytchemu.Fault{Kind: stytchemu.FaultInternal, Probability: 0.5, Seed: 7})
		var hits strings.Builder
		for range 40 {
			if _, err := p.Users.Search(ctx, &users.SearchParams{}); err != nil {
				hits.WriteByte('x')
			} else {
				hits.WriteByte('.')
			}
		}
		return hits.String()
	}
	first := run()
	if n := strings.Count(first, "x"); n < 8 || n > 32 || run() != first {
		t.Fatalf("chance %s", first)
	}
	if p.emu.Fail(stytchemu.Fault{Kind: "418"}) == nil || p.emu.Fail(stytchemu.Fault{Kind: "500", Probability: 2}) == nil {
		t.Fatal("a wrong order was taken")
	}
}

func TestFaultsOverHTTP(t *testing.T) {
	p := start(t, "")
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	do := func(method, contentType, body string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, p.url+"/faults", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		res, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	const order = `{"kind":"429","retry_after":"3s","count":2,"path":"/v1/users"}`
	if got := do("POST", "application/json", order); got != 204 {
		t.Fatalf("POST %d", got)
	}
	if got := do("POST", "text/plain", order); got != 415 {
		t.Fatalf("POST of a web page %d", got)
	}
	for _, bad := range []string{`{"kind":"429","retry_after":"soon"}`, `{"kind":"x"}`, `{"sort":"429"}`, `{`} {
		if got := do("POST", "application/json", bad); got != 400 {
			t.Fatalf("POST %s: %d", bad, got)
		}
	}
	getBody(t, p.url+"/faults", func(body []byte) {
		if want := `{"faults":[{"kind":"429","path":"/v1/users","count":2,"retry_after":"3s"}]}` + "\n"; string(body) != want {
			t.Fatalf("GET %s", body)
		}
	})
	if got := do("DELETE", "", ""); got != 204 || len(p.emu.Faults()) != 0 {
		t.Fatalf("DELETE %d, left %v", got, p.emu.Faults())
	}
}
