package signin

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/problem"
)

// Pages is a middleware that answers browsers with pages where programs get
// JSON from what is behind it: forms that are sent, and GETs that accept HTML.
func (s *SignIn) Pages(account http.HandlerFunc) func(http.Handler) http.Handler {
	reads := map[string]http.HandlerFunc{PathCallback: s.redeemPage, PathAccount: account}
	sends := map[string]http.HandlerFunc{PathLink: s.sendPage, PathLogout: s.leavePage}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			read, send := reads[r.URL.Path], sends[r.URL.Path]
			if read != nil {
				w.Header().Add("Vary", "Accept")
			}
			switch {
			case read != nil && safe(r.Method) && WantsPage(r):
				read(w, r)
			case send != nil && r.Method == http.MethodPost && isForm(r):
				send(w, r)
			default:
				next.ServeHTTP(w, r)
			}
		})
	}
}

// LoginPage is GET /login.
func (s *SignIn) LoginPage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.login(w, r, http.StatusOK, loginData{ReturnTo: returnTo(q.Get("return_to")), SignedOut: q.Has("signed_out")})
}

type loginData struct {
	Email, ReturnTo, Role string
	Trouble               string // what was wrong with the last try
	SignedOut             bool
	Roles                 []string
}

func (s *SignIn) login(w http.ResponseWriter, r *http.Request, status int, d loginData) {
	if s.Local {
		d.Roles = user.Roles
	}
	s.show(w, r, status, "login", page{Title: "Sign in", SignedIn: value(r, s.cookies.session) != "" && !d.SignedOut, Data: d})
}

// SentPage is GET /login/sent: what to do now, and another link.
func (s *SignIn) SentPage(w http.ResponseWriter, r *http.Request) {
	state, ok := s.asked(r)
	if !ok || state.Email == "" {
		see(w, PathLogin)
		return
	}
	s.show(w, r, http.StatusOK, "sent", page{Title: "Check your mail", Data: struct {
		asked
		Mailbox string
	}{state, s.Mailbox}})
}

// sendPage is the form of the sign-in page.
func (s *SignIn) sendPage(w http.ResponseWriter, r *http.Request) {
	if err := s.form(w, r); err != nil {
		s.trouble(w, r, err)
		return
	}
	f := r.PostForm
	a := Ask{Email: f.Get("email"), ReturnTo: returnTo(f.Get("return_to"))}
	if s.Local {
		a.Role = f.Get("role")
	}
	cookies, err := s.Send(r, a)
	if fault.Is(err, fault.Invalid) {
		s.login(w, r, http.StatusUnprocessableEntity, loginData{Email: a.Email, ReturnTo: a.ReturnTo, Role: a.Role, Trouble: "Please enter an e-mail address, such as sam@example.com."})
		return
	}
	if err != nil {
		s.trouble(w, r, err)
		return
	}
	see(w, PathSent, cookies...)
}

// redeemPage is a mailed link that was opened.
func (s *SignIn) redeemPage(w http.ResponseWriter, r *http.Request) {
	in, err := s.Redeem(r, r.URL.Query().Get("token"))
	if err != nil {
		s.trouble(w, r, err)
		return
	}
	see(w, in.ReturnTo, in.Cookies...)
}

// leavePage is the form that signs out.
func (s *SignIn) leavePage(w http.ResponseWriter, r *http.Request) {
	if err := s.form(w, r); err != nil {
		s.trouble(w, r, err)
		return
	}
	cookies, err := s.Leave(r)
	if fault.Is(err, fault.Unauthenticated) {
		cookies, err = s.signedOut(), nil
	}
	if err != nil {
		s.trouble(w, r, err)
		return
	}
	see(w, PathLogin+"?signed_out", cookies...)
}

// AccountPage shows an account.
func (s *SignIn) AccountPage(w http.ResponseWriter, r *http.Request, a *Account) {
	s.show(w, r, http.StatusOK, "account", page{Title: "Your account", SignedIn: true, Data: a})
}

// Refuse answers a browser that asked for a page and cannot have it: who is not
// signed in is sent to the sign-in page.
func (s *SignIn) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	if problem.From(r.Context(), s.Log, err).Status == http.StatusUnauthorized {
		see(w, PathLogin+"?return_to="+url.QueryEscape(returnTo(r.URL.RequestURI())), s.cookies.drop(s.cookies.session))
		return
	}
	s.trouble(w, r, err)
}

// troubleData is what a page about trouble says.
type troubleData struct {
	Heading, Text, RequestID string
	ReturnTo                 string
}

// trouble answers with a page that says what is wrong and offers a new link.
func (s *SignIn) trouble(w http.ResponseWriter, r *http.Request, err error) {
	p := problem.From(r.Context(), s.Log, err)
	state, _ := s.asked(r)
	d := troubleData{Heading: p.Title, Text: p.Detail, RequestID: p.RequestID, ReturnTo: cmp.Or(state.ReturnTo, PathAccount)}
	known := map[string][2]string{
		"invalid-link":    {"This link no longer works", "A sign-in link works once, for an hour. This one was used, has expired, or was replaced."},
		"foreign-link":    {"This link belongs to another browser", "For your safety a sign-in link works only in the browser that asked for it. Open it there, or have a new one sent to use here."},
		"rate-limited":    {"Too many requests", "Too many sign-in links were asked for. Please wait ten minutes and try again."},
		"form-token":      {"Please try again", "The page was open for too long. Nothing was done."},
		"cross-origin":    {"Please try again", "The request came from another site. Nothing was done."},
		"invalid":         {"This link is not complete", "Part of it is missing. Open it from the mail again, or have a new one sent."},
		"denied":          {"You may not see this", p.Detail},
		"not-found":       {"There is nothing here", p.Detail},
		"internal":        {"Something went wrong on our side", "Please try again. If it stays like this, tell us the request's number."},
		"canceled":        {"Please try again", "It took too long."},
		"timeout":         {"Please try again", "It took too long."},
		"unknown-user":    {"This account is gone", "The user was deleted. Sign in again to make a new one."},
		"unauthenticated": {"You are not signed in", "Sign in to go on."},
	}
	if text, ok := known[p.Code]; ok {
		d.Heading, d.Text = text[0], text[1]
	} else if fault.Is(err, fault.Unavailable) {
		d.Heading, d.Text = "Please try again in a moment", "A part that is needed does not answer. If you opened a sign-in link, it may be spent: have a new one sent."
	}
	if f, ok := errors.AsType[*fault.Error](err); ok && (f.Code == "stytch-unavailable" || identity.CredentialsRefused(err)) && r.URL.Path == PathLogout {
		d.Text = "You are still signed in: the session could not be ended."
	}
	for k, v := range p.GetHeaders() {
		w.Header()[k] = v
	}
	s.show(w, r, p.Status, "trouble", page{Title: d.Heading, SignedIn: false, Data: d})
}
