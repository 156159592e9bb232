package attacks

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/stytchemu"
	"github.com/writ-project/writ/pkg/testkit"
)

var errNoMail = errors.New("no mail yet")

// TestSignInUnderAttack is one test so that the services serve it all.
func TestSignInUnderAttack(t *testing.T) {
	x := start(t)
	t.Run("cookies", x.cookies)
	t.Run("role in the body", x.roleInTheBody)
	t.Run("replayed link", x.replayedLink)
	t.Run("login CSRF", x.loginCSRF)
	t.Run("cross-site requests", x.crossSite)
	t.Run("open redirect", x.openRedirect)
	t.Run("forged JWTs", x.forgedJWTs)
	t.Run("rate limits", x.rateLimits)
	t.Run("enumeration by answer", x.enumerationByAnswer)
	t.Run("enumeration by time", x.enumerationByTime)
}

// cookies are such that nothing but this site's pages over TLS has them.
func (x *target) cookies(t *testing.T) {
	b := x.browser(t)
	b.signIn(t, x, "cookies@example.com")
	for _, name := range []string{"__Host-writ_session", "__Host-writ_signin"} {
		c := b.cookies[name]
		if c == nil || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge <= 0 || c.MaxAge > 3600 {
			t.Errorf("%s is %+v", name, c)
		}
	}
	a := b.page(t, "/account")
	if a.status != http.StatusOK || !strings.Contains(a.body, "cookies@example.com") {
		t.Fatalf("the account: %d %s", a.status, a.body)
	}
	if csp := a.header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "script-src") {
		t.Errorf("the pages' policy is %s", csp)
	}
	if strings.Contains(a.body, "<script") || a.header.Get("Cache-Control") != "no-store" || a.header.Get("X-Frame-Options") != "DENY" {
		t.Errorf("the account's headers are %v", a.header)
	}
}

// roleInTheBody: whoever names a role where they sign in, for themselves or for another, gets none.
func (x *target) roleInTheBody(t *testing.T) {
	b := x.browser(t)
	if a := b.send(t, "POST", "/v1/auth/magic-link", `{"email":"victim@example.com","role":"admin"}`, "Content-Type", "application/json"); a.status != http.StatusUnprocessableEntity {
		t.Errorf("a role in the body: %d %s", a.status, a.body)
	}
	if strings.Contains(b.page(t, "/login").body, "<select") {
		t.Error("the sign-in page offers roles")
	}
	b.signIn(t, x, "attacker@example.com", "role", "admin", "roles", "admin", "trusted_metadata", `{"roles":["admin"]}`)
	if a := b.send(t, "GET", "/account", ""); a.status != http.StatusOK || !strings.Contains(a.body, `"roles":["guest"]`) {
		t.Errorf("the attacker is %s", a.body)
	}
}

func (x *target) replayedLink(t *testing.T) {
	b := x.browser(t)
	link := b.ask(t, x, "once@example.com")
	if a := b.page(t, link); a.status != http.StatusSeeOther {
		t.Fatalf("%d %s", a.status, a.body)
	}
	for _, again := range []string{link, strings.Replace(link, "token=", "token=x", 1)} {
		a := b.page(t, again)
		if a.status != http.StatusUnauthorized || !strings.Contains(a.body, "no longer works") || !strings.Contains(a.body, "/login") {
			t.Errorf("again: %d %s", a.status, a.body)
		}
		if a = b.send(t, "GET", again, ""); a.status != http.StatusUnauthorized || !strings.Contains(a.body, "invalid-link") {
			t.Errorf("again as JSON: %d %s", a.status, a.body)
		}
	}
	// Two that were asked for in one browser: both work there.
	first, second := b.ask(t, x, "twice@example.com"), b.ask(t, x, "twice@example.com")
	for _, l := range []string{second, first} {
		if a := b.page(t, l); a.status != http.StatusSeeOther {
			t.Errorf("one of two links: %d %s", a.status, a.body)
		}
	}
}

