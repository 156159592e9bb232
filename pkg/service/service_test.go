package service

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// TestAStopFitsIntoItsTime: whoever stops a service gives it 10 s (docs/runbook.md).
func TestAStopFitsIntoItsTime(t *testing.T) {
	if all := DrainTimeout + FlushTimeout + 2*ExportTimeout; all >= 10*time.Second {
		t.Errorf("it may take %s", all)
	}
}

func TestListenNamesTheSetting(t *testing.T) {
	l, err := Listen(nil, "WRIT_X_ADDR", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if same, err := Listen(l, "WRIT_X_ADDR", "nowhere"); err != nil || same != l {
		t.Errorf("%v, %v", same, err)
	}
	var in *net.OpError
	if _, err := Listen(nil, "WRIT_X_ADDR", l.Addr().String()); !errors.As(err, &in) || !strings.HasPrefix(err.Error(), "WRIT_X_ADDR: ") {
		t.Errorf("a taken port: %v", err)
	}
}

func TestCloseKeepsEveryError(t *testing.T) {
	first, second, third := errors.New("first"), errors.New("second"), errors.New("third")
	run := func() (err error) {
		defer Close(&err, func() error { return third })
		defer CloseWithin(&err, time.Second, func(ctx context.Context) error {
			if at, ok := ctx.Deadline(); !ok || time.Until(at) > time.Second {
				t.Errorf("the deadline is %v", at)
			}
			return second
		})
		return first
	}
	err := run()
	for _, want := range []error{first, second, third} {
		if !errors.Is(err, want) {
			t.Errorf("%v lacks %v", err, want)
		}
	}
}
