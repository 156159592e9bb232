package stytchemu

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/attribute"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/sessions"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/users"
)

// The bounds of session_duration_minutes.
const (
	minDuration = 5
	maxDuration = 527_040 // 366 days
)

func checkDuration(minutes int32) error {
	if minutes != 0 && (minutes < minDuration || minutes > maxDuration) {
		return errDuration
	}
	return nil
}

// grant is what an authentication adds to a session.
type grant struct {
	minutes    int32
	claims     map[string]any
	factor     *sessions.AuthenticationFactor
	attributes *attribute.Attributes
}

// startSession makes a session of the user with one factor.
func (e *Emulator) startSession(userID string, g grant) (*session, error) {
	now := e.now()
	s := &session{Token: newSecret(), Session: sessions.Session{
		SessionID: e.newID("session"), UserID: userID, StartedAt: &now, Attributes: g.attributes,
	}}
	return e.extend(s, g)
}

// extend gives a copy of the session that was accessed now: with a new end
// where g has minutes, with more claims and factors where it has those.
func (e *Emulator) extend(old *session, g grant) (*session, error) {
	s := *old
	now := e.now()
	s.LastAccessedAt = &now
	if g.minutes > 0 {
		end := now.Add(time.Duration(g.minutes) * time.Minute)
		s.ExpiresAt = &end
	}
	if g.factor != nil {
		f := *g.factor
		f.LastAuthenticatedAt = &now
		s.AuthenticationFactors = append(slices.DeleteFunc(slices.Clone(s.AuthenticationFactors),
			func(x sessions.AuthenticationFactor) bool {
				return x.Type == f.Type && x.DeliveryMethod == f.DeliveryMethod
			}), f)
	}
	claims, err := mergeClaims(old.CustomClaims, g.claims)
	if err != nil {
		return nil, err
	}
	if s.CustomClaims = claims; len(claims) == 0 {
		s.CustomClaims = nil
	}
	return &s, nil
}

// findSession finds a live session by opaque token or JWT; one of them is "".
// The caller holds the mutex.
func (e *Emulator) findSession(token, signed string) (*session, error) {
	id := e.state.sessionByToken[token]
	if signed != "" {
		var err error
		if id, err = e.sessionOf(signed); err != nil {
			return nil, err
		}
	}
	return e.sessionByID(id)
}

func (e *Emulator) sessionByID(id string) (*session, error) {
	s, ok := e.state.session[id]
	if !ok || !e.now().Before(*s.ExpiresAt) {
		return nil, errSession
	}
	return s, nil
}

func (e *Emulator) authenticateSession(r *http.Request) (any, error) {
	in, err := decode[sessions.AuthenticateParams](r)
	if err != nil {
		return nil, err
	}
	switch {
	case in.SessionToken != "" && in.SessionJWT != "":
		return nil, errSessionArguments
	case in.SessionToken == "" && in.SessionJWT == "":
		return nil, errNoSession
	}
	if err := checkDuration(in.SessionDurationMinutes); err != nil {
		return nil, err
	}
	s, u, err := e.touchSession(in)
	if err != nil {
		return nil, err
	}
	signed, err := e.sign(s)
	if err != nil {
		return nil, err
	}
	return sessions.AuthenticateResponse{Session: s.Session, SessionToken: s.Token, SessionJWT: signed, User: *u}, nil
}

func (e *Emulator) touchSession(in sessions.AuthenticateParams) (*session, *users.User, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old, err := e.findSession(in.SessionToken, in.SessionJWT)
	if err != nil {
		return nil, nil, err
	}
	u, err := e.user(old.UserID)
	if err != nil {
		return nil, nil, err
	}
	s, err := e.extend(old, grant{minutes: in.SessionDurationMinutes, claims: in.SessionCustomClaims})
	if err != nil {
		return nil, nil, err
	}
	if in.SessionDurationMinutes == 0 && in.SessionCustomClaims == nil {
		return s, u, nil // only looked at: nothing worth a write
	}
	return s, u, e.state.commit(e.now(), put("session", s.SessionID, s))
}

func (e *Emulator) revokeSession(r *http.Request) (any, error) {
	in, err := decode[sessions.RevokeParams](r)
	if err != nil {
		return nil, err
	}
	given := slices.DeleteFunc([]string{in.SessionID, in.SessionToken, in.SessionJWT}, func(s string) bool { return s == "" })
	if len(given) != 1 {
		return nil, errRevokeArguments
	}
	if in.SessionID != "" && !strings.HasPrefix(in.SessionID, "session-"+e.env+"-") {
		return nil, errSessionID
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var s *session
	if in.SessionID != "" {
		s, err = e.sessionByID(in.SessionID)
	} else {
		s, err = e.findSession(in.SessionToken, in.SessionJWT)
	}
	if err != nil {
		return nil, err
	}
	return sessions.RevokeResponse{}, e.state.commit(e.now(), del("session", s.SessionID))
}

func (e *Emulator) getSessions(r *http.Request) (any, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	u, err := e.user(r.URL.Query().Get("user_id"))
	if err != nil {
		return nil, err
	}
	out := sessions.GetResponse{Sessions: []sessions.Session{}}
	for _, id := range slices.Sorted(maps.Keys(e.state.session)) {
		if s, err := e.sessionByID(id); err == nil && s.UserID == u.UserID {
			out.Sessions = append(out.Sessions, s.Session)
		}
	}
	return out, nil
}
