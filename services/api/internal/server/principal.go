package server

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
)

// caller is who sent a request, as the directory knows them now.
type caller struct {
	events.Principal
	Tenant  string
	User    *user.User
	Session identity.Session
}

// callerOf gives who sent the request; authenticate put it there.
func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(principalKey).(*caller)
	return c
}

// authenticate lets a request through when its session is valid and its user
// is in the directory. Roles and attributes come from the directory's row on
// every request, never from the token, so a change counts at once.
func (s *Server) authenticate(hc huma.Context, next func(huma.Context)) {
	if open := hc.Operation().Security; open != nil && len(open) == 0 { // an empty list says: nobody need be signed in
		next(hc)
		return
	}
	ctx := hc.Context()
	c, err := s.identify(ctx, hc.Header("Authorization"), hc.Header(tenantHeader))
	if err != nil {
		p := s.problem(ctx, err)
		for k, values := range p.headers {
			for _, v := range values {
				hc.SetHeader(k, v)
			}
		}
		hc.SetHeader("Content-Type", p.ContentType(""))
		hc.SetStatus(p.Status)
		body, _ := s.api.Transform(hc, "", p)
		_ = s.api.Marshal(hc.BodyWriter(), "application/problem+json", body) // the client may be gone
		return
	}
	next(huma.WithValue(hc, principalKey, c))
}

// tenantHeader names the tenant that a request is about.
const tenantHeader = "Writ-Tenant"

// tenantName is what a tenant's key looks like.
var tenantName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func (s *Server) identify(ctx context.Context, authorization, tenant string) (*caller, error) {
	scheme, token, _ := strings.Cut(authorization, " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		p := newProblem(http.StatusUnauthorized, "unauthenticated", "Send Authorization: Bearer with a session JWT or session token")
		p.headers.Set("WWW-Authenticate", `Bearer realm="writ"`) // RFC 6750, 3.1: no error code when there were no credentials
		return nil, p
	}
	if tenant == "" {
		tenant = user.DefaultTenant
	}
	if !tenantName.MatchString(tenant) {
		return nil, fault.InvalidField("header."+tenantHeader, "want a tenant's key: lower-case letters, digits and dashes")
	}
	session, err := s.Identity.Authenticate(ctx, token)
	if err != nil {
		return nil, err
	}
	row, err := s.Store.Get(ctx, user.Kind, session.UserID)
	if fault.Is(err, fault.NotFound) {
		row, err = s.firstSeen(ctx, session.UserID)
	}
	if err != nil {
		return nil, err
	}
	return newCaller(ctx, row, tenant, session), nil
}

// newCaller makes the principal for a tenant. Who is no member of it is a guest
// there.
func newCaller(ctx context.Context, row kind.Row, tenant string, session identity.Session) *caller {
	u := row.Value.(*user.User)
	return &caller{Principal: u.Principal(u.ID, tenant, requestInfo(ctx), time.Now()), Tenant: tenant, User: u, Session: session}
}
