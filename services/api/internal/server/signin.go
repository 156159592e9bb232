package server

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/request"
	"github.com/writ-project/writ/services/api/internal/signin"
)

// startSignIn makes the sign-in and listens for sessions that other instances end.
func (s *Server) startSignIn() error {
	var err error
	s.signin, err = signin.New(signin.Config{
		Identity: s.Identity, Keys: s.Keys, PublicURL: cmp.Or(s.PublicURL, s.OwnURL), Local: s.Local, Mailbox: s.Mailbox,
		Refresh: s.refreshSignedIn, Ended: s.tellEnded, Meter: s.Telemetry.Meter(), Log: s.Log,
	})
	if err != nil {
		return err
	}
	if s.unlisten, err = s.Ledger.Listen(events.SubjectRevoked, s.hearEnded); err != nil {
		s.signin.Close()
	}
	return err
}

// refreshSignedIn brings a user's row of the directory up to date, as the user: somebody
// has proven to be that.
func (s *Server) refreshSignedIn(ctx context.Context, userID string) error {
	row, err := s.Store.Get(ctx, user.Kind, userID)
	if fault.Is(err, fault.NotFound) {
		_, err = s.firstSeen(ctx, userID)
		return err
	}
	if err != nil {
		return err
	}
	u := row.Value.(*user.User)
	_, err = s.sync(ctx, u.Principal(u.ID, user.DefaultTenant, request.Info(ctx), time.Now()), u.Version)
	return err
}

// LinkRequest asks for a sign-in link.
type LinkRequest struct {
	Email    string `json:"email" format:"email" maxLength:"254" doc:"Where to send the link"`
	ReturnTo string `json:"return_to,omitempty" maxLength:"512" pattern:"^/[A-Za-z0-9._~/-]*([?][A-Za-z0-9._~/=&+%-]*)?$" doc:"A path of this site to go to after the sign-in; /account if it is not given"`
}

// LocalLinkRequest is LinkRequest on a local stack.
type LocalLinkRequest struct {
	LinkRequest
	Role string `json:"role,omitempty" enum:"admin,auditor,finance,guest,manager,user" doc:"A role to have once the link was opened in this browser. On a local stack only"`
}

// LinkSent is the one answer to every request for a link.
type LinkSent struct {
	Status    string `json:"status" enum:"sent" doc:"The same for every address"`
	ExpiresIn int    `json:"expires_in" doc:"How long a link works, in seconds"`
}

type linkOutput struct {
	SetCookie []*http.Cookie `header:"Set-Cookie" doc:"What the link needs: it works with this cookie only"`
	Body      LinkSent
}

// Session is a session of somebody who signed in.
type Session struct {
	UserID       string    `json:"user_id"`
	ExpiresAt    time.Time `json:"expires_at"`
	SessionToken string    `json:"session_token" doc:"To be sent as Authorization: Bearer, as long as the session lasts. The cookie holds the same"`
	SessionJWT   string    `json:"session_jwt" doc:"The same for 5 minutes, verified without asking Stytch"`
	ReturnTo     string    `json:"return_to" doc:"The path that the sign-in was asked for with"`
}

type sessionOutput struct {
	SetCookie    []*http.Cookie `header:"Set-Cookie"`
	CacheControl string         `header:"Cache-Control"`
	Body         Session
}

type leaveOutput struct {
	SetCookie []*http.Cookie `header:"Set-Cookie"`
}

// open marks an operation for which nobody need be signed in.
var open = []map[string][]string{}

func (s *Server) registerSignIn() {
	send := huma.Operation{
		OperationID: "send-magic-link", Method: http.MethodPost, Path: signin.PathLink, Tags: []string{"sign-in"}, Security: open,
		Summary: "Have a sign-in link mailed. Takes the sign-in page's form, too", DefaultStatus: http.StatusAccepted,
		Errors: []int{400, 403, 413, 415, 422, 429, 503},
	}
	if s.Local {
		register(s, send, func(ctx context.Context, in *struct{ Body LocalLinkRequest }) (*linkOutput, error) {
			return s.sendLink(ctx, signin.Ask{Email: in.Body.Email, ReturnTo: in.Body.ReturnTo, Role: in.Body.Role})
		})
	} else {
		register(s, send, func(ctx context.Context, in *struct{ Body LinkRequest }) (*linkOutput, error) {
			return s.sendLink(ctx, signin.Ask{Email: in.Body.Email, ReturnTo: in.Body.ReturnTo})
		})
	}
	register(s, huma.Operation{
		OperationID: "redeem-magic-link", Method: http.MethodGet, Path: signin.PathCallback, Tags: []string{"sign-in"}, Security: open,
		Summary: "Sign in with a mailed link. Browsers are sent on", Errors: []int{401, 403, 422, 429, 503},
	}, func(ctx context.Context, in *struct {
		Token string `query:"token" required:"true" minLength:"1" maxLength:"512" doc:"The link's token"`
		Type  string `query:"stytch_token_type" maxLength:"64" doc:"What Stytch adds to the link"`
	}) (*sessionOutput, error) {
		got, err := s.signin.Redeem(httpRequest(ctx), in.Token)
		if err != nil {
			return nil, err
		}
		return &sessionOutput{SetCookie: got.Cookies, CacheControl: "no-store", Body: Session{
			UserID: got.User.ID, ExpiresAt: got.Session.ExpiresAt, SessionToken: got.Token, SessionJWT: got.JWT, ReturnTo: got.ReturnTo,
		}}, nil
	})
	register(s, huma.Operation{
		OperationID: "sign-out", Method: http.MethodPost, Path: signin.PathLogout, Tags: []string{"sign-in"}, Security: open,
		Summary: "End the session of the Authorization header or the cookie, at Stytch and here. Takes the pages' form, too", DefaultStatus: http.StatusNoContent,
		Errors: []int{401, 403, 422, 503},
	}, func(ctx context.Context, _ *struct{}) (*leaveOutput, error) {
		cookies, err := s.signin.Leave(httpRequest(ctx))
		if err != nil {
			return nil, err
		}
		return &leaveOutput{SetCookie: cookies}, nil
	})
}

// httpRequest is the request that ctx belongs to, with all that came to be known
// of it: what the decisions record, its deadline, its trace.
func httpRequest(ctx context.Context) *http.Request { return request.HTTP(ctx).WithContext(ctx) }

func (s *Server) sendLink(ctx context.Context, a signin.Ask) (*linkOutput, error) {
	cookies, err := s.signin.Send(httpRequest(ctx), a)
	if err != nil {
		return nil, err
	}
	return &linkOutput{SetCookie: cookies, Body: LinkSent{Status: "sent", ExpiresIn: int(signin.LinkLife / time.Second)}}, nil
}
