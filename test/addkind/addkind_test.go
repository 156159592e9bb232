// Package addkind holds docs/add-a-resource.md to its word: it does what the
// page says in a copy of the repository and runs the result.
package addkind

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestThePageAddsAKind(t *testing.T) {
	root := clone(t)
	follow(t, root)
	writ := filepath.Join(t.TempDir(), "writ")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", writ, "./cmd/writ")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data := filepath.Join(t.TempDir(), "data")
	free := "127.0.0.1:0"
	testkit.StartProcess(t, testkit.Spec{
		Name: "writ dev", Path: writ, Dir: root, ReadyLine: "writ is ready.", Within: time.Minute,
		Args: []string{"dev", "--data", data, "--api-addr", free, "--auditor-addr", free, "--worker-addr", free, "--mailbox-addr", free, "--nats-addr", free, "--redis-addr", free},
	})
	var local struct{ API string }
	read(t, filepath.Join(data, "dev.json"), &local)
	token := func(email string) string {
		out, err := exec.CommandContext(t.Context(), writ, "--data", data, "token", email).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	sam, rim := token("sam@example.com"), token("rim@example.com")
	notes := local.API + "/v1/notes"
	status, body := call(t, "POST", notes, sam, `{"title":"first"}`)
	var note struct{ ID, Title, Region string }
	if err := json.Unmarshal(body, &note); err != nil || status != 201 || note.Region != "eu-east-1" {
		t.Fatalf("create: %d %s", status, body)
	}
	for _, c := range []struct {
		who, method, url, body string
		status                 int
		holds                  string
	}{
		{sam, "GET", notes + "?q=FIR", "", 200, note.ID},
		{rim, "GET", notes, "", 200, `"items":[]`},
		{rim, "GET", notes + "/" + note.ID, "", 404, ""},
		{sam, "PATCH", notes + "/" + note.ID, `{"text":"x"}`, 200, `"version":2`},
		{sam, "PATCH", notes + "/" + note.ID, `{"archived":true}`, 422, "body.archived"},
		{rim, "POST", notes + "/" + note.ID + "/archive", "", 404, ""},
		{sam, "POST", notes + "/" + note.ID + "/archive", "", 200, `"archived":true`},
		{sam, "POST", notes + "/" + note.ID + "/archive", "", 409, "already-archived"},
		{sam, "DELETE", notes + "/" + note.ID, "", 204, ""},
	} {
		if status, body := call(t, c.method, c.url, c.who, c.body); status != c.status || !strings.Contains(string(body), c.holds) {
			t.Errorf("%s %s: %d %s, want %d with %q", c.method, c.url, status, body, c.status, c.holds)
		}
	}
}

// clone copies what git would check out, and what is not committed yet.
func clone(t *testing.T) string {
	t.Helper()
	from, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); rel != "." && (n == ".git" || n == "bin" || n == ".writ" || n == ".tools") {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

var (
	block  = regexp.MustCompile("(?ms)^```[a-z]+ ([^\n]+)\n(.*?)^```$")
	insert = regexp.MustCompile(`^insert=(\S+) after="(.*)"$`)
)

// follow does what the page says: whole files, and lines after others.
func follow(t *testing.T, root string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "add-a-resource.md"))
	if err != nil {
		t.Fatal(err)
	}
	steps := 0
	for _, m := range block.FindAllSubmatch(page, -1) {
		what, text := string(m[1]), m[2]
		if path, ok := strings.CutPrefix(what, "file="); ok {
			write(t, filepath.Join(root, path), text)
			steps++
			continue
		}
		i := insert.FindStringSubmatch(what)
		if i == nil {
			t.Fatalf("the page has a block that is no step: %s", what)
		}
		path, after := filepath.Join(root, i[1]), strings.ReplaceAll(i[2], `\"`, `"`)
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(old, []byte(after))
		if at < 0 {
			t.Fatalf("%s has no %s", i[1], after)
		}
		end := at + bytes.IndexByte(old[at:], '\n') + 1
		write(t, path, bytes.Join([][]byte{old[:end], text, old[end:]}, nil))
		steps++
	}
	if steps != 7 {
		t.Fatalf("the page has %d steps", steps)
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func call(t *testing.T, method, url, token, body string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Prefer", "wait=10")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(fmt.Errorf("%s %s: %w", method, url, err))
	}
	return res.StatusCode, b
}

// client keeps no connection, so that no goroutine outlives the test.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
