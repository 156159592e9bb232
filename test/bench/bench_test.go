package main

import (
	"bytes"
	"strings"
	"testing"
)

// A short run of the whole benchmark: its own checks (unexpected answers,
// commands that are not applied, more than one ledger message a request) end it
// with an error.
func TestShortRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-c", "4", "-d", "1s", "-w", "200ms", "-raw", "100ms"}, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, row := range []string{"accepted commands", "from accepted to applied", "alone: Cerbos engine", "alone: XADD", "alone: auditor", "ledger messages per request"} {
		if !strings.Contains(out.String(), row) {
			t.Errorf("the table has no %q:\n%s", row, out.String())
		}
	}
}
