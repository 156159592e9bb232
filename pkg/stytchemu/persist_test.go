package stytchemu_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/magiclinks"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/sessions"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/users"

	"github.com/writ-project/writ/pkg/stytchemu"
)

func getBody(t *testing.T, url string, read func([]byte)) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("GET %s: %d %v", url, res.StatusCode, err)
	}
	read(body)
}

// kill stops a project as kill -9 does: nothing is closed, and the file may
// end in half a line.
func (p *project) kill(t *testing.T, dir, torn string) string {
	t.Helper()
	p.stop()
	raw, err := os.ReadFile(filepath.Join(dir, "stytch.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	next := t.TempDir() // the dead process still holds the old file
	if err := os.WriteFile(filepath.Join(next, "stytch.jsonl"), append(raw, torn...), 0o600); err != nil {
		t.Fatal(err)
	}
	return next
}

func TestStateSurvivesAKill(t *testing.T) {
	dir := t.TempDir()
	p, ctx := start(t, dir), t.Context()
	in := p.signIn(t, "sam@example.com")
	gone := p.signIn(t, "rim@example.com")
	if _, err := p.Users.Update(ctx, &users.UpdateParams{UserID: in.UserID, TrustedMetadata: map[string]any{"roles": []string{"admin"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Users.Delete(ctx, &users.DeleteParams{UserID: gone.UserID}); err != nil {
		t.Fatal(err)
	}
	p.send(t, "sam@example.com", "")
	token := p.lastToken(t, "sam@example.com")
	jwks := must(p.Sessions.GetJWKS(ctx, &sessions.GetJWKSParams{ProjectID: projectID}))(t)

	for _, torn := range []string{"", `[{"kind":"user","id":"user-te`} {
		dir = p.kill(t, dir, torn)
		p = start(t, dir)
		u := must(p.Users.Get(ctx, &users.GetParams{UserID: in.UserID}))(t)
		if roles, _ := u.TrustedMetadata["roles"].([]any); len(roles) != 1 || roles[0] != "admin" {
			t.Fatalf("roles %v", u.TrustedMetadata)
		}
		_, err := p.Users.Get(ctx, &users.GetParams{UserID: gone.UserID})
		wantError(t, err, 404, "user_not_found")
		_, err = p.Sessions.Authenticate(ctx, &sessions.AuthenticateParams{SessionToken: gone.SessionToken})
		wantError(t, err, 404, "session_not_found")
		if _, err := p.Sessions.Authenticate(ctx, &sessions.AuthenticateParams{SessionToken: in.SessionToken}); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Sessions.Authenticate(ctx, &sessions.AuthenticateParams{SessionJWT: in.SessionJWT}); err != nil {
			t.Fatal(err)
		}
		now := must(p.Sessions.GetJWKS(ctx, &sessions.GetJWKSParams{ProjectID: projectID}))(t)
		if len(now.Keys) != 1 || now.Keys[0].Kid != jwks.Keys[0].Kid || now.Keys[0].N != jwks.Keys[0].N {
			t.Fatal("another signing key")
		}
		if got := p.lastToken(t, "sam@example.com"); got != token || len(p.emu.Mailbox("")) != 3 {
			t.Fatalf("mailbox %+v", p.emu.Mailbox(""))
		}
	}
	if _, err := p.MagicLinks.Authenticate(ctx, &magiclinks.AuthenticateParams{Token: token}); err != nil {
		t.Fatal(err)
	}
	p = start(t, p.kill(t, dir, ""))
	_, err := p.MagicLinks.Authenticate(ctx, &magiclinks.AuthenticateParams{Token: token})
	wantError(t, err, 401, "unable_to_auth_magic_link")
}

func TestCloseAndReopen(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	in := p.signIn(t, "sam@example.com")
	if err := p.emu.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Users.Create(t.Context(), &users.CreateParams{Email: "late@example.com"}); err == nil {
		t.Fatal("a closed emulator took a user")
	}
	p = start(t, dir)
	if _, err := p.Sessions.Authenticate(t.Context(), &sessions.AuthenticateParams{SessionToken: in.SessionToken}); err != nil {
		t.Fatal(err)
	}
}

func TestWhatExpiredIsForgotten(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	p.signIn(t, "sam@example.com")
	p.send(t, "sam@example.com", "")
	p.clock.Add(2 * time.Hour)
	dir = p.kill(t, dir, "")
	next, err := stytchemu.New(stytchemu.Config{ProjectID: projectID, Secret: secret, Dir: dir, Clock: p.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	raw, err := os.ReadFile(filepath.Join(dir, "stytch.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"session", "link"} {
		if bytes.Contains(raw, []byte(`"kind":"`+kind+`"`)) {
			t.Errorf("an expired %s is kept", kind)
		}
	}
	if len(next.Mailbox("")) != 2 {
		t.Error("mail is not kept")
	}
}

func TestADamagedFileIsNamed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "stytch.jsonl")
	if err := os.WriteFile(file, []byte("nonsense\n[]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := stytchemu.New(stytchemu.Config{ProjectID: projectID, Secret: secret, Dir: dir})
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte(file)) {
		t.Fatalf("error %v", err)
	}
}
