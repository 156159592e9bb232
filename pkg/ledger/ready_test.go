package ledger_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestReadyTellsWhetherTheLedgerAnswers(t *testing.T) {
	server := testkit.NATS(t)
	l, _, proxy := through(t, server.URL(), ledger.Config{})
	if err := l.Ready(within(t, patience)); err != nil {
		t.Error(err)
	}
	proxy.Stall()
	began := time.Now()
	unavailable(t, "stalled", l.Ready(within(t, 200*time.Millisecond)))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("stalled: told after %s", took)
	}
	proxy.Cut()
	testkit.Eventually(t, patience, func() error {
		if err := l.Ready(within(t, time.Second)); !fault.Is(err, fault.Unavailable) {
			return fmt.Errorf("cut: %v", err)
		}
		return nil
	})
	proxy.Restore()
	testkit.Eventually(t, patience, func() error { return l.Ready(within(t, time.Second)) })
}

// smallDisk is a file system of so many MiB.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm", mib), "tmpfs", dir).CombinedOutput(); err != nil {
		testkit.Need(t, "the right to mount a file system", fmt.Errorf("%w: %s", err, out))
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// TestAfterAFullDiskReadyTellsThatAppendsFail: nats-server keeps the write
// error, so it does until the server is started again, and then without an
// append that would show it.
func TestAfterAFullDiskReadyTellsThatAppendsFail(t *testing.T) {
	dir := smallDisk(t, 64)
	server := testkit.NATS(t, testkit.NATSDir(filepath.Join(dir, "nats")), testkit.NATSSyncAlways())
	l := open(t, server.URL(), ledger.Config{AppendTimeout: 500 * time.Millisecond})
	before := appendEach(t, l, "before", "r", 3)
	fill := filepath.Join(dir, "fill")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	large := message("large", "r")
	large.Data = event(large.ID, 1<<20) // more than the last page of the file takes
	_, err = l.Append(within(t, patience), large)
	unavailable(t, "disk full", err)
	notReady := func(when string) {
		t.Helper()
		if err := l.Ready(within(t, patience)); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "appends fail") {
			t.Errorf("%s: ready says %v, want that appends fail", when, err)
		}
	}
	notReady("disk full")
	if err := errors.Join(f.Close(), os.Remove(fill)); err != nil {
		t.Fatal(err)
	}
	notReady("there is space, and the server keeps its error")
	_, err = l.Append(within(t, patience), message("after", "r"))
	unavailable(t, "there is space, and the server keeps its error", err)
	notReady("after another append")

	server.Stop(t)
	server.Start(t)
	testkit.Eventually(t, patience, func() error { return l.Ready(within(t, time.Second)) })
	after := appendOne(t, l, message("again", "r"))
	var have []string
	for _, r := range follow(t, l, 0, len(before)+1) {
		have = append(have, events.IDOf(r.Data))
	}
	if want := "[before-0 before-1 before-2 again]"; fmt.Sprint(have) != want || after <= before[2] {
		t.Errorf("the ledger holds %v, want %s: nothing acknowledged is lost", have, want)
	}
}

// TestAFullLedgerIsNotReadyUntilThereIsRoom: for what failed; without another append.
func TestAFullLedgerIsNotReadyUntilThereIsRoom(t *testing.T) {
	url := testkit.NATS(t).URL()
	l := open(t, url, ledger.Config{MaxBytes: 64 << 10})
	large := message("large", "r")
	large.Data = event(large.ID, 40<<10)
	appendOne(t, l, large)
	if err := l.Ready(within(t, patience)); err != nil {
		t.Errorf("half full: %v", err)
	}
	_, err := l.Append(within(t, patience), large)
	unavailable(t, "full", err)
	for range 2 {
		if err := l.Ready(within(t, patience)); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "appends fail") {
			t.Errorf("full: ready says %v, want that appends fail", err)
		}
	}
	open(t, url, ledger.Config{MaxBytes: 1 << 20})
	testkit.Eventually(t, ledger.RefusedFor+patience, func() error { return l.Ready(within(t, time.Second)) })
}

// TestAnAppendThatCameThroughLateLeavesTheLedgerReady: it was slow, not broken.
func TestAnAppendThatCameThroughLateLeavesTheLedgerReady(t *testing.T) {
	l, nc, proxy := through(t, testkit.NATS(t).URL(), ledger.Config{AppendTimeout: 300 * time.Millisecond})
	appendEach(t, l, "before", "r", 2)
	proxy.Stall()
	_, err := l.Append(within(t, patience), message("late", "r"))
	unavailable(t, "stalled", err)
	unavailable(t, "ready while stalled", l.Ready(within(t, 100*time.Millisecond)))
	proxy.Restore()
	if err := l.Ready(within(t, patience)); err != nil {
		t.Errorf("the append is stored, late, and ready says %v", err)
	}
	if n := nc.Stats().Reconnects; n != 0 {
		t.Errorf("%d reconnects: the test shows nothing", n)
	}
	if id := events.IDOf(record(t, l, events.At(3, 0)).Data); id != "late" {
		t.Errorf("the ledger ends with %s, want late", id)
	}
}

// TestAnAppendLostWithItsConnectionLeavesTheLedgerReady: whether it is stored or not.
func TestAnAppendLostWithItsConnectionLeavesTheLedgerReady(t *testing.T) {
	l, _, proxy := through(t, testkit.NATS(t).URL(), ledger.Config{AppendTimeout: 300 * time.Millisecond})
	proxy.Stall()
	_, err := l.Append(within(t, patience), message("lost", "r"))
	unavailable(t, "stalled", err)
	proxy.Cut()
	proxy.Restore()
	testkit.Eventually(t, patience, func() error { return l.Ready(within(t, time.Second)) })
}

// TestAnAppendThatSucceedsMakesTheLedgerReady: the last one counts.
func TestAnAppendThatSucceedsMakesTheLedgerReady(t *testing.T) {
	url := testkit.NATS(t).URL()
	l := open(t, url, ledger.Config{MaxBytes: 64 << 10})
	large := message("large", "r")
	large.Data = event(large.ID, 100<<10)
	_, err := l.Append(within(t, patience), large)
	unavailable(t, "full", err)
	unavailable(t, "ready", l.Ready(within(t, patience)))
	if _, err := l.AppendOutcomes(within(t, patience), shard0, ledger.Outcomes{}, answers(1, 1, 1)); err != nil {
		t.Fatal(err)
	}
	if err := l.Ready(within(t, patience)); err != nil {
		t.Errorf("outcomes were appended since, and ready says %v", err)
	}
}
