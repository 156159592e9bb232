package request

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestClientIsWhomTheTrustedProxiesName: what a client writes into the header itself never counts.
func TestClientIsWhomTheTrustedProxiesName(t *testing.T) {
	const trusted = "10.0.0.0/8, 192.0.2.7 ,fd00::/8"
	for name, c := range map[string]struct {
		trusted, peer string
		header        []string
		want          string
	}{
		"nobody is trusted":               {"", "10.0.0.1:1", []string{"203.0.113.9"}, "10.0.0.1"},
		"a stranger":                      {trusted, "198.51.100.1:1", []string{"203.0.113.9"}, "198.51.100.1"},
		"a proxy":                         {trusted, "10.0.0.1:1", []string{"203.0.113.9"}, "203.0.113.9"},
		"a proxy by its one address":      {trusted, "192.0.2.7:1", []string{"203.0.113.9"}, "203.0.113.9"},
		"beside that address":             {trusted, "192.0.2.8:1", []string{"203.0.113.9"}, "192.0.2.8"},
		"a claim of the client's":         {trusted, "10.0.0.1:1", []string{"127.0.0.1, 203.0.113.9"}, "203.0.113.9"},
		"a claim in a line of its own":    {trusted, "10.0.0.1:1", []string{"127.0.0.1", "203.0.113.9"}, "203.0.113.9"},
		"two proxies":                     {trusted, "10.0.0.1:1", []string{"1.1.1.1, 203.0.113.9 ,\tfd00::2"}, "203.0.113.9"},
		"a client who claims to be one":   {trusted, "10.0.0.1:1", []string{"1.1.1.1, 10.9.9.9, 203.0.113.9"}, "203.0.113.9"},
		"only proxies":                    {trusted, "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"no header":                       {trusted, "10.0.0.1:1", nil, "10.0.0.1"},
		"an empty one":                    {trusted, "10.0.0.1:1", []string{""}, "10.0.0.1"},
		"rubbish":                         {trusted, "10.0.0.1:1", []string{"203.0.113.9, unknown"}, "10.0.0.1"},
		"rubbish behind a proxy":          {trusted, "10.0.0.1:1", []string{"203.0.113.9, <script>, 10.0.0.2"}, "10.0.0.2"},
		"an empty hop":                    {trusted, "10.0.0.1:1", []string{"203.0.113.9,"}, "10.0.0.1"},
		"a port":                          {trusted, "10.0.0.1:1", []string{"203.0.113.9:4711"}, "203.0.113.9"},
		"IPv6":                            {trusted, "[fd00::1]:1", []string{"2001:DB8:0::1"}, "2001:db8::1"},
		"IPv6 in brackets, with a port":   {trusted, "[fd00::1]:1", []string{"[2001:db8::1]:80"}, "2001:db8::1"},
		"IPv6 in brackets":                {trusted, "[fd00::1]:1", []string{"[2001:db8::1]"}, "2001:db8::1"},
		"IPv4 in IPv6":                    {trusted, "[::ffff:10.0.0.1]:1", []string{"::ffff:203.0.113.9"}, "203.0.113.9"},
		"a zone":                          {trusted, "[fe80::1%eth0]:1", []string{"203.0.113.9"}, "fe80::1"},
		"more hops than are looked at":    {trusted, "10.0.0.1:1", []string{"203.0.113.9" + strings.Repeat(", 10.0.0.2", maxHops)}, "10.0.0.2"},
		"as many hops as are looked at":   {trusted, "10.0.0.1:1", []string{"203.0.113.9" + strings.Repeat(", 10.0.0.2", maxHops-1)}, "203.0.113.9"},
		"a range in IPv4-mapped notation": {"::ffff:10.0.0.0/104", "10.0.0.1:1", []string{"203.0.113.9"}, "203.0.113.9"},
	} {
		proxies, err := ParseProxies(c.trusted)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = c.peer
		r.Header[ForwardedFor] = c.header
		got := ""
		Identify(proxies)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = Info(r.Context()).Remote })).ServeHTTP(httptest.NewRecorder(), r)
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestMalformedProxiesAreRefused(t *testing.T) {
	for _, list := range []string{"x", "10.0.0.0/8,", ",", "10.0.0.0/33", "10.0.0.0/8 10.1.0.0/16", "0.0.0.0/0", "::/0", "fe80::1%eth0", "::ffff:0.0.0.0/95", "::ffff:0.0.0.0/96", "10.0.0.1:80", strings.Repeat("10.0.0.1,", maxProxies) + "10.0.0.1"} {
		if p, err := ParseProxies(list); err == nil {
			t.Errorf("%q is %v", list, p)
		}
	}
	for _, list := range []string{"", " ", "10.0.0.0/8", " 10.0.0.1 , ::1"} {
		if _, err := ParseProxies(list); err != nil {
			t.Errorf("%q: %v", list, err)
		}
	}
}
