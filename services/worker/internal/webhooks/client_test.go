package webhooks

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/kind/webhook"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestNoConnectionToWhatIsNotPublic: it is the address that is dialled which counts, however it was written.
func TestNoConnectionToWhatIsNotPublic(t *testing.T) {
	reached := make(chan struct{}, 64)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached <- struct{}{} }))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	w := &Webhooks{client: newClient(false)}
	defer w.client.CloseIdleConnections()
	for _, host := range []string{
		"127.0.0.1", "localhost", "127.1.2.3", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
		"10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192",
		"224.0.0.1", "255.255.255.255", "240.0.0.1", "[ff02::1]", "198.18.0.1", "192.0.2.1", "[2001:db8::1]", "[2001::1]", "[fec0::1]", "[::127.0.0.1]", "[100::1]",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		req, err := http.NewRequest(http.MethodPost, "http://"+net.JoinHostPort(strings.Trim(host, "[]"), port), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.post(ctx, req)
		cancel()
		if err == nil || err.Error() != errPrivate.Error() {
			t.Errorf("%s: %v", host, err)
		}
	}
	// What the resolver makes of a name at the time of the connection counts, not before: 0x7f000001 and the like are its business.
	if len(reached) > 0 {
		t.Error("the server was reached")
	}
	// The same with the setting.
	open := &Webhooks{client: newClient(true)}
	defer open.client.CloseIdleConnections()
	req, _ := http.NewRequest(http.MethodPost, server.URL, nil)
	if a, err := open.post(t.Context(), req); err != nil || a.status != http.StatusOK || len(reached) != 1 {
		t.Errorf("%+v %v", a, err)
	}
}

func TestPublicAddresses(t *testing.T) {
	for _, a := range []string{"1.1.1.1", "8.8.8.8", "203.0.112.255", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"} {
		if !webhook.Public(netip.MustParseAddr(a)) {
			t.Errorf("%s", a)
		}
	}
	if webhook.Public(netip.Addr{}) || webhook.Public(netip.MustParseAddr("2606:4700:4700::1111%eth0")) {
		t.Error("no address, or one with a zone")
	}
	for url, fine := range map[string]bool{
		"https://example.com/x?y=1": true, "https://1.1.1.1": true, "https://example.com:8443/": true, "https://[2606:4700:4700::1111]/": true,
		"http://example.com/": false, "https://127.0.0.1/": false, "https://LOCALHOST/": false, "https://a.localhost./": false, "https://[::1]/": false,
		"https://": false, "//example.com": false, "https:example.com": false, "https://u@example.com/": false, "https://example.com/#": false, "javascript:alert(1)": false,
		"https://169.254.169.254/latest": false, "https://[::ffff:10.0.0.1]/": false, "file:///etc/passwd": false, "https://exa mple.com": false, "": false,
	} {
		if err := webhook.CheckURL(url, false); (err == nil) != fine {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, url := range []string{"http://localhost:8080/", "https://10.0.0.1/"} {
		if err := webhook.CheckURL(url, true); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestAnswersAreNotTrusted: no redirect is followed, no endless answer is read to its end, no certificate is made up.
func TestAnswersAreNotTrusted(t *testing.T) {
	other := make(chan struct{}, 1)
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { other <- struct{}{} }))
	defer target.Close()
	mux := http.NewServeMux()
	mux.Handle("/redirect", http.RedirectHandler(target.URL, http.StatusTemporaryRedirect))
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		block := make([]byte, 32<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/later", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	w := &Webhooks{client: newClient(true)}
	defer w.client.CloseIdleConnections()
	ask := func(url string) (answer, error) {
		req, err := http.NewRequest(http.MethodPost, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return w.post(ctx, req)
	}
	if a, err := ask(server.URL + "/redirect"); err != nil || a.status != http.StatusTemporaryRedirect || len(other) > 0 {
		t.Errorf("%+v %v", a, err)
	}
	if a, err := ask(server.URL + "/endless"); err != nil || a.status != http.StatusOK {
		t.Errorf("%+v %v", a, err)
	}
	if a, err := ask(server.URL + "/later"); err != nil || a.retryAfter != 2*time.Minute {
		t.Errorf("%+v %v", a, err)
	}
	secure := httptest.NewUnstartedServer(mux)
	secure.Config.ErrorLog = nil
	secure.StartTLS()
	defer secure.Close()
	if _, err := ask(secure.URL + "/"); err == nil || err.Error() != "the certificate is not trusted" {
		t.Errorf("%v", err)
	}
	if _, err := ask(strings.Replace(server.URL, "http:", "https:", 1)); err == nil || strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("%v", err)
	}
	server.Close()
	w.client.CloseIdleConnections()
	if _, err := ask(server.URL); err == nil || err.Error() != "the connection was refused" {
		t.Errorf("%v", err)
	}
	if text := explain(&net.DNSError{Err: "no such host", Name: "x", Server: "10.0.0.53:53", IsNotFound: true}); strings.Contains(text, "10.") {
		t.Error(text)
	}
	if text := explain(errors.New("dial tcp 10.1.2.3:80: odd")); strings.Contains(text, "10.") {
		t.Error(text)
	}
}

// TestNobodyWaitsForTheBodyOfAnAnswer: a body that never comes, or never ends, holds no delivery.
func TestNobodyWaitsForTheBodyOfAnAnswer(t *testing.T) {
	hungUp := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(hungUp)
	}))
	defer server.Close()
	w := &Webhooks{client: newClient(true)}
	defer w.client.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodPost, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	a, err := w.post(ctx, req)
	if err != nil || a.status != http.StatusOK || ctx.Err() != nil {
		t.Errorf("the attempt ends with %+v, %v (%v); want 200 as soon as the header is there", a, err, ctx.Err())
	}
	select {
	case <-hungUp:
	case <-ctx.Done():
		t.Error("the connection is still open, want it closed")
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "5": 5 * time.Second, "-5": 0, "1e9": 0, "999999999999": 0, "soon": 0, "1.5": 0,
		"Sun, 22 Nov 2026 12:00:30 GMT": 30 * time.Second, "Sun, 22 Nov 2026 11:00:00 GMT": 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