// loginCSRF: nobody is signed in as the attacker by opening a link of the attacker's, whether they asked for one of
// their own or not.
func (x *target) loginCSRF(t *testing.T) {
	attacker, victim := x.browser(t), x.browser(t)
	link := attacker.ask(t, x, "mallory@example.com")
	x.counted()
	a := victim.page(t, link)
	if a.status != http.StatusUnauthorized || !strings.Contains(a.body, "another browser") || victim.cookies["__Host-writ_session"] != nil {
		t.Errorf("a browser that asked for nothing: %d %s", a.status, a.body)
	}
	if calls := x.counted(); len(calls) > 0 {
		t.Errorf("a link without its cookie made us call Stytch: %v", calls)
	}
	own := victim.ask(t, x, "victim@example.com")
	a = victim.page(t, link)
	if a.status != http.StatusUnauthorized || !strings.Contains(a.body, "another browser") || victim.cookies["__Host-writ_session"] != nil {
		t.Errorf("a browser that asked for another: %d %s", a.status, a.body)
	}
	// A cookie that is not sealed by us, or is somebody else's, is none.
	stolen := *attacker.cookies["__Host-writ_signin"]
	other := x.browser(t)
	for _, value := range []string{"", "x", stolen.Value[:len(stolen.Value)-4] + "AAAA", strings.Repeat("A", 4000)} {
		other.cookies["__Host-writ_signin"] = &http.Cookie{Name: "__Host-writ_signin", Value: value}
		if a := other.page(t, link); a.status != http.StatusUnauthorized {
			t.Errorf("with a forged cookie: %d %s", a.status, a.body)
		}
	}
	// The attempts spent nothing: each link still works where it was asked for.
	if a := attacker.page(t, link); a.status != http.StatusSeeOther {
		t.Errorf("the attacker's own link: %d %s", a.status, a.body)
	}
	if a := victim.page(t, own); a.status != http.StatusSeeOther {
		t.Errorf("the victim's own link: %d %s", a.status, a.body)
	}
}

// crossSite: what another site's page makes a browser send does nothing.
func (x *target) crossSite(t *testing.T) {
	b := x.browser(t)
	b.signIn(t, x, "crossed@example.com")
	values := url.Values{"email": {"mallory@example.com"}, "form_token": {"x"}}
	for _, site := range []string{"cross-site", "same-site"} {
		for _, path := range []string{"/v1/auth/magic-link", "/v1/auth/logout"} {
			if a := b.submit(t, path, values, site); a.status != http.StatusForbidden {
				t.Errorf("%s from a %s page: %d", path, site, a.status)
			}
		}
		for _, kind := range []string{"text/plain", "application/json", ""} {
			if a := b.send(t, "POST", "/v1/contacts", `{"first_name":"x"}`, "Content-Type", kind, "Sec-Fetch-Site", site); a.status != http.StatusForbidden {
				t.Errorf("a command as %q from a %s page: %d", kind, site, a.status)
			}
		}
		if a := b.send(t, "DELETE", "/v1/contacts/x", "", "Sec-Fetch-Site", site); a.status != http.StatusForbidden {
			t.Errorf("a delete from a %s page: %d", site, a.status)
		}
	}
	for name, headers := range map[string][]string{
		"another origin": {"Origin", "https://evil.example"}, "no origin": {"Origin", "null"}, "nothing that says where from": nil,
	} {
		a := b.send(t, "POST", "/v1/me/sync", "", append(headers, "Content-Type", "text/plain")...)
		if a.status != http.StatusForbidden || !strings.Contains(a.body, "cross-origin") {
			t.Errorf("the cookie with %s: %d %s", name, a.status, a.body)
		}
	}
	// Of this site, but not from one of its forms.
	for _, tok := range []string{"", "x", strings.Repeat("A", 43)} {
		values.Set("form_token", tok)
		if a := b.submit(t, "/v1/auth/logout", values, "same-origin"); a.status != http.StatusForbidden {
			t.Errorf("a form with the token %q: %d", tok, a.status)
		}
	}
	stranger := x.browser(t)
	stranger.page(t, "/login")
	found := token.FindStringSubmatch(stranger.page(t, "/login").body)
	values.Set("form_token", found[1])
	if a := b.submit(t, "/v1/auth/logout", values, "same-origin"); a.status != http.StatusForbidden {
		t.Errorf("a form with another browser's token: %d", a.status)
	}
	if a := b.page(t, "/account"); a.status != http.StatusOK {
		t.Errorf("after the attempts the account is %d", a.status)
	}
	// And what a page of this site sends does something.
	if a := b.send(t, "POST", "/v1/me/sync", "", "Sec-Fetch-Site", "same-origin"); a.status != http.StatusOK {
		t.Errorf("a page of this site: %d %s", a.status, a.body)
	}
	if a := b.send(t, "POST", "/v1/me/sync", "", "Origin", public); a.status != http.StatusOK {
		t.Errorf("an older browser's page of this site: %d %s", a.status, a.body)
	}
	old := b.cookies["__Host-writ_session"]
	if a := b.form(t, "/v1/auth/logout", url.Values{}); a.status != http.StatusSeeOther || b.cookies["__Host-writ_session"] != nil {
		t.Errorf("signing out: %d %v", a.status, b.cookies)
	}
	b.cookies[old.Name] = old
	if a := b.page(t, "/account"); a.status != http.StatusSeeOther || !strings.HasPrefix(a.header.Get("Location"), "/login") {
		t.Errorf("with the cookie of before: %d", a.status)
	}
}

