package identity

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/users"

	"github.com/writ-project/writ/pkg/fault"
)

// CredentialsRefused reports whether Stytch does not take the project's id or
// secret: ours to mend and no caller's fault, so it is fault.Unavailable. It
// tells nothing of what became of the call before it.
func CredentialsRefused(err error) bool {
	c := code(err)
	return c == "unauthorized-credentials" || c == "project-not-found"
}

// credentials is what is known of whether Stytch takes the project's.
type credentials struct {
	log   *slog.Logger // nil for none
	clock func() time.Time

	mu      sync.Mutex
	known   bool      // Stytch has said so, one way or the other
	refused error     // what it said last, nil if it takes them
	asked   time.Time // when they were last tried for their own sake
}

// note learns from how an authenticated call ended. A change is logged, once.
func (c *credentials) note(err error) {
	if c == nil || code(err) == notMade || Temporary(err) && !CredentialsRefused(err) {
		return
	}
	refused := err
	if !CredentialsRefused(err) {
		refused = nil // whatever else it refuses, it knows who asks
	}
	c.mu.Lock()
	before := c.refused
	c.known, c.refused = true, refused
	c.mu.Unlock()
	switch {
	case c.log == nil:
	case before == nil && refused != nil:
		c.log.Error("Stytch refuses this project's credentials: STYTCH_PROJECT_ID or STYTCH_SECRET is wrong, or STYTCH_BASE_URL is another environment's. "+
			"Nobody can sign in, and role changes wait, until that is mended", "error", refused)
	case before != nil && refused == nil:
		c.log.Info("Stytch takes this project's credentials again")
	}
}

// standing gives Stytch's last word, and whether to ask for a new one: it is not
// what one would like, and 15 s old.
func (c *credentials) standing(unknown bool) (refused error, ask bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	ask = (c.refused != nil || unknown && !c.known) && now.Sub(c.asked) >= pingEvery
	if ask {
		c.asked = now
	}
	return c.refused, ask
}

// checkCredentials gives the refusal of the project's credentials that stands,
// after another try if it is old; with unknown also where there was none yet.
func (c *Client) checkCredentials(ctx context.Context, unknown bool) error {
	refused, ask := c.credentials.standing(unknown)
	if !ask {
		return refused
	}
	_, err := call(ctx, c.credentials, "try the project's credentials", func(ctx context.Context) (*users.GetResponse, error) {
		return c.api.Users.Get(ctx, &users.GetParams{UserID: c.nobody()})
	})
	if err == nil || Temporary(err) {
		return err
	}
	return nil // there is no such user: it was told so
}

// nobody is an id that no user has.
func (c *Client) nobody() string {
	env := "test"
	if strings.HasPrefix(string(c.api.Users.C.GetConfig().ProjectID), "project-live-") {
		env = "live"
	}
	return "user-" + env + "-00000000-0000-4000-8000-000000000000"
}

// errCredentials words a refusal of the project's credentials.
func errCredentials(code string, err error) error {
	out := fault.New(fault.Unavailable, code, "Stytch refuses this project's credentials")
	out.RetryAfter, out.Err = pingEvery, err
	return out
}
