package fault_test

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/fault"
)

func TestKindIsFoundThroughWrapping(t *testing.T) {
	for _, c := range []struct {
		err  error
		kind fault.Kind
		code string
		text string
	}{
		{fault.Missing("contact", "c1"), fault.NotFound, "not-found", "there is no contact c1"},
		{fault.Conflict("version-conflict", "at %d, not %d", 3, 2), fault.KindConflict, "version-conflict", "at 3, not 2"},
		{fault.InvalidField("body.email", "want an address"), fault.Invalid, "invalid", "body.email: want an address"},
		{fault.Unreachable("cerbos", io.EOF), fault.Unavailable, "cerbos-unavailable", "cerbos is unavailable: EOF"},
		{fault.New(fault.Limited, "limited", "slow down"), fault.Limited, "limited", "slow down"},
	} {
		wrapped := errors.Join(io.ErrUnexpectedEOF, fmt.Errorf("answer: %w", c.err))
		if !fault.Is(wrapped, c.kind) || fault.KindOf(wrapped) != c.kind {
			t.Errorf("%v: kind %d, want %d", c.err, fault.KindOf(wrapped), c.kind)
		}
		e, ok := errors.AsType[*fault.Error](wrapped)
		if !ok || e.Code != c.code || e.Error() != c.text {
			t.Errorf("%v: %+v", c.err, e)
		}
	}
}

func TestWhatNobodyClassifiedIsOurDefect(t *testing.T) {
	if fault.KindOf(io.EOF) != fault.Internal || !fault.Is(io.EOF, fault.Internal) {
		t.Error("io.EOF is taken for the client's")
	}
	for k := range fault.Limited + 1 {
		if fault.Is(nil, k) {
			t.Errorf("no error is of kind %d", k)
		}
	}
}

func TestDetails(t *testing.T) {
	e := fault.Unreachable("ledger", io.EOF)
	if e.RetryAfter != time.Second || !errors.Is(e, io.EOF) {
		t.Errorf("%+v", e)
	}
	f := fault.InvalidField("query.limit", "at most %d", 100)
	if len(f.Fields) != 1 || f.Fields[0].Location != "query.limit" || f.Fields[0].Message != "at most 100" {
		t.Errorf("%+v", f.Fields)
	}
}
