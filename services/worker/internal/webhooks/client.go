package webhooks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/writ-project/writ/pkg/kind/webhook"
)

// maxAnswer bounds an answer's header, in bytes; nobody looks at its body.
const maxAnswer = 64 << 10

// errPrivate is a connection that is not made.
var errPrivate = errors.New("the address is not public")

// newClient makes a client that connects to public addresses only, unless
// private ones are allowed. It is the address of the connection that is looked
// at, after the name was resolved: what a name says to somebody else, or said
// before, does not count. No proxy, whose address would be looked at instead; no
// redirect is followed.
func newClient(allowPrivate bool) *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	if !allowPrivate {
		dialer.Control = publicOnly
	}
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: nil, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 5 * time.Second,
			ResponseHeaderTimeout: timeout, MaxResponseHeaderBytes: maxAnswer, DisableCompression: true,
			MaxIdleConns: 256, MaxIdleConnsPerHost: atOnce, IdleConnTimeout: 30 * time.Second,
		},
	}
}

// publicOnly is a net.Dialer.Control.
func publicOnly(network, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !strings.HasPrefix(network, "tcp") || !webhook.Public(to.Addr()) {
		return errPrivate
	}
	return nil
}

// answer is what an endpoint said.
type answer struct {
	status     int
	retryAfter time.Duration // 0: it did not say
}

// post sends a request and reads the answer's header. What the body says counts for nothing, so it is not waited for: an
// answer with a body costs its connection.
func (w *Webhooks) post(ctx context.Context, req *http.Request) (answer, error) {
	res, err := w.client.Do(req.WithContext(ctx))
	if err != nil {
		return answer{}, errors.New(explain(err))
	}
	_ = res.Body.Close() // what counts was heard
	return answer{status: res.StatusCode, retryAfter: retryAfter(res.Header.Get("Retry-After"), time.Now())}, nil
}

// retryAfter reads a Retry-After (RFC 9110, 10.2.3).
func retryAfter(text string, now time.Time) time.Duration {
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(now), 0)
	}
	if len(text) < 1 || len(text) > 9 || strings.Trim(text, "0123456789") != "" {
		return 0
	}
	d, err := time.ParseDuration(text + "s")
	if err != nil {
		return 0
	}
	return d
}

// explain says what went wrong in words for the tenant's admin, who is to learn
// nothing of the network that this runs in: no address, no name server.
func explain(err error) string {
	var dns *net.DNSError
	var record tls.RecordHeaderError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	timedOut := interface{ Timeout() bool }(nil)
	switch {
	case errors.Is(err, errPrivate):
		return "the address is not public"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "there is no such host"
	case errors.As(err, &dns):
		return "the host's name could not be resolved"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection was refused"
	case errors.As(err, &unknown), errors.As(err, &name), errors.As(err, &invalid):
		return "the certificate is not trusted"
	case errors.As(err, &record):
		return "the endpoint does not speak TLS"
	case errors.Is(err, context.Canceled):
		return "the attempt was interrupted"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timedOut) && timedOut.Timeout():
		return fmt.Sprintf("there was no answer within %s", timeout)
	}
	return "the connection failed"
}