// openRedirect: a sign-in ends on this site, however another is spelled.
func (x *target) openRedirect(t *testing.T) {
	elsewhere := []string{
		"https://evil.example", "//evil.example", "///evil.example", `/\evil.example`, `\\evil.example`, `/\/evil.example`, "/%2f/evil.example", "/%5cevil.example",
		"/\tevil.example", "/\n//evil.example", "\t//evil.example", " //evil.example", "/ /evil.example", "http:evil.example", "javascript:alert(1)", "data:text/html,x",
		"/..//evil.example", "/.//evil.example", "/account/..//evil.example", "/account\r\nSet-Cookie: x=1", "/account#@evil.example", "/@evil.example", "evil.example",
		"/\u2028/evil.example", "//evil.example/%2f..", "/account?x=\r\ny", "/;@evil.example", "https:evil.example", "/\x00/evil.example", "//0x7f000001", "/v1/auth/logout", "/／evil.example",
	}
	for _, to := range elsewhere {
		b := x.browser(t)
		q := "/login?return_to=" + url.QueryEscape(to)
		if page := b.page(t, q); page.status != http.StatusBadRequest && !strings.Contains(page.body, `name="return_to" value="/account"`) {
			t.Errorf("%q is in the form", to)
		}
		if a := b.send(t, "POST", "/v1/auth/magic-link", fmt.Sprintf(`{"email":"redirect@example.com","return_to":%q}`, to), "Content-Type", "application/json"); a.status != http.StatusUnprocessableEntity && a.status != http.StatusBadRequest {
			t.Errorf("%q as JSON: %d %s", to, a.status, a.body)
		}
	}
	for i, to := range elsewhere[:4] {
		b := x.browser(t)
		if a := b.signIn(t, x, fmt.Sprintf("redirect%d@example.com", i), "return_to", to); a.header.Get("Location") != "/account" {
			t.Errorf("%q ended at %q", to, a.header.Get("Location"))
		}
	}
	if a := x.browser(t).signIn(t, x, "own@example.com", "return_to", "/docs?x=1&y=%20"); a.header.Get("Location") != "/docs?x=1&y=%20" {
		t.Errorf("a path of this site ended at %q", a.header.Get("Location"))
	}
	// The link goes to the public address, whatever the request's Host says.
	b, before := x.browser(t), len(x.Mailbox("host@example.com"))
	b.send(t, "POST", "/v1/auth/magic-link", `{"email":"host@example.com"}`, "Content-Type", "application/json", "X-Forwarded-Host", "evil.example", "Forwarded", "host=evil.example")
	x.link(t, "host@example.com", before)
}

// limitWindow is what the sign-in's limits are counted by.
const limitWindow = 10 * time.Minute

// rateLimits: before Stytch is asked. Each of these browsers is the same IP address.
func (x *target) rateLimits(t *testing.T) {
	_, base := x.Another(t, "api") // with counters of its own
	// They count in windows of ten minutes by the clock: a new one, in the middle of what follows, would allow some more.
	testkit.Eventually(t, 2*time.Minute, func() error {
		if left := time.Until(time.Now().Truncate(limitWindow).Add(limitWindow)); left < time.Minute {
			return fmt.Errorf("a window ends in %s", left)
		}
		return nil
	})
	b := newBrowser(t, base)
	ask := func(email string) answer {
		return b.send(t, "POST", "/v1/auth/magic-link", `{"email":"`+email+`"}`, "Content-Type", "application/json")
	}
	limited := func(a answer) bool {
		if a.status == http.StatusTooManyRequests && (a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "rate-limited")) {
			t.Errorf("limited without saying until when: %v %s", a.header, a.body)
		}
		return a.status == http.StatusTooManyRequests
	}
	asked := 0
	for i := range 12 {
		email := "flooded@example.com"
		if i%2 == 1 {
			email = "Flooded@Example.com" // the same
		}
		if !limited(ask(email)) {
			asked++
		}
	}
	if asked != 5 {
		t.Errorf("%d links for one address", asked)
	}
	if a := ask("another@example.com"); limited(a) {
		t.Error("one address's limit is another's")
	}
	x.waitForMail(t, "flooded@example.com", 5)
	n := 0
	for i := 0; ; i++ {
		if limited(ask(fmt.Sprintf("many%d@example.com", i))) {
			break
		}
		if n++; n > 100 {
			t.Fatal("one IP address may ask for any number of links")
		}
	}
	if got := len(x.Mailbox("flooded@example.com")); got != 5 {
		t.Errorf("%d mails to one address", got)
	}
	// Redeeming is limited, too, before Stytch is asked.
	x.waitForMail(t, fmt.Sprintf("many%d@example.com", n-1), 1)
	x.counted()
	tries := 0
	for range 100 {
		if a := b.send(t, "GET", "/v1/auth/callback?token="+strings.Repeat("A", 44), ""); limited(a) {
			break
		}
		tries++
	}
	if calls := x.counted(); tries > 60 || calls["POST /v1/magic_links/authenticate"] != tries {
		t.Errorf("%d tries, calls %v", tries, calls)
	}
}

