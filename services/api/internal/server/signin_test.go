package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/services/api/internal/signin"
)

// cookieName is the session's where the public URL is not a local stack's.
const cookieName = "__Host-writ_session"

// other is the rig with an identity client of its own: another process.
func (r *rig) other() *rig {
	r.t.Helper()
	out := *r
	out.id = need(identity.New(r.t.Context(), identity.Config{ProjectID: project, Secret: secret, BaseURL: r.stytch}))(r.t)
	r.t.Cleanup(out.id.Close)
	return &out
}

// TestSessionsEndInEveryInstance: a sign-out in one api refuses the JWT and the opaque token in the others, at once
// and not when their caches say so.
func TestSessionsEndInEveryInstance(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, _ = r.person("sam", "user")
	here, there := r.api(), r.other().api()
	u := need(r.id.UserByEmail(t.Context(), "sam@example.com"))(t)
	in := need(r.id.AuthenticateMagicLink(t.Context(), need(r.id.CreateToken(t.Context(), u.ID))(t), "", ""))(t)
	for _, api := range []string{here, there} {
		for _, token := range []string{in.JWT, in.Token} { // cached from now on
			if a := r.do("GET", api+"/v1/contacts", token, ""); a.status != http.StatusOK {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
	}
	if a := r.do("POST", here+"/v1/auth/logout", in.Token, ""); a.status != http.StatusNoContent {
		t.Fatalf("%d %s", a.status, a.body)
	}
	for _, token := range []string{in.JWT, in.Token} {
		if a := r.do("GET", here+"/v1/contacts", token, ""); a.status != http.StatusUnauthorized {
			t.Errorf("where it was ended: %d", a.status)
		}
		testkit.Eventually(t, 5*time.Second, func() error {
			if a := r.do("GET", there+"/v1/contacts", token, ""); a.status != http.StatusUnauthorized {
				return fmt.Errorf("in another instance: %d", a.status)
			}
			return nil
		})
	}
	if a := r.do("POST", there+"/v1/auth/logout", in.Token, ""); a.status != http.StatusNoContent {
		t.Errorf("signing out again: %d %s", a.status, a.body)
	}
	if a := r.do("POST", there+"/v1/auth/logout", "", ""); a.status != http.StatusUnauthorized {
		t.Errorf("signing out nobody: %d %s", a.status, a.body)
	}
}

// TestForgedNoticesEndNothing: write access to NATS signs nobody out.
func TestForgedNoticesEndNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, token := r.person("sam", "user")
	api := r.api()
	session := need(r.id.Authenticate(t.Context(), token))(t)
	foreign := need(events.ParseKeyring(events.GenerateKey("test")))(t)
	n := ended{SessionID: session.ID}
	unsealed := need(json.Marshal(n))(t)
	n.Seal = foreign.Seal(n.sealed())
	wrong := need(json.Marshal(n))(t)
	n.Seal = r.keys.Seal(ended{SessionID: "session-test-of-somebody-else"}.sealed())
	moved := need(json.Marshal(n))(t)
	for _, data := range [][]byte{unsealed, wrong, moved, []byte("{"), nil, make([]byte, 2*maxNotice)} {
		must(t, r.ledger.Notify(events.SubjectRevoked, data))
	}
	// One that is ours, behind them on the same connection: when it has been heard, so have they.
	_, last := r.person("rim", "user")
	n = ended{SessionID: need(r.id.Authenticate(t.Context(), last))(t).ID}
	n.Seal = r.keys.Seal(n.sealed())
	must(t, r.ledger.Notify(events.SubjectRevoked, need(json.Marshal(n))(t)))
	testkit.Eventually(t, 5*time.Second, func() error {
		if a := r.do("GET", api+"/v1/contacts", last, ""); a.status != http.StatusUnauthorized {
			return fmt.Errorf("%d", a.status)
		}
		return nil
	})
	if a := r.do("GET", api+"/v1/contacts", token, ""); a.status != http.StatusOK {
		t.Errorf("a forged notice ended a session: %d", a.status)
	}
}

// TestCookieIsASessionOfThisSite: it is as good as the header, but what changes something must say where it comes from.
func TestCookieIsASessionOfThisSite(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, token := r.person("sam", "user")
	api := r.api()
	cookie := cookieName + "=" + token
	a := r.do("GET", api+"/v1/contacts", "", "", "Cookie", cookie)
	if a.status != http.StatusOK || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("a read: %d %v", a.status, a.header)
	}
	for _, c := range []struct {
		name    string
		headers []string
		status  int
	}{
		{"no word of where from", nil, http.StatusForbidden},
		{"another site", []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		{"a sister", []string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		{"another origin", []string{"Origin", "https://evil.example"}, http.StatusForbidden},
		{"this site", []string{"Sec-Fetch-Site", "same-origin"}, http.StatusAccepted},
		{"this site, an older browser", []string{"Origin", api}, http.StatusAccepted},
		{"another site and a token of its own", []string{"Sec-Fetch-Site", "cross-site", "Authorization", "Bearer " + token}, http.StatusAccepted},
		// A proxy before the api may have asked for a password: the cookie counts, as if that were not there.
		{"another scheme", []string{"Sec-Fetch-Site", "cross-site", "Authorization", "Basic x"}, http.StatusForbidden},
		{"another scheme, this site", []string{"Sec-Fetch-Site", "same-origin", "Authorization", "basic x"}, http.StatusAccepted},
		{"another scheme, of one word", []string{"Sec-Fetch-Site", "same-origin", "Authorization", "Negotiate"}, http.StatusAccepted},
		{"a bearer token that is none", []string{"Sec-Fetch-Site", "same-origin", "Authorization", "Bearer"}, http.StatusUnauthorized},
		{"two cookies", []string{"Sec-Fetch-Site", "same-origin", "Cookie", cookie + "; " + cookieName + "=x"}, http.StatusBadRequest},
	} {
		got := r.do("POST", api+"/v1/contacts", "", `{"first_name":"x"}`, append([]string{"Cookie", cookie}, c.headers...)...)
		if got.status != c.status {
			t.Errorf("%s: %d %s, want %d", c.name, got.status, got.body, c.status)
		}
	}
	if a := r.do("GET", api+"/v1/contacts", "", "", "Cookie", "writ_session="+token); a.status != http.StatusUnauthorized {
		t.Errorf("the local stack's cookie is taken elsewhere: %d", a.status)
	}
}

// TestAccountIsDecidedAndRecorded: what it tells stands on the ledger, and it shows the ledger's latest decisions about
// the one who looks and about nobody else.
func TestAccountIsDecidedAndRecorded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	sam, token := r.person("sam", "user")
	_, rims := r.person("rim", "user")
	api := r.api()
	theirs := r.contact("user-test-of-somebody-else")
	r.do("PATCH", api+"/v1/contacts/"+theirs, token, `{"notes":"x"}`)
	r.do("GET", api+"/v1/contacts", rims, "")
	look := func(headers ...string) (a signin.Account) {
		t.Helper()
		got := r.do("GET", api+"/account", token, "", headers...)
		if got.status != http.StatusOK {
			t.Fatalf("%d %s", got.status, got.body)
		}
		must(t, json.Unmarshal(got.body, &a))
		return a
	}
	first := look()
	if first.ID != sam || first.Email != "sam@example.com" || fmt.Sprint(first.Roles) != "[user]" || len(first.May) != 3 || first.Looked == 0 {
		t.Errorf("%+v", first)
	}
	if len(first.Decisions) == 0 || first.Decisions[0].ResourceID != theirs || first.Decisions[0].Effect != "deny" || first.Decisions[0].Reason == "" {
		t.Errorf("the latest decision is %+v", first.Decisions)
	}
	second := look()
	if d := second.Decisions[0]; d.Kind != "audit" || d.Action != "read" || d.Route != "/account" {
		t.Errorf("the look before is not there: %+v", d)
	}
	own, shown := map[string]bool{}, 0
	for _, e := range r.events() {
		if d := e.Decision; d.Principal.ID == sam {
			own[d.ID] = true
			if d.Request.Route == "/account" {
				shown++
			}
		}
	}
	for _, d := range second.Decisions {
		if !own[d.ID] {
			t.Errorf("a decision about somebody else is shown: %+v", d)
		}
	}
	if told := actions(first) + actions(second) + 2*2; shown != told { // and that they may read themselves, and what was decided
		t.Errorf("%d decisions for what was told, want %d", shown, told)
	}
	// In another tenant nothing of this one is seen.
	if a := look("Writ-Tenant", "acme"); fmt.Sprint(a.Roles) != "[guest]" || len(a.Decisions) != 0 {
		t.Errorf("in a foreign tenant: %v %v", a.Roles, a.Decisions)
	}
	for range 30 {
		r.do("GET", api+"/v1/contacts", token, "")
	}
	if a := look(); len(a.Decisions) != accountDecisions {
		t.Errorf("%d decisions are shown", len(a.Decisions))
	}
	if a := r.do("GET", api+"/account", "", "", "Accept", "text/html"); a.status != http.StatusOK || !strings.Contains(string(a.body), "Send me a link") {
		t.Errorf("a browser without a session is shown %d %.200s", a.status, a.body) // the client followed to the sign-in
	}
}

// TestTheAccountShowsWhatCerbosWasAsked: the question and the answer of each decision that it shows, in JSON and on the
// page, as they stand on the ledger; but of somebody else's resource no more than the one who was denied may know.
func TestTheAccountShowsWhatCerbosWasAsked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	sam, token := r.person("sam", "user")
	api := r.api()
	const hostile = `<script>alert("x")</script>`
	theirs := r.contact("user-test-of-somebody-else")
	r.do("PATCH", api+"/v1/contacts/"+theirs, token, `{"notes":"x"}`, "User-Agent", hostile)
	row := need(r.store.Get(t.Context(), user.Kind, sam))(t)
	u := row.Value.(*user.User)
	u.Tenants = map[string]user.Membership{user.DefaultTenant: {Roles: []string{"user"}, Attr: map[string]any{"note": hostile}}}
	r.put(user.Kind, row)
	got := r.do("GET", api+"/account", token, "")
	var a signin.Account
	must(t, json.Unmarshal(got.body, &a))
	recorded := map[string]events.Decision{}
	for _, e := range r.events() {
		if e.Decision.ID != "" {
			recorded[e.Decision.ID] = e.Decision
		}
	}
	check := func(what string, c signin.AccountCerbos) {
		t.Helper()
		d, ok := recorded[c.DecisionID]
		if !ok || c.Asked.Principal.ID != sam || c.Asked.Action != d.Action || c.Asked.Resource.Kind != d.Resource.Kind || c.Answered.Effect != string(d.Effect) ||
			c.Answered.CallID != d.CallID || fmt.Sprint(c.Asked.Principal.Roles) != fmt.Sprint(d.Principal.Roles) || len(c.Asked.Resource.Attr)+len(c.Asked.Resource.Withheld) != len(d.Resource.Attr) {
			t.Errorf("%s: %+v, recorded %+v", what, c, d)
		}
	}
	for _, k := range a.May {
		for _, action := range k.Actions {
			want := 1
			if action.Own != "" {
				want = 3
			}
			if len(action.Cerbos) != want {
				t.Errorf("%s %s: %d questions", action.Action, k.Kind, len(action.Cerbos))
			}
			for _, c := range action.Cerbos {
				check(action.Action+" "+k.Kind, c)
				if c.Answered.Filter == nil || len(c.Asked.Resource.Withheld) > 0 {
					t.Errorf("%s %s: %+v", action.Action, k.Kind, c)
				}
			}
		}
	}
	denied := a.Decisions[0]
	if denied.ResourceID != theirs || denied.Cerbos == nil {
		t.Fatalf("%+v", denied)
	}
	check("denied", *denied.Cerbos)
	if res := denied.Cerbos.Asked.Resource; !slices.Contains(res.Withheld, "owner_id") || res.Attr["tenant"] != user.DefaultTenant || res.Attr["changes"] == nil {
		t.Errorf("of somebody else's contact: %+v", res)
	}
	if strings.Contains(string(got.body), "user-test-of-somebody-else") || strings.Contains(string(got.body), token) {
		t.Error("the account tells whose the contact is, or the session's token")
	}
	page := r.do("GET", api+"/account", token, "", "Accept", "text/html")
	text := string(page.body)
	for _, want := range []string{"<details><summary>update contact</summary>", "Somebody else’s", "&#34;filter&#34;", denied.Cerbos.DecisionID, "&#34;withheld&#34;"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if page.status != http.StatusOK || strings.Contains(text, "<script") || strings.Contains(text, "user-test-of-somebody-else") || strings.Contains(text, token) {
		t.Errorf("%d %.300s", page.status, text)
	}
}

func actions(a signin.Account) (n int) {
	for _, k := range a.May {
		for _, action := range k.Actions {
			if n++; action.Own != "" {
				n += 2
			}
		}
	}
	return n
}

// TestSignInFailsClosed: without Stytch nobody is told that a link is on its way, and nobody is said to be signed out.
func TestSignInFailsClosed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, token := r.person("sam", "user")
	api := r.api()
	if a := r.do("GET", api+"/v1/contacts", token, ""); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r.stopStytch()
	out := r.do("POST", api+"/v1/auth/logout", token, "")
	if out.status != http.StatusServiceUnavailable || out.header.Get("Retry-After") == "" {
		t.Errorf("signing out: %d %s", out.status, out.body)
	}
	if a := r.do("GET", api+"/v1/contacts", token, ""); a.status != http.StatusOK {
		t.Errorf("the session that was not ended: %d", a.status)
	}
	fresh := r.other().api() // which has no answer of before
	a := r.do("POST", fresh+"/v1/auth/magic-link", "", `{"email":"sam@example.com"}`)
	if a.status != http.StatusServiceUnavailable || len(a.header.Values("Set-Cookie")) > 0 {
		t.Errorf("a link: %d %s", a.status, a.body)
	}
}

