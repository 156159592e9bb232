package server

import (
	"context"
	"net/http"
	"strings"

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
	ctx := hc.Context()
	c, err := s.identify(ctx, hc.Header("Authorization"))
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

func (s *Server) identify(ctx context.Context, authorization string) (*caller, error) {
	scheme, token, _ := strings.Cut(authorization, " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		p := newProblem(http.StatusUnauthorized, "unauthenticated", "Send Authorization: Bearer with a session JWT or session token")
		p.headers.Set("WWW-Authenticate", `Bearer realm="writ"`) // RFC 6750, 3.1: no error code when there were no credentials
		return nil, p
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
	return newCaller(row, user.DefaultTenant, session), nil
}

func newCaller(row kind.Row, tenant string, session identity.Session) *caller {
	u := row.Value.(*user.User)
	roles, attr := u.In(tenant)
	return &caller{
		Principal: events.Principal{ID: u.ID, Version: u.Version, Roles: roles, Attr: attr},
		Tenant:    tenant, User: u, Session: session,
	}
}
