//go:build !linux

package cli

import (
	"errors"
	"os"
	"testing"

	"github.com/writ-project/writ/pkg/testkit"
)

func openPTY(t testing.TB) (ours, theirs *os.File) {
	testkit.Need(t, "a pseudo terminal", errors.New("made on Linux only"))
	return nil, nil
}
