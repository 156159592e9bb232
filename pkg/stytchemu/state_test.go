package stytchemu

import (
	"fmt"
	"testing"
	"time"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/users"
)

// The journal of a long run does not grow without end, and the rewritten one
// says the same.
func TestJournalIsRewrittenWhileItRuns(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	s, err := openState(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	most := 0
	for i := range rewriteAfter + 100 {
		u := users.User{UserID: "user-test-1", ExternalID: fmt.Sprint(i), CreatedAt: &now}
		if err := s.commit(now, put("user", u.UserID, u)); err != nil {
			t.Fatal(err)
		}
		most = max(most, s.journal.lines)
	}
	if most > rewriteAfter+2 || s.journal.lines > 200 {
		t.Fatalf("the journal grew to %d lines and has %d", most, s.journal.lines)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if s, err = openState(dir, now); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if got := s.users["user-test-1"].ExternalID; got != fmt.Sprint(rewriteAfter+99) {
		t.Fatalf("read back %s", got)
	}
}
