package content_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
	"time"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func open(t *testing.T, cfg content.Config) *content.Store {
	t.Helper()
	nc, err := ledger.Connect(testkit.NATS(t).URL(), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	s, err := content.Open(t.Context(), nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func keep(t *testing.T, s *content.Store, ref content.Ref, data []byte) {
	t.Helper()
	w := s.Create(t.Context(), ref, "command", nil)
	if _, err := io.Copy(w, iotest.HalfReader(bytes.NewReader(data))); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if w.Size() != int64(len(data)) || w.SHA256() != sum(data) {
		t.Fatalf("stored %d bytes of %d", w.Size(), len(data))
	}
}

func TestWhatIsWrittenIsReadFromAnywhere(t *testing.T) {
	s := open(t, content.Config{})
	for _, size := range []int{0, 1, content.PartSize - 1, content.PartSize, content.PartSize + 1, 2*content.PartSize + 12345} {
		data := random(size)
		ref := content.Ref{Resource: "r", Upload: "u"}
		keep(t, s, ref, data)
		r, err := s.Open(t.Context(), ref, int64(size))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: read %d, %v", size, len(got), err)
		}
		for _, at := range []int64{0, int64(size) / 2, int64(size) - 1} {
			if at < 0 || at >= int64(size) {
				continue
			}
			if _, err := r.Seek(at, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			var one [1]byte
			if _, err := io.ReadFull(r, one[:]); err != nil || one[0] != data[at] {
				t.Errorf("byte %d: %v, %v", at, one, err)
			}
		}
		if err := s.Remove(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(t.Context(), ref, int64(size)); size > 0 && !fault.Is(err, fault.NotFound) {
			t.Errorf("still there: %v", err)
		}
	}
}

func TestResumedWhereItWasCut(t *testing.T) {
	s := open(t, content.Config{})
	data := random(2*content.PartSize + 777)
	ref := content.Ref{Resource: "r", Upload: "u"}
	if _, err := s.Find(t.Context(), "t", "p", "r"); !fault.Is(err, fault.NotFound) {
		t.Fatal(err)
	}
	u, err := s.Begin(t.Context(), "t", "p", content.Session{Ref: ref, Command: "c", Total: int64(len(data))})
	if err != nil {
		t.Fatal(err)
	}
	// In pieces whose borders are anywhere, each by another request.
	cuts := []int{0, 5, content.PartSize - 3, content.PartSize, content.PartSize + 100, 2 * content.PartSize, len(data)}
	for i := 1; i < len(cuts); i++ {
		if i > 1 {
			if u, err = s.Find(t.Context(), "t", "p", "r"); err != nil {
				t.Fatal(err)
			}
		}
		if u.Size != int64(cuts[i-1]) {
			t.Fatalf("it has %d bytes, %d were sent", u.Size, cuts[i-1])
		}
		w, err := u.Resume(t.Context(), func(int64) {})
		if err != nil {
			t.Fatal(err)
		}
		other, err := s.Find(t.Context(), "t", "p", "r")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Resume(t.Context(), func(int64) {}); !fault.Is(err, fault.KindConflict) {
			t.Fatalf("two requests send one upload: %v", err)
		}
		if _, err := w.Write(data[cuts[i-1]:cuts[i]]); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Flush(), u.Release(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := u.Digest(); err != nil || got != sum(data) {
		t.Errorf("digest %s, %v", got, err)
	}
	r, err := s.Open(t.Context(), ref, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if err := u.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(t.Context(), "t", "p", "r"); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
	if kept, err := s.List(t.Context()); err != nil || len(kept) != 1 || kept[0].Size != int64(len(data)) || kept[0].Command != "c" {
		t.Errorf("%+v, %v", kept, err)
	}
}

func TestSweepRemovesWhatIsGoneAndNothingElse(t *testing.T) {
	s := open(t, content.Config{})
	data := random(content.PartSize + 5)
	for _, u := range []string{"old", "new"} {
		keep(t, s, content.Ref{Resource: "r", Upload: u}, data)
	}
	n, err := s.Sweep(t.Context(), func(_ context.Context, k content.Kept) (bool, error) { return k.Upload == "old", nil })
	if err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if kept, err := s.List(t.Context()); err != nil || len(kept) != 1 || kept[0].Upload != "new" || kept[0].Parts != 2 {
		t.Errorf("%+v, %v", kept, err)
	}
	if _, err := s.Sweep(t.Context(), func(context.Context, content.Kept) (bool, error) { return true, errors.New("unknown") }); err == nil {
		t.Error("an error was overlooked")
	}
	if kept, err := s.List(t.Context()); err != nil || len(kept) != 1 {
		t.Errorf("removed although it was not known: %+v, %v", kept, err)
	}
}

func TestFullStoreRefuses(t *testing.T) {
	s := open(t, content.Config{MaxBytes: 3 << 20})
	w := s.Create(t.Context(), content.Ref{Resource: "r", Upload: "u"}, "c", nil)
	_, err := w.Write(random(3 * content.PartSize))
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Unavailable || e.Code != "content-full" {
		t.Errorf("%v", err)
	}
}

// TestWhoLostTheUploadWritesNoPart: a request was silent for so long, or its
// process asleep, that another goes on with its upload.
func TestWhoLostTheUploadWritesNoPart(t *testing.T) {
	s := open(t, content.Config{})
	data := random(3000)
	first, err := s.Begin(t.Context(), "t", "p", content.Session{Ref: content.Ref{Resource: "r", Upload: "u"}, Total: 3000})
	if err != nil {
		t.Fatal(err)
	}
	resume := func(u *content.Session) *content.Writer {
		w, err := u.Resume(t.Context(), func(int64) {})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	write := func(w *content.Writer, b []byte) error {
		if _, err := w.Write(b); err != nil {
			return err
		}
		return w.Flush()
	}
	old := resume(first)
	if err := write(old, data[:1000]); err != nil {
		t.Fatal(err)
	}
	second, err := s.Find(t.Context(), "t", "p", "r")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Resume(t.Context(), func(int64) {}); err == nil {
		t.Fatal("two requests hold the upload")
	}
	second.Until = time.Now() // as if its time were up
	if err := write(resume(second), data[1000:]); err != nil {
		t.Fatal(err)
	}
	if err := write(old, data[1000:1500]); !fault.Is(err, fault.KindConflict) {
		t.Errorf("who lost the upload: %v", err)
	}
	r, err := s.Open(t.Context(), first.Ref, 3000)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
