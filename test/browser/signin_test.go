package browser

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/writ-project/writ/test/e2e/outside"
)

// TestSignInThroughTheMailbox is a person's way through writ: sign in with a mailed link, look at the account, be
// refused what is somebody else's, sign out, and be nobody afterwards.
func TestSignInThroughTheMailbox(t *testing.T) {
	ctx := visit(t)
	dev := outside.StartDev(t, t.TempDir(), []string{"--seed=false"}, nil)
	rim := outside.NewClient(t, dev.API, dev.SignIn(t, "rim@example.com", "user"))
	var foreign outside.Contact
	rim.Want(t, http.StatusCreated, &foreign, "POST", "/v1/contacts", `{"first_name":"Foreign"}`, "Prefer", "wait=20")

	// Nobody yet: the account sends to the sign-in.
	do(t, ctx, chromedp.Navigate(dev.API+"/account"), chromedp.WaitVisible("#email"))
	if at := get(t, ctx, chromedp.Location()); !strings.HasPrefix(at, dev.API+"/login?return_to=") {
		t.Errorf("who is not signed in is at %s", at)
	}
	screenshot(t, ctx, "login")

	do(t, ctx, chromedp.SendKeys("#email", "sam@example.com"), chromedp.Submit("#email"),
		chromedp.WaitVisible(`//h1[contains(., "got mail")]`))
	if page := text(t, ctx, "main"); !strings.Contains(page, "sam@example.com") {
		t.Errorf("the page after the request says %q", page)
	}
	screenshot(t, ctx, "sent")

	open(t, ctx, dev, "sam@example.com")
	do(t, ctx, chromedp.WaitVisible(`//h1[.="Your account"]`))
	at, page := get(t, ctx, chromedp.Location()), text(t, ctx, "main")
	if at != dev.API+"/account" || !strings.Contains(page, "sam@example.com") || !strings.Contains(page, "What you may do") {
		t.Errorf("signed in, the browser is at %s: %.300s", at, page)
	}
	screenshot(t, ctx, "account")
	session := cookie(t, ctx, "writ_session")
	if session == nil || !session.HTTPOnly || session.SameSite != network.CookieSameSiteLax || session.Path != "/" {
		t.Fatalf("the session's cookie is %+v", session)
	}

	// Somebody else's contact is theirs to change; the same session, as the browser has it.
	if status := fetch(t, ctx, "PATCH", "/v1/contacts/"+foreign.ID, `{"notes":"mine now"}`); status != http.StatusForbidden {
		t.Errorf("a foreign contact was changed: %d", status)
	}
	if status := fetch(t, ctx, "POST", "/v1/contacts", `{"first_name":"Own"}`); status != http.StatusAccepted {
		t.Errorf("an own contact was not made: %d", status)
	}
	do(t, ctx, chromedp.Navigate(dev.API+"/account"), chromedp.WaitVisible("#decisions"))
	if page := text(t, ctx, "main"); !strings.Contains(page, foreign.ID) || !strings.Contains(page, "deny") {
		t.Errorf("the account does not show that it was denied: %.2000s", page)
	}
	if got := rim.Do(t, "GET", "/v1/contacts/"+foreign.ID, ""); strings.Contains(string(got.Body), "mine now") {
		t.Errorf("the foreign contact is %s", got.Body)
	}

	// The opaque token and a JWT of the same session, as they are before the sign-out and after it.
	jwt := exchange(t, dev, session.Value)
	for name, token := range map[string]string{"cookie's token": session.Value, "JWT": jwt} {
		if a := rim.With(token).Do(t, "GET", "/v1/me", ""); a.Status != http.StatusOK || !strings.Contains(string(a.Body), "sam@example.com") {
			t.Fatalf("the %s is no session yet: %d %s", name, a.Status, a.Body)
		}
	}
	do(t, ctx, chromedp.Click(`//button[.="Sign out"]`), chromedp.WaitVisible(`//p[contains(., "signed out")]`))
	if c := cookie(t, ctx, "writ_session"); c != nil {
		t.Errorf("after the sign-out there is the cookie %+v", c)
	}
	for name, token := range map[string]string{"cookie's token": session.Value, "JWT": jwt} {
		if a := rim.With(token).Do(t, "GET", "/v1/me", ""); a.Status != http.StatusUnauthorized {
			t.Errorf("after the sign-out the %s is answered %d %s", name, a.Status, a.Body)
		}
	}
	if a := rim.With("").Do(t, "GET", "/v1/me", "", "Cookie", "writ_session="+session.Value); a.Status != http.StatusUnauthorized {
		t.Errorf("after the sign-out the cookie is answered %d %s", a.Status, a.Body)
	}
	if status, _ := stytch(t, dev, session.Value); status == http.StatusOK {
		t.Error("Stytch still knows the session")
	}
}

