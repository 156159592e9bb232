// Package gate says who sent a request: the token's session, the user's row of
// the directory, the principal in the tenant that the request is about. Roles
// and attributes come from the row on every request, never from the token, so a
// change counts at once.
package gate

import (
	"context"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/problem"
	"github.com/writ-project/writ/pkg/request"
	"github.com/writ-project/writ/pkg/store"
)

// Caller is who sent a request, as the directory knows them now.
type Caller struct {
	events.Principal
	Tenant string
	// User is the row of the directory: nil for somebody without one, who is a guest.
	User    *user.User
	Session identity.Session

	token string
}

type contextKey struct{}

// CallerOf gives who sent the request in ctx, nil where no [Gate] let it
// through or nobody need be signed in.
func CallerOf(ctx context.Context) *Caller {
	c, _ := ctx.Value(contextKey{}).(*Caller)
	return c
}

// TenantHeader names the tenant that a request is about: user.DefaultTenant
// where it is missing.
const TenantHeader = "Writ-Tenant"

// TenantPattern is what a tenant's key looks like.
const TenantPattern = `^[a-z0-9][a-z0-9-]{0,62}$`

var tenantName = regexp.MustCompile(TenantPattern)

// Gate lets requests through whose session is valid.
type Gate struct {
	Identity *identity.Client
	Store    *store.Store
	Log      *slog.Logger
	// FirstSeen gives a user a row of the directory who has a session and none
	// yet. Nil: they are guests.
	FirstSeen func(ctx context.Context, id string) (kind.Row, error)
}

// Middleware gives the huma middleware that lets a request through with its
// [Caller] in the context, or answers with a problem. An operation whose
// Security is an empty list is open to everybody.
func (g *Gate) Middleware(api huma.API) func(huma.Context, func(huma.Context)) {
	return func(hc huma.Context, next func(huma.Context)) {
		if open := hc.Operation().Security; open != nil && len(open) == 0 {
			next(hc)
			return
		}
		ctx := hc.Context()
		_, w := humachi.Unwrap(hc)
		Private(w.Header())
		c, err := g.Admit(ctx, hc.Header("Authorization"), hc.Header(TenantHeader))
		if err != nil {
			problem.Answer(api, hc, problem.From(ctx, g.Log, err))
			return
		}
		next(huma.WithValue(hc, contextKey{}, c))
	}
}

// Private says that an answer depends on who asks, and where: no shared cache
// may keep it, and the caller's own asks each time whether it still holds, for
// these credentials and this tenant (RFC 9110, 12.5.5; RFC 9111, 5.2.2). What is
// stricter already stays.
func Private(h http.Header) {
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "private, no-cache")
	}
	h.Add("Vary", "Authorization, Cookie, "+TenantHeader)
}

// Admit says who sends a request with these values of Authorization and
// Writ-Tenant. Errors: fault.Unauthenticated (or a problem with that status),
// fault.Invalid for the tenant, fault.Unavailable.
func (g *Gate) Admit(ctx context.Context, authorization, tenant string) (*Caller, error) {
	scheme, token, _ := strings.Cut(authorization, " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		p := problem.New(http.StatusUnauthorized, "unauthenticated", "Send Authorization: Bearer with a session JWT or session token")
		return nil, p.With("WWW-Authenticate", `Bearer realm="writ"`) // RFC 6750, 3.1: no error code when there were no credentials
	}
	if tenant == "" {
		tenant = user.DefaultTenant
	}
	if !tenantName.MatchString(tenant) {
		return nil, fault.InvalidField("header."+TenantHeader, "want a tenant's key: lower-case letters, digits and dashes")
	}
	return g.admit(ctx, token, tenant)
}

// Again asks once more who a caller is, for requests that last: the session may
// have ended since, and the roles may have changed. Errors as for [Gate.Admit].
func (g *Gate) Again(ctx context.Context, c *Caller) (*Caller, error) {
	return g.admit(ctx, c.token, c.Tenant)
}

func (g *Gate) admit(ctx context.Context, token, tenant string) (*Caller, error) {
	session, err := g.Identity.Authenticate(ctx, token)
	if err != nil {
		return nil, err
	}
	row, err := g.Store.Get(ctx, user.Kind, session.UserID)
	if fault.Is(err, fault.NotFound) {
		row, err = kind.Row{}, nil
		if g.FirstSeen != nil {
			row, err = g.FirstSeen(ctx, session.UserID)
		}
	}
	if err != nil {
		return nil, err
	}
	c := NewCaller(ctx, row, tenant, session)
	c.token = token
	return c, nil
}

// NewCaller makes the principal for a tenant from a row of the directory. Who
// has no row (the zero Row), or is no member of the tenant, is a guest there.
func NewCaller(ctx context.Context, row kind.Row, tenant string, session identity.Session) *Caller {
	u, _ := row.Value.(*user.User)
	return &Caller{
		Principal: u.Principal(session.UserID, tenant, request.Info(ctx), time.Now()),
		Tenant:    tenant, User: u, Session: session,
	}
}