func (x *target) waitForMail(t *testing.T, to string, n int) {
	t.Helper()
	testkit.Eventually(t, soon, func() error {
		if got := len(x.Mailbox(to)); got < n {
			return fmt.Errorf("%d mails to %s, want %d", got, to, n)
		}
		return nil
	})
}

// enumerationByAnswer: nothing in the answer tells whether an address is known.
func (x *target) enumerationByAnswer(t *testing.T) {
	_, base := x.Another(t, "api")
	known := newBrowser(t, base)
	x.browser(t).signIn(t, x, "known@example.com")
	tell := func(a answer) string {
		h := a.header.Clone()
		for _, own := range []string{"Date", "X-Request-Id"} { // of every request
			h.Del(own)
		}
		for i, c := range h["Set-Cookie"] { // sealed: only its name and length show
			name, rest, _ := strings.Cut(c, "=")
			value, attributes, _ := strings.Cut(rest, ";")
			attributes, _, _ = strings.Cut(attributes, "Max-Age=36")
			h["Set-Cookie"][i] = fmt.Sprintf("%s %d %s", name, len(value), strings.Replace(attributes, "Max-Age=3599", "", 1))
		}
		return fmt.Sprint(a.status, h, a.body)
	}
	var answers []string
	for _, email := range []string{"known@example.com", "nobdy@example.com"} { // of one length
		known.cookies = map[string]*http.Cookie{}
		a := known.send(t, "POST", "/v1/auth/magic-link", `{"email":"`+email+`"}`, "Content-Type", "application/json")
		known.cookies = map[string]*http.Cookie{}
		page := known.form(t, "/v1/auth/magic-link", url.Values{"email": {email}})
		sent := known.page(t, "/login/sent")
		answers = append(answers, tell(a)+tell(page)+strings.ReplaceAll(token.ReplaceAllString(sent.body, ""), email, "EMAIL"))
	}
	if answers[0] != answers[1] {
		t.Errorf("a known address is answered\n%s\nan unknown one\n%s", answers[0], answers[1])
	}
}

// enumerationByTime: the answer does not wait for what Stytch makes of the address, neither for a second nor for the
// time of a lookup.
func (x *target) enumerationByTime(t *testing.T) {
	_, base := x.Another(t, "api")
	b := newBrowser(t, base)
	ask := func(email string) time.Duration {
		b.cookies = map[string]*http.Cookie{}
		began := time.Now()
		a := b.send(t, "POST", "/v1/auth/magic-link", `{"email":"`+email+`"}`, "Content-Type", "application/json")
		took := time.Since(began)
		if a.status != http.StatusAccepted {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return took
	}
	ask("warm@example.com")
	x.waitForMail(t, "warm@example.com", 1)

	const pairs, delay = 16, 300 * time.Millisecond
	var known, unknown []time.Duration
	for i := range pairs {
		// Stytch is slow for whoever is known: if the answer waited for it, it would show.
		mail := fmt.Sprintf("timed%d@example.com", i/4)
		before := len(x.Mailbox(mail))
		if err := x.Fail(stytchemu.Fault{Kind: stytchemu.FaultSlow, Path: "/v1/magic_links/email", Count: 1, Delay: delay}); err != nil {
			t.Fatal(err)
		}
		known = append(known, ask(mail))
		x.waitForMail(t, mail, before+1)
		unknown = append(unknown, ask(fmt.Sprintf("unknown%d@example.com", i)))
		x.waitForMail(t, fmt.Sprintf("unknown%d@example.com", i), 1)
	}
	slices.Sort(known)
	slices.Sort(unknown)
	// The medians: generous for a machine that is busy, half of what would show.
	if apart := (known[pairs/2] - unknown[pairs/2]).Abs(); apart > delay/2 {
		t.Errorf("known addresses are answered in %s, unknown ones in %s", known[pairs/2], unknown[pairs/2])
	}
	// And while it hangs nobody waits for it.
	if err := x.Fail(stytchemu.Fault{Kind: stytchemu.FaultHang, Path: "/v1/magic_links/email", Count: 1}); err != nil {
		t.Fatal(err)
	}
	if took := ask("hanging@example.com"); took > 3*time.Second {
		t.Errorf("the answer took %s while Stytch hangs", took)
	}
	x.ClearFaults()
}
