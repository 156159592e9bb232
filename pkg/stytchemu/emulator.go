// Package stytchemu speaks the part of Stytch's consumer API that writ uses,
// for local use and tests: magic links, sessions, users and the project's JWKS,
// with Stytch's ids, error bodies and metadata rules, so that stytch-go cannot
// tell the difference. Sent links lie in a mailbox page instead of being
// mailed, and faults can be ordered by the call.
//
// It is no authentication service: whoever reaches its mailbox can sign in as
// anybody. Bind it to loopback. Requests under other names than loopback's are
// refused, so that no web page reaches it by a name that it has rebound.
package stytchemu

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Config says whose API to speak and where to keep the state.
type Config struct {
	// ProjectID and Secret are what clients authenticate with (HTTP Basic).
	// Ids say "live" where ProjectID starts with project-live-, else "test".
	ProjectID, Secret string
	// Dir keeps users, sessions, links, mail and the signing key over a restart
	// or a kill; "" keeps them in memory. One process at a time.
	Dir string
	// Clock gives the time; nil for time.Now.
	Clock func() time.Time
	// Hosts are names by which requests may reach the emulator beside localhost,
	// its subdomains and loopback addresses, without a port.
	Hosts []string
	// OnUser, if set, is called after a user was created, updated or deleted
	// (the event) and before the answer. It must not block for long.
	OnUser func(event, userID string)
}

// Emulator is one Stytch project. It is an http.Handler and safe for
// concurrent use.
type Emulator struct {
	cfg    Config
	env    string
	mux    *http.ServeMux
	key    signingKey
	faults faults
	// closed ends the calls that a fault made hang.
	closed    chan struct{}
	closeOnce sync.Once

	mu    sync.Mutex
	state *state
}

// New opens the state in cfg.Dir, or makes it, with a new signing key where
// there is none. Errors name the file.
func New(cfg Config) (*Emulator, error) {
	if cfg.ProjectID == "" || cfg.Secret == "" {
		return nil, errors.New("stytchemu: ProjectID and Secret are needed")
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	e := &Emulator{cfg: cfg, env: "test", closed: make(chan struct{})}
	if strings.HasPrefix(cfg.ProjectID, "project-live-") {
		e.env = "live"
	}
	var err error
	if e.state, err = openState(cfg.Dir, cfg.Clock()); err != nil {
		return nil, err
	}
	if e.key, err = e.loadKey(); err != nil {
		return nil, errors.Join(err, e.state.close())
	}
	e.routes()
	return e, nil
}

// Close ends hanging calls and closes the state's file. Nothing is lost
// without it: every change was written before it was answered.
func (e *Emulator) Close() error {
	e.closeOnce.Do(func() { close(e.closed) })
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state.close()
}

func (e *Emulator) routes() {
	e.mux = http.NewServeMux()
	api := func(pattern string, h func(*http.Request) (any, error)) {
		e.mux.Handle(pattern, e.answer(h))
	}
	api("POST /v1/magic_links/email/login_or_create", e.authed(e.loginOrCreate))
	api("POST /v1/magic_links", e.authed(e.createLink))
	api("POST /v1/magic_links/authenticate", e.authed(e.authenticateLink))
	api("POST /v1/sessions/authenticate", e.authed(e.authenticateSession))
	api("POST /v1/sessions/revoke", e.authed(e.revokeSession))
	api("GET /v1/sessions", e.authed(e.getSessions))
	api("GET /v1/sessions/jwks/{project}", e.getJWKS) // public, as Stytch's is
	api("POST /v1/users", e.authed(e.createUser))
	api("POST /v1/users/search", e.authed(e.searchUsers))
	api("GET /v1/users/{id}", e.authed(e.getUser))
	api("PUT /v1/users/{id}", e.authed(e.updateUser))
	api("DELETE /v1/users/{id}", e.authed(e.deleteUser))
	api("/v1/", func(*http.Request) (any, error) { return nil, errRoute })

	e.mux.HandleFunc("GET /mailbox", e.mailboxPage)
	e.mux.HandleFunc("GET /mailbox.json", e.mailboxJSON)
	e.mux.HandleFunc("GET /faults", e.listFaults)
	e.mux.HandleFunc("POST /faults", e.postFault)
	e.mux.HandleFunc("DELETE /faults", e.deleteFaults)
}

// ServeHTTP implements http.Handler. Faults touch the API under /v1/ only. A
// lost answer ends in a panic with http.ErrAbortHandler, as net/http wants it.
func (e *Emulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !e.isOurs(r.Host) {
		http.Error(w, "The emulator answers under the names of loopback only.", http.StatusMisdirectedRequest)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		if f, ok := e.faults.take(r.URL.Path); ok {
			e.fail(f, w, r)
			return
		}
	}
	e.mux.ServeHTTP(w, r)
}

// authed refuses calls without the project's credentials.
func (e *Emulator) authed(h func(*http.Request) (any, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		id, secret, ok := r.BasicAuth()
		same := subtle.ConstantTimeCompare([]byte(id), []byte(e.cfg.ProjectID)) &
			subtle.ConstantTimeCompare([]byte(secret), []byte(e.cfg.Secret))
		if !ok || same != 1 {
			return nil, errCredentials
		}
		return h(r)
	}
}

// newID makes an id in Stytch's shape: user-test-<uuid>.
func (e *Emulator) newID(kind string) string {
	return kind + "-" + e.env + "-" + uuid.NewString()
}

func (e *Emulator) now() time.Time { return e.cfg.Clock().UTC().Truncate(time.Second) }

func (e *Emulator) changed(event, userID string) {
	if e.cfg.OnUser != nil {
		e.cfg.OnUser(event, userID)
	}
}

// newSecret makes a token of 44 characters, as long as Stytch's.
func newSecret() string {
	b := make([]byte, 33)
	_, _ = rand.Read(b) // never fails: crypto/rand
	return base64.RawURLEncoding.EncodeToString(b)
}
