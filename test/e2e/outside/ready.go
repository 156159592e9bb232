package outside

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/testkit"
)

// Until waits, for at most 30 s, until check returns nil.
func Until(t testing.TB, check func() error) {
	t.Helper()
	testkit.Eventually(t, 30*time.Second, check)
}

// Ready waits until a service says that it is ready, or, with a dependency named, that it is not because of that one.
func Ready(t testing.TB, url, without string) {
	t.Helper()
	c := NewClient(t, url, "")
	Until(t, func() error {
		a, err := c.Try(t.Context(), http.MethodGet, "/readyz?verbose", "")
		if err != nil {
			return err
		}
		switch {
		case without == "" && a.Status == http.StatusOK, without != "" && a.Status == http.StatusServiceUnavailable && bytes.Contains(a.Body, []byte("[-]"+without)):
			return nil
		}
		return fmt.Errorf("%d %s", a.Status, a.Body)
	})
}
