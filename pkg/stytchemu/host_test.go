package stytchemu_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/stytchemu"
)

// TestNoPageReachesTheMailboxByAReboundName: whatever leads to 127.0.0.1, the emulator answers under the names of loopback
// and those that it was given.
func TestNoPageReachesTheMailboxByAReboundName(t *testing.T) {
	t.Parallel()
	emu, err := stytchemu.New(stytchemu.Config{ProjectID: projectID, Secret: secret, Hosts: []string{"Stytch.test"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = emu.Close() })
	for host, ours := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:8025": true, "127.8.9.1:1": true, "[::1]:8025": true, "[::1]": true, "localhost": true, "LOCALHOST:8025": true,
		"localhost.:80": true, "writ.localhost:8025": true, "stytch.test": true, "STYTCH.test:99": true,
		"evil.example": false, "evil.example:8025": false, "127.0.0.1.evil.example": false, "localhost.evil.example": false, "notlocalhost": false,
		"127.0.0.1.nip.io:8025": false, "192.168.0.7:8025": false, "0.0.0.0:8025": false, "[::ffff:192.168.0.7]:8025": false, "": false, "x.stytch.test": false,
	} {
		for _, path := range []string{"/mailbox", "/mailbox.json", "/faults", "/v1/sessions/jwks/" + projectID} {
			r, rec := httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+path, nil), httptest.NewRecorder()
			r.Host = host
			emu.ServeHTTP(rec, r)
			want := http.StatusOK
			if !ours {
				want = http.StatusMisdirectedRequest
			}
			if rec.Code != want || !ours && strings.Contains(rec.Body.String(), "mails") {
				t.Errorf("%s under %q: %d %s", path, host, rec.Code, rec.Body)
			}
		}
	}
}
