package openapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/testkit"
)

// Operations whose bodies or answers are no JSON, or whose requests are signed.
const (
	pathContent = "/v1/videos/{id}/content"
	pathEvents  = "/v1/videos/{id}/events"
	pathStytch  = "/v1/webhooks/stytch"
)

// exempt are operations whose valid input the generator cannot make from the document, and why; each has a test of its
// own. They are sent what it makes all the same, and their answers are held against the document.
var exempt = map[string]string{
	"POST " + pathStytch: "a signature over the body: stytch",
	"POST " + sendLink:   "counts by address: signIn",
	"GET " + redeem:      "a link that was mailed, and the cookie of who asked for it: signIn",
	"POST " + signOut:    "a session, which it ends: signIn",
	"PUT " + pathContent: "ranges and digests that fit the bytes: files",
	"GET " + pathEvents:  "an answer that does not end: opens",
}

const fileText = "bytes"

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

// files sends and gets a video's file as the document says.
func (s *suite) files(t *testing.T) {
	put, get := s.operation("PUT", pathContent), s.operation("GET", pathContent)
	id := s.id(t, put)
	want := func(op *operation, status int, body string, headers ...string) {
		t.Helper()
		if a := s.send(t, s.admin, call{op: op, path: s.at(op, id), body: body, headers: headers}); a.Status != status {
			t.Errorf("%s %q: %d %s, want %d", op, headers, a.Status, a.Body, status)
		}
	}
	want(get, http.StatusNotFound, "")
	want(put, http.StatusUnprocessableEntity, fileText, "Repr-Digest", digest("others"))
	want(put, http.StatusUnprocessableEntity, fileText, "Repr-Digest", "sha-256=:AA==:")
	want(put, http.StatusUnprocessableEntity, fileText, "Content-Range", "rubbish")
	want(put, http.StatusUnprocessableEntity, fileText, "Content-Type", "film")
	want(put, http.StatusConflict, "ytes", "Content-Range", "bytes 1-4/5")
	want(put, http.StatusRequestEntityTooLarge, "by", "Content-Range", "bytes 0-1/999999999999999")
	want(put, http.StatusPreconditionFailed, fileText, "If-Match", `"77"`, "Prefer", "wait=20")
	want(put, http.StatusNoContent, "by", "Content-Range", "bytes 0-1/5", "Content-Type", "video/mp4")
	want(put, http.StatusOK, "tes", "Content-Range", "bytes 2-4/5", "Repr-Digest", digest(fileText), "Prefer", "wait=20")
	want(put, http.StatusAccepted, fileText, "Content-Digest", digest(fileText))
	want(get, http.StatusOK, "")
	want(get, http.StatusPartialContent, "", "Range", "bytes=1-2")
	want(get, http.StatusPartialContent, "", "Range", "bytes=0-0,2-3")
	want(get, http.StatusRequestedRangeNotSatisfiable, "", "Range", "bytes=99-")
	tag := s.admin.Do(t, "GET", s.at(get, id), "").Header.Get("ETag")
	want(get, http.StatusNotModified, "", "If-None-Match", tag)
}

// jobs looks after a job that waits.
func (s *suite) jobs(t *testing.T) {
	send := func(op *operation, id string, want int) {
		t.Helper()
		if a := s.send(t, s.admin, call{op: op, path: s.at(op, id)}); a.Status != want {
			t.Errorf("%s: %d %s, want %d", op, a.Status, a.Body, want)
		}
	}
	send(s.operation("POST", "/v1/queues/{name}/pause"), "probe", http.StatusOK)
	id := s.job(t)
	send(s.operation("POST", "/v1/jobs/{id}/cancel"), id, http.StatusOK)
	send(s.operation("POST", "/v1/jobs/{id}/cancel"), id, http.StatusConflict)
	send(s.operation("POST", "/v1/jobs/{id}/retry"), id, http.StatusOK)
	send(s.operation("POST", "/v1/queues/{name}/resume"), "probe", http.StatusOK)
}