// TestLinksThatDoNotSignIn: a page that says why, and a way to a new one.
func TestLinksThatDoNotSignIn(t *testing.T) {
	ctx := visit(t)
	dev := outside.StartDev(t, t.TempDir(), []string{"--seed=false"}, nil)
	do(t, ctx, chromedp.Navigate(dev.API+"/login"), chromedp.WaitVisible("#email"),
		chromedp.SendKeys("#email", "sam@example.com"), chromedp.SetValue("#role", "manager"), chromedp.Submit("#email"), chromedp.WaitVisible(`//h1[contains(., "got mail")]`))
	link := mailed(t, dev, "sam@example.com")

	// Another browser: not this one's link, and it stays good for the one that asked.
	other := visit(t)
	do(t, other, chromedp.Navigate(link), chromedp.WaitVisible(`//h1[contains(., "another browser")]`), chromedp.WaitVisible(`//a[contains(., "new link")]`))
	if c := cookie(t, other, "writ_session"); c != nil {
		t.Error("a foreign link signed in")
	}
	screenshot(t, other, "foreign")

	do(t, ctx, chromedp.Navigate(link), chromedp.WaitVisible(`//h1[.="Your account"]`))
	if roles := text(t, ctx, "section:first-of-type dl"); !strings.Contains(roles, "manager") {
		t.Errorf("the role that was chosen is not there: %s", roles)
	}
	do(t, ctx, chromedp.Navigate(link), chromedp.WaitVisible(`//h1[contains(., "no longer works")]`), chromedp.Click(`//a[contains(., "new link")]`), chromedp.WaitVisible("#email"))
}

// mailed gives the newest link to an address, once it is there.
func mailed(t *testing.T, dev *outside.Dev, to string) string {
	t.Helper()
	return outside.Mailed(t, dev.Mailbox, to, 0)
}

// open opens the newest link to an address on the mailbox page, by a click.
func open(t *testing.T, ctx context.Context, dev *outside.Dev, to string) {
	t.Helper()
	mailed(t, dev, to)
	do(t, ctx, chromedp.Navigate(dev.Mailbox+"/mailbox?to="+url.QueryEscape(to)), chromedp.Click(chromedp.CSS("ol li a")))
}

// cookie finds a cookie of the browser's, nil if there is none.
func cookie(t *testing.T, ctx context.Context, name string) *network.Cookie {
	t.Helper()
	all := get(t, ctx, func(ctx context.Context, target *chromedp.Target) (network.GetCookiesResult, error) {
		return cdp.Call(ctx, target, network.GetCookies, network.GetCookiesParams{})
	})
	for _, c := range all.Cookies {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// fetch sends a request from a page of the api, with its cookies and headers.
func fetch(t *testing.T, ctx context.Context, method, path, body string) (status int) {
	t.Helper()
	call, err := json.Marshal([]string{method, path, body})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(get(t, ctx, chromedp.Location()))
	if err != nil {
		t.Fatal(err)
	}
	// The pages of the sign-in let no script send anything: this one has no such policy.
	do(t, ctx, chromedp.Navigate(u.Scheme+"://"+u.Host+"/livez"))
	return get(t, ctx, chromedp.Evaluate[int](`(async ([method, path, body]) =>
		(await fetch(path, {method, body, headers: {"Content-Type": "application/json"}})).status)(`+string(call)+`)`, awaitPromise))
}

// stytch asks the emulator about a session, as the api does.
func stytch(t *testing.T, dev *outside.Dev, token string) (status int, jwt string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dev.Dir, "keys", "secrets.json"))
	if err != nil {
		t.Fatal(err)
	}
	var keys struct {
		Secret string `json:"stytch_secret"`
	}
	if err := json.Unmarshal(content, &keys); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]string{"session_token": token})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, dev.Mailbox+"/v1/sessions/authenticate", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(outside.LocalProject, keys.Secret)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		JWT string `json:"session_jwt"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, answer.JWT
}

func exchange(t *testing.T, dev *outside.Dev, token string) string {
	t.Helper()
	status, jwt := stytch(t, dev, token)
	if status != http.StatusOK || jwt == "" {
		t.Fatalf("Stytch does not know the session: %d", status)
	}
	return jwt
}

// screenshot keeps what the browser shows, on a desktop and on a phone, where WRIT_SCREENSHOTS names a folder.
func screenshot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("WRIT_SCREENSHOTS")
	if dir == "" {
		return
	}
	for _, size := range []struct {
		name          string
		width, height int64
	}{{"desktop", 1100, 800}, {"phone", 390, 800}} {
		do(t, ctx, chromedp.EmulateViewport(size.width, size.height))
		png := get(t, ctx, chromedp.FullScreenshot(100))
		if err := os.WriteFile(filepath.Join(dir, name+"-"+size.name+".png"), png, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	do(t, ctx, chromedp.EmulateViewport(1100, 900))
}
