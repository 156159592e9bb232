package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/writ-project/writ/test/e2e/outside"
)

// TestOutputsAreWrittenWhereTheyAreSent: through what is no regular file, to where links lead, and over regular files with their modes.
func TestOutputsAreWrittenWhereTheyAreSent(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), nil, nil)
	recorded(t, dev)
	tail := want(t, dev, 0, "audit", "tail", "-o", "json", "--kind", "contact")
	var last struct{ ID string }
	if err := json.Unmarshal([]byte(document("export", tail.out)), &last); err != nil {
		t.Fatal(err)
	}
	id := last.ID
	for name, args := range map[string][]string{
		"export": {"audit", "export", "--kind", "contact", "-o"},
		"prove":  {"audit", "prove", id, "-o"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			written := func(path string) {
				t.Helper()
				if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), id) {
					t.Errorf("%s: %d bytes, %v; want the decision %s", path, len(b), err, id)
				}
			}

			fifo := filepath.Join(dir, "fifo")
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			read := make(chan string, 1)
			go func() {
				b, _ := os.ReadFile(fifo) // what is missing is told below
				read <- string(b)
			}()
			want(t, dev, 0, append(args, fifo)...)
			if info, err := os.Lstat(fifo); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
				t.Fatalf("the FIFO is %v now (%v), want it left", info.Mode(), err)
			}
			if got := <-read; !strings.Contains(got, id) {
				t.Errorf("the FIFO's reader got %q, want the decision %s", got, id)
			}

			target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
			if err := os.Symlink("target", link); err != nil {
				t.Fatal(err)
			}
			want(t, dev, 0, append(args, link)...) // leads nowhere yet
			written(target)
			if err := os.WriteFile(target, []byte("old"), 0o640); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(target, 0o644); err != nil {
				t.Fatal(err)
			}
			want(t, dev, 0, append(args, link)...)
			written(target)
			if info, err := os.Lstat(target); err != nil || info.Mode() != 0o644 {
				t.Errorf("the file's mode is %v (%v), want it kept, 0644", info.Mode(), err)
			}
			if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
				t.Errorf("the link is %v now (%v), want it left", info.Mode(), err)
			}

			if r := want(t, dev, 0, append(args, "/dev/stdout")...); !strings.Contains(r.out, id) || !json.Valid([]byte(strings.TrimSpace(document(name, r.out)))) {
				t.Errorf("/dev/stdout got %q, want the decision %s and nothing else", r.out, id)
			}
			want(t, dev, 1, append(args, "/dev/full")...)
			if info, err := os.Stat("/dev/full"); err != nil || info.Mode()&os.ModeCharDevice == 0 {
				t.Errorf("/dev/full is %v now (%v), want a device", info.Mode(), err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 3 {
				t.Errorf("the folder has %v (%v), want fifo, link and target alone", entries, err)
			}
		})
	}
}

// document is a document, or the first of many lines.
func document(name, out string) string {
	if name == "export" {
		out, _, _ = strings.Cut(out, "\n")
	}
	return out
}
