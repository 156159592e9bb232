package tenants

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/testkit"
)

// waiting gives acme a command that waits: nothing is applied while a transaction of the test's holds the database. The
// function that it gives ends that, and takes away what the command made.
func (w *world) waiting(t *testing.T) func() {
	t.Helper()
	st, err := store.Open(t.Context(), w.dev.Database)
	if err != nil {
		t.Fatal(err)
	}
	held, release, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		first := true
		ended <- st.Update(t.Context(), func(ctx context.Context, _ *store.Tx) error {
			if first {
				first = false
				close(held)
			}
			select {
			case <-release:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	select {
	case <-held:
	case err := <-ended:
		t.Fatal(err)
	}
	a := w.amy.Want(t, http.StatusAccepted, nil, "POST", "/v1/contacts", `{"first_name":"`+mark+`"}`, "Writ-Tenant", acme)
	var accepted struct{ Resource struct{ ID string } }
	a.Decode(t, &accepted)
	w.things["waiting"] = []string{a.CommandID(), accepted.Resource.ID}
	return func() {
		close(release)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		testkit.Eventually(t, 30*time.Second, func() error {
			if a := w.amy.Do(t, "GET", "/v1/contacts/"+accepted.Resource.ID, "", "Writ-Tenant", acme); a.Status != http.StatusOK {
				return fmt.Errorf("%d %s", a.Status, a.Body)
			}
			return nil
		})
		delete(w.things, "waiting")
		w.amy.Want(t, http.StatusNoContent, nil, "DELETE", "/v1/contacts/"+accepted.Resource.ID, "", "Prefer", wait, "Writ-Tenant", acme)
	}
}
