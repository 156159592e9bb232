// Package browser drives writ with a real browser, as people have it: pages, forms, cookies and links that are
// followed, without a line of script of ours. It needs Chromium, found on PATH or by WRIT_CHROMIUM_BIN.
package browser

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// patience bounds a whole visit: the browser starts slowly where others compile beside it.
const patience = 2 * time.Minute

// chromium finds the browser.
func chromium(t *testing.T) string {
	t.Helper()
	names := []string{"chromium", "chromium-browser", "google-chrome"}
	if given := os.Getenv("WRIT_CHROMIUM_BIN"); given != "" {
		names = []string{given}
	}
	var missing error
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err == nil {
			return path
		}
		missing = err
	}
	testkit.Need(t, "Chromium", missing)
	return ""
}

// visit opens a browser of its own, with nothing in it. It ends with the test.
func visit(t *testing.T) context.Context {
	t.Helper()
	path := chromium(t)
	timed, cancel := context.WithTimeout(context.Background(), patience)
	allocator, stop := chromedp.NewExecAllocator(timed,
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WindowSize(1100, 900),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true)) // small where containers run
	ctx, leave := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil && timed.Err() == nil {
			t.Logf("the browser did not close: %v", err)
		}
		leave()
		stop()
		cancel()
	})
	return ctx
}

// do has the browser do things, or fails the test with what it shows.
func do(t *testing.T, ctx context.Context, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, actions...); err != nil {
		at, _ := chromedp.Run(ctx, chromedp.Location())
		text, _ := chromedp.Run(ctx, chromedp.Text(chromedp.CSS("body")))
		t.Fatalf("%v\nat %s: %.500s", err, at, text)
	}
}

// get has the browser tell something.
func get[T any](t *testing.T, ctx context.Context, action chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// text is what an element shows.
func text(t *testing.T, ctx context.Context, selector chromedp.CSS) string {
	t.Helper()
	return get(t, ctx, chromedp.Text(selector))
}

// awaitPromise has a script's promise waited for.
func awaitPromise(p *runtime.EvaluateParams) { chromedp.EvalAwaitPromise(p) }
