package e2e

import (
	"testing"

	"github.com/writ-project/writ/test/e2e/outside"
)

func TestEmbeddedParts(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), nil, nil)
	body(t, &dev.Stack)
	outside.Settled(t, &dev.Stack, settle)
	outside.Audit(t, &dev.Stack)
}

// TestServices also follows a command's trace through all three processes.
func TestServices(t *testing.T) {
	collector := newCollector(t)
	s := outside.StartServices(t, "e2e-1", collector.settings()...)
	body(t, &s.Stack)
	t.Run("one trace", func(t *testing.T) { oneTrace(t, &s.Stack, collector) })
	t.Run("hanging", func(t *testing.T) { pausedEach(t, s) })
	settledAndSealed(t, s)
}

// TestServicesThatDecideAgain has no policy revision, as when nobody tells which policies a PDP serves: the worker takes
// every decision again. What clients see must be the same. Then each process is killed.
func TestServicesThatDecideAgain(t *testing.T) {
	t.Parallel()
	s := outside.StartServices(t, "")
	body(t, &s.Stack)
	t.Run("every command is decided twice", func(t *testing.T) { decidedTwice(t, &s.Stack) })
	t.Run("killed", func(t *testing.T) { killEach(t, s) })
	settledAndSealed(t, s)
}

// settledAndSealed checks the end of a run on services: here the key is known, so the seals are verified too.
func settledAndSealed(t *testing.T, s *outside.Services) {
	t.Helper()
	outside.Settled(t, &s.Stack, settle)
	for _, r := range outside.Audit(t, &s.Stack).Ledger {
		if err := r.Event.Verify(s.Keys, r.Subject); err != nil {
			t.Errorf("event %d on %s: %v", r.Address, r.Subject, err)
		}
	}
}
