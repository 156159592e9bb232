package server

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/writ-project/writ/pkg/request"
)

// TestClientsBehindAProxyAreToldApart: decisions record whom the proxy names, and what one of its clients asks for is not
// counted against another. Without the setting the header is the client's own claim.
func TestClientsBehindAProxyAreToldApart(t *testing.T) {
	t.Parallel()
	const here = "127.0.0.1"
	r := newRig(t)
	_, token := r.person("sam", "user")
	for _, c := range []struct {
		trusted      request.Proxies
		name, remote string
	}{{nil, "203.0.113.9", here}, {need(request.ParseProxies(here))(t), "198.51.100.1, 203.0.113.9", "203.0.113.9"}} {
		r.proxies = c.trusted
		api := r.api()
		if a := r.do("GET", api+"/v1/contacts", token, "", request.ForwardedFor, c.name); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
		all := r.events()
		d := all[len(all)-1].Decision
		if d.Request.Remote != c.remote {
			t.Errorf("trusting %v: recorded from %s, want %s", c.trusted, d.Request.Remote, c.remote)
		}
		ask := func(i int, from string) (refused bool) {
			a := r.do("POST", api+"/v1/auth/magic-link", "", fmt.Sprintf(`{"email":"p%d@example.com"}`, i), request.ForwardedFor, from)
			return a.status == http.StatusTooManyRequests
		}
		n := 0
		for n < 100 && !ask(n, c.name) {
			n++
		}
		if other := ask(n+1, "203.0.113.10"); n == 100 || other != (c.trusted == nil) {
			t.Errorf("trusting %v: refused after %d, and another client: %v", c.trusted, n, other)
		}
	}
}