// letters replays and discards.
func (s *suite) letters(t *testing.T) {
	replay, discard := s.operation("POST", "/v1/dead/{id}/replay"), s.operation("DELETE", "/v1/dead/{id}")
	if a := s.send(t, s.admin, call{op: replay, path: s.at(replay, s.letter(t)), body: `{"reason":"x"}`}); a.Status != http.StatusAccepted {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if a := s.send(t, s.admin, call{op: discard, path: s.at(discard, s.letter(t)) + "?reason=x"}); a.Status != http.StatusNoContent {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// membership takes somebody into a tenant and out of it.
func (s *suite) membership(t *testing.T) {
	const path = "/v1/tenants/{key}/members/{user}"
	for _, c := range []struct {
		method, body string
		want         int
	}{{"PUT", `{"roles":["user"],"attr":{"region":"eu"}}`, http.StatusOK}, {"DELETE", "", http.StatusNoContent}} {
		op := s.operation(c.method, path)
		if a := s.send(t, s.admin, call{op: op, path: s.at(op, s.ids["tenants"][0]), body: c.body, headers: []string{"Prefer", "wait=20"}}); a.Status != c.want {
			t.Errorf("%s: %d %s", op, a.Status, a.Body)
		}
	}
}

// usersAgain makes a user who is there already: their name changes.
func (s *suite) usersAgain(t *testing.T) {
	op := s.operation("POST", "/v1/users")
	for i, want := range []int{http.StatusCreated, http.StatusOK} {
		body := fmt.Sprintf(`{"email":"again@openapi.example","first_name":"Number %d"}`, i)
		if a := s.send(t, s.admin, call{op: op, path: op.path, body: body, headers: []string{"Prefer", "wait=20"}}); a.Status != want {
			t.Errorf("%d %s, want %d", a.Status, a.Body, want)
		}
	}
}

// disabled enables a webhook whose receiver has said that it is gone.
func (s *suite) disabled(t *testing.T) {
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }))
	defer receiver.Close()
	defer http.DefaultClient.CloseIdleConnections()
	var hook struct{ ID string }
	a := s.admin.Want(t, http.StatusCreated, &hook, "POST", "/v1/webhooks", fmt.Sprintf(`{"url":%q,"kinds":["contact"]}`, receiver.URL), "Prefer", "wait=20")
	s.ids["webhooks"] = append(s.ids["webhooks"], hook.ID)
	s.admin.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"x"}`, "Prefer", "wait=20")
	testkit.Eventually(t, 30*time.Second, func() error {
		if a = s.admin.Do(t, "GET", "/v1/webhooks/"+hook.ID, ""); !strings.Contains(string(a.Body), "DISABLED") {
			return fmt.Errorf("%d %s", a.Status, a.Body)
		}
		return nil
	})
	op := s.operation("POST", "/v1/webhooks/{id}/enable")
	if a := s.send(t, s.admin, call{op: op, path: s.at(op, hook.ID), headers: []string{"Prefer", "wait=20"}}); a.Status != http.StatusOK {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// stytchSecret is what Stytch's webhooks are signed with (Svix).
var stytchSecret = []byte("secret-of-stytch-webhooks")

// stytch sends signed and unsigned messages.
func (s *suite) stytch(t *testing.T) {
	op := s.operation("POST", pathStytch)
	for _, c := range []struct {
		body, signed string
		want         int
	}{
		{fmt.Sprintf(`{"object_type":"user","id":%q}`, s.userID), "", http.StatusAccepted},
		{`{"object_type":"member","id":"x"}`, "", http.StatusNoContent},
		{`{"object_type":"user","id":"user-test-nobody"}`, "", http.StatusNoContent},
		{`{"object_type":"user"}`, "", http.StatusUnprocessableEntity},
		{`[]`, "", http.StatusUnprocessableEntity},
		{`{"object_type":"user"}`, "another", http.StatusUnauthorized},
	} {
		id, at := "msg_"+uuid.NewString(), strconv.FormatInt(time.Now().Unix(), 10)
		signed := c.signed
		if signed == "" {
			signed = c.body
		}
		mac := hmac.New(sha256.New, stytchSecret)
		fmt.Fprintf(mac, "%s.%s.%s", id, at, signed)
		headers := []string{"Svix-Id", id, "Svix-Timestamp", at, "Svix-Signature", "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))}
		if a := s.send(t, s.anonymous, call{op: op, path: op.path, body: c.body, headers: headers}); a.Status != c.want {
			t.Errorf("%s: %d %s, want %d", c.body, a.Status, a.Body, c.want)
		}
	}
}
