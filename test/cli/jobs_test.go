package cli

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/writ-project/writ/test/e2e/outside"
)

// TestJobsAreListedPageByPage: as many pages as it takes, short and empty ones among them, and no job more than asked for.
func TestJobsAreListedPageByPage(t *testing.T) {
	pages := map[string]struct {
		jobs int
		next string
	}{"": {200, "w7"}, "w7": {0, "s9"}, "s9": {3, "s5"}, "s5": {2, ""}}
	var mu sync.Mutex
	var asked []string
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		mu.Lock()
		asked = append(asked, q.Get("cursor")+"/"+q.Get("limit")+"/"+q.Get("status"))
		mu.Unlock()
		page, items := pages[q.Get("cursor")], []string{}
		for n := range page.jobs {
			items = append(items, fmt.Sprintf(`{"id":"job-%s-%d","queue":"q","status":"done","enqueued_at":"2026-11-22T00:00:00Z"}`, q.Get("cursor"), n))
		}
		w.Header().Set("Content-Type", "application/json")
		next := ""
		if page.next != "" {
			next = fmt.Sprintf(`,"next_cursor":%q`, page.next)
		}
		fmt.Fprintf(w, `{"items":[%s]%s}`, strings.Join(items, ","), next)
	}))
	defer api.Close()
	list := func(args ...string) (lines int, hint string, requests []string) {
		t.Helper()
		mu.Lock()
		asked = nil
		mu.Unlock()
		cmd := exec.CommandContext(t.Context(), outside.Binary(t, "writ"), append([]string{"jobs", "list", "-o", "json", "--status", "done"}, args...)...)
		cmd.Env = append(os.Environ(), "WRIT_URL="+api.URL, "WRIT_TOKEN=token")
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, errOut.String())
		}
		mu.Lock()
		defer mu.Unlock()
		return strings.Count(out.String(), "\n"), errOut.String(), asked
	}
	if n, hint, requests := list("-n", "500"); n != 205 || hint != "" || !slices.Equal(requests, []string{"/200/done", "w7/200/done", "s9/200/done", "s5/200/done"}) {
		t.Errorf("%d jobs by %v: %s", n, requests, hint)
	}
	if n, hint, requests := list("-n", "203"); n != 203 || !strings.Contains(hint, "more") || !slices.Equal(requests, []string{"/200/done", "w7/3/done", "s9/3/done"}) {
		t.Errorf("%d jobs by %v: %s", n, requests, hint)
	}
}
