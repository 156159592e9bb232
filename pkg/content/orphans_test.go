package content

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/writ-project/writ/pkg/testkit"
)

// TestChunksOfNoPartAreSwept: a process died between the chunks of a part and its
// description.
func TestChunksOfNoPartAreSwept(t *testing.T) {
	nc, err := nats.Connect(testkit.NATS(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	s, err := Open(t.Context(), nc, Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := s.Create(t.Context(), Ref{"r", "u"}, "c", nil)
	if _, err := w.Write(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.js.Publish(t.Context(), chunks+"left", []byte("behind")); err != nil {
		t.Fatal(err)
	}
	left := func() int {
		t.Helper()
		all, err := s.orphans(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	none := func(context.Context, Kept) (bool, error) { return false, nil }
	if _, err := s.Sweep(t.Context(), none); err != nil || left() != 2 {
		t.Fatalf("a young one may be of a part that is being written: %d, %v", left(), err)
	}
	s.orphanAge = 0
	if _, err := s.Sweep(t.Context(), none); err != nil || left() != 1 {
		t.Errorf("%d, %v", left(), err)
	}
	if _, err := s.Open(t.Context(), Ref{"r", "u"}, 10); err != nil {
		t.Error(err)
	}
}
