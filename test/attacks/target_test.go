// Package attacks tries to get in where one must not: from outside, over HTTP, against the services as they are
// deployed. Stytch is the emulator behind a counter, so that a call that must not be made is noticed.
package attacks

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/stytchemu"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	project = "project-test-22222222-2222-4222-8222-222222222222"
	secret  = "secret-test-of-the-attacks"
	public  = "https://writ.example"
	soon    = 20 * time.Second
)

// target is what is attacked.
type target struct {
	*outside.Services
	*stytchemu.Emulator

	mu    sync.Mutex
	calls map[string]int
	keys  int // fetches of the keys that counted has taken out of calls
}

func start(t *testing.T) *target {
	t.Helper()
	emulator, err := stytchemu.New(stytchemu.Config{ProjectID: project, Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	x := &target{Emulator: emulator, calls: map[string]int{}}
	stytch := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x.mu.Lock()
		x.calls[r.Method+" "+r.URL.Path]++
		x.mu.Unlock()
		emulator.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		stytch.CloseClientConnections()
		stytch.Close()
		if err := emulator.Close(); err != nil {
			t.Error(err)
		}
	})
	x.Services = outside.StartServices(t, "attacks", "STYTCH_PROJECT_ID="+project, "STYTCH_SECRET="+secret,
		"STYTCH_BASE_URL="+stytch.URL, "WRIT_PUBLIC_URL="+public)
	return x
}

// counted gives the calls to Stytch since the last time, without those that ask whether it is there.
func (x *target) counted() map[string]int {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := maps.Clone(x.calls)
	clear(x.calls)
	x.keys += out[keysPath]
	delete(out, keysPath)
	return out
}

// keysPath is fetched to see whether Stytch is there, too.
const keysPath = "GET /v1/sessions/jwks/" + project

// keyFetches counts how often the keys were fetched.
func (x *target) keyFetches() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.keys + x.calls[keysPath]
}

// browser is one that sends what browsers send, keeps cookies, and follows nothing.
type browser struct {
	base    string
	cookies map[string]*http.Cookie
	http    *http.Client
}

func (x *target) browser(t *testing.T) *browser { return newBrowser(t, x.API) }

func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &browser{base: base, cookies: map[string]*http.Cookie{}, http: &http.Client{
		Transport: transport, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (b *browser) send(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, b.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range b.cookies {
		r.AddCookie(c)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := b.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range res.Cookies() {
		if c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		} else {
			b.cookies[c.Name] = c
		}
	}
	return answer{res.StatusCode, res.Header, string(text)}
}

// page opens a page.
func (b *browser) page(t *testing.T, path string) answer {
	t.Helper()
	return b.send(t, "GET", path, "", "Accept", "text/html,application/xhtml+xml", "Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate")
}

var token = regexp.MustCompile(`name="form_token" value="([^"]+)"`)

// form sends the sign-in page's form, or another with its token, as a page of this site.
func (b *browser) form(t *testing.T, path string, values url.Values) answer {
	t.Helper()
	found := token.FindStringSubmatch(b.page(t, "/login").body)
	if found == nil {
		t.Fatal("the sign-in page has no form token")
	}
	values.Set("form_token", found[1])
	return b.submit(t, path, values, "same-origin")
}

// submit sends a form from a page of a site.
func (b *browser) submit(t *testing.T, path string, values url.Values, site string) answer {
	t.Helper()
	return b.send(t, "POST", path, values.Encode(), "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", site, "Accept", "text/html")
}

// ask has a link sent to an address and gives its path on the api.
func (b *browser) ask(t *testing.T, x *target, email string, more ...string) string {
	t.Helper()
	before := len(x.Mailbox(email))
	values := url.Values{"email": {email}}
	for i := 0; i < len(more); i += 2 {
		values.Set(more[i], more[i+1])
	}
	if a := b.form(t, "/v1/auth/magic-link", values); a.status != http.StatusSeeOther || a.header.Get("Location") != "/login/sent" {
		t.Fatalf("the form was answered %d %s %s", a.status, a.header, a.body)
	}
	return x.link(t, email, before)
}

// link waits for the next link to an address.
func (x *target) link(t *testing.T, email string, before int) string {
	t.Helper()
	testkit.Eventually(t, soon, func() error {
		if len(x.Mailbox(email)) <= before {
			return errNoMail
		}
		return nil
	})
	link, ok := strings.CutPrefix(x.Mailbox(email)[0].URL, public)
	if !ok {
		t.Fatalf("the link is %s", x.Mailbox(email)[0].URL)
	}
	return link
}

// signIn signs in by a link that this browser asked for.
func (b *browser) signIn(t *testing.T, x *target, email string, more ...string) answer {
	t.Helper()
	a := b.page(t, b.ask(t, x, email, more...))
	if a.status != http.StatusSeeOther || b.cookies["__Host-writ_session"] == nil {
		t.Fatalf("the link was answered %d %s", a.status, a.body)
	}
	return a
}