// TestCredentialsThatStytchRefusesAre503: a wrong STYTCH_SECRET is an outage of ours, for whoever signs in, is signed in
// or signs out; and from then on nobody is told that a link is on its way.
func TestCredentialsThatStytchRefusesAre503(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.id = need(identity.New(t.Context(), identity.Config{ProjectID: project, Secret: "of another project", BaseURL: r.stytch}))(t)
	t.Cleanup(r.id.Close)
	api := r.api()
	sent := r.do("POST", api+"/v1/auth/magic-link", "", `{"email":"sam@example.com"}`)
	if sent.status != http.StatusAccepted {
		t.Fatalf("%d %s", sent.status, sent.body)
	}
	cookie, _, _ := strings.Cut(sent.header.Get("Set-Cookie"), ";")
	link := api + "/v1/auth/callback?token=" + strings.Repeat("x", 44)
	opaque := strings.Repeat("s", 44)
	for what, a := range map[string]answer{
		"the link":    r.do("GET", link, "", "", "Cookie", cookie),
		"its page":    r.do("GET", link, "", "", "Cookie", cookie, "Accept", "text/html"),
		"a session":   r.do("GET", api+"/v1/me", opaque, ""),
		"the account": r.do("GET", api+"/account", "", "", "Cookie", cookieName+"="+opaque, "Accept", "text/html"),
		"a sign-out":  r.do("POST", api+"/v1/auth/logout", opaque, ""),
	} {
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || strings.Contains(string(a.body), "of another project") {
			t.Errorf("%s: %d %.300s", what, a.status, a.body)
		}
	}
	if a := r.do("POST", api+"/v1/auth/magic-link", "", `{"email":"rim@example.com"}`); a.status != http.StatusServiceUnavailable || a.problem(t).Code != "unauthorized-credentials" {
		t.Errorf("another link: %d %s", a.status, a.body)
	}
}

// TestAnExpiredJWTSignsNobodyOut: its session may go on, and whoever sent it hears that.
func TestAnExpiredJWTSignsNobodyOut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, _ = r.person("sam", "user")
	u := need(r.id.UserByEmail(t.Context(), "sam@example.com"))(t)
	in := need(r.id.AuthenticateMagicLink(t.Context(), need(r.id.CreateToken(t.Context(), u.ID))(t), "", ""))(t)
	later := *r
	later.id = need(identity.New(t.Context(), identity.Config{ProjectID: project, Secret: secret, BaseURL: r.stytch,
		Clock: func() time.Time { return time.Now().Add(10 * time.Minute) }}))(t)
	t.Cleanup(later.id.Close)
	api := later.api()
	if a := r.do("POST", api+"/v1/auth/logout", in.JWT, ""); a.status != http.StatusUnauthorized || a.problem(t).Code != "expired-token" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := r.do("GET", api+"/v1/contacts", in.Token, ""); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := r.do("POST", api+"/v1/auth/logout", in.Token, ""); a.status != http.StatusNoContent {
		t.Errorf("%d %s", a.status, a.body)
	}
}
