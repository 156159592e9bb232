package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// target says which installation a command talks to, and as whom.
type target struct {
	URL    string `help:"The service's address; without it the local stack's." env:"WRIT_URL" placeholder:"URL"`
	Token  string `help:"A session token; without it the local stack's demo user." env:"WRIT_TOKEN" placeholder:"TOKEN"`
	Tenant string `help:"The tenant that it is about." env:"WRIT_TENANT" placeholder:"KEY"`
}

// The demo users as whom the local stack is asked.
const (
	demoAdmin   = "alice@example.com"
	demoAuditor = "olive@example.com"
)

// remote is a service as a command reaches it.
type remote struct {
	tenant string
	http   *http.Client
	// renew finds the service again and signs in; nil when what was given is all
	// there is.
	renew func(context.Context) (base, token string, err error)

	mu          sync.Mutex // of base and token, which renew changes
	base, token string
}

// answerTimeout bounds the wait for the beginning of an answer. Bodies may take longer.
const answerTimeout = 60 * time.Second

// connect makes a remote: of the address given, or of the local stack, where
// the demo user with the e-mail address is signed in.
func (t target) connect(a *app, service func(local) string, demo string) (*remote, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = answerTimeout
	r := &remote{base: strings.TrimRight(t.URL, "/"), token: t.Token, tenant: t.Tenant, http: &http.Client{Transport: transport}}
	switch {
	case r.base != "" && r.token == "":
		return nil, errors.New("--url needs --token (WRIT_TOKEN)")
	case r.base != "":
		u, err := url.Parse(r.base)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, fmt.Errorf("--url: want http://HOST or https://HOST, not %q", t.URL)
		}
		return r, nil
	}
	l, err := readLocal(a.data)
	if err != nil {
		return nil, err
	}
	if r.token != "" {
		r.base = service(l)
		return r, nil
	}
	r.renew = func(ctx context.Context) (string, string, error) {
		l, err := readLocal(a.data) // it may have been started again, elsewhere
		if err != nil {
			return "", "", err
		}
		token, err := demoToken(ctx, a.data, l, demo)
		return service(l), token, err
	}
	r.base, r.token, err = r.renew(a.ctx)
	return r, err
}

// where gives the address and the token in force.
func (r *remote) where() (base, token string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.base, r.token
}

// demoToken signs a demo user of the local stack in.
func demoToken(ctx context.Context, data string, l local, email string) (string, error) {
	keys, err := readSecrets(data)
	if err != nil {
		return "", fmt.Errorf("local keys: %w", err)
	}
	id, err := identityClient(ctx, l.Mailbox, keys)
	if err != nil {
		return "", err
	}
	defer id.Close()
	u, err := id.UserByEmail(ctx, email)
	if err != nil {
		return "", err
	}
	in, err := signIn(ctx, id, u.ID)
	return in.Token, err // the session token: a JWT lives for five minutes only
}

// problemError is an answer over 299: an RFC 9457 problem where the service made it.
type problemError struct {
	Status     int    `json:"-"`
	Title      string `json:"title"`
	Detail     string `json:"detail"`
	Code       string `json:"code"`
	RequestID  string `json:"request_id"`
	DecisionID string `json:"decision_id"`
	Errors     []struct {
		Location, Message string
	} `json:"errors"`
	request string
}

func (p *problemError) Error() string {
	what := p.Detail
	if what == "" {
		what = p.Title
	}
	if what == "" {
		what = http.StatusText(p.Status)
	}
	text := fmt.Sprintf("%s: %d: %s", p.request, p.Status, what)
	for _, e := range p.Errors {
		if !strings.Contains(what, e.Message) { // the only one is the detail already
			text += fmt.Sprintf("; %s: %s", e.Location, e.Message)
		}
	}
	if p.DecisionID != "" {
		text += " (decision " + p.DecisionID + ")"
	}
	return text
}

// statusOf gives the HTTP status that an error is about, 0 for none.
func statusOf(err error) int {
	if p, ok := errors.AsType[*problemError](err); ok {
		return p.Status
	}
	return 0
}

// maxAnswer bounds an answer that is read as a whole, in bytes.
const maxAnswer = 32 << 20

// open sends a request and gives the answer, whose body the caller closes; a
// status over 299 is an error. The demo user of a local stack is signed in once
// more when the session has ended or nothing answers.
func (r *remote) open(ctx context.Context, method, path string, query url.Values, body any, header http.Header) (*http.Response, error) {
	res, err := r.send(ctx, method, path, query, body, header)
	status := statusOf(err)
	if err == nil || r.renew == nil || ctx.Err() != nil || (status != 0 && status != http.StatusUnauthorized) {
		return res, err
	}
	// The session has ended, or the local stack was started again and has other addresses.
	base, token, renewErr := r.renew(ctx)
	if renewErr != nil {
		return nil, err
	}
	r.mu.Lock()
	r.base, r.token = base, token
	r.mu.Unlock()
	return r.send(ctx, method, path, query, body, header)
}

func (r *remote) send(ctx context.Context, method, path string, query url.Values, body any, header http.Header) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	base, token := r.where()
	address := base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, content)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if r.tenant != "" {
		req.Header.Set("Writ-Tenant", r.tenant)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := r.http.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode <= 299 || res.StatusCode == http.StatusNotModified {
		return res, nil
	}
	defer res.Body.Close()
	p := &problemError{Status: res.StatusCode, request: method + " " + path}
	text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10)) // whatever it is, the status tells
	if json.Unmarshal(text, p) != nil {
		p.Detail = string(bytes.TrimSpace(text))
	}
	return nil, p
}

// call reads an answer as a whole, into out if it is not nil, and gives its bytes.
func (r *remote) call(ctx context.Context, method, path string, query url.Values, body, out any, header http.Header) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	res, err := r.open(ctx, method, path, query, body, header)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return b, nil
}

// get asks for something and reads the answer into out.
func (r *remote) get(ctx context.Context, path string, query url.Values, out any) error {
	_, err := r.call(ctx, http.MethodGet, path, query, nil, out, nil)
	return err
}
