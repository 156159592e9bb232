package audit

import (
	"context"
	"errors"
	"fmt"
)

// sequences are the ledger sequences that are accounted for: one bit each.
type sequences struct {
	bits    []uint64
	unknown bool // the source does not tell ids
}

// add marks a sequence. What a forged id can make it hold is bounded.
func (s *sequences) add(n uint64) {
	if n >= maxSequence {
		return // it will be missing
	}
	for uint64(len(s.bits)) <= n/64 {
		s.bits = append(s.bits, make([]uint64, max(64, len(s.bits)/4))...)
	}
	s.bits[n/64] |= 1 << (n % 64)
}

// maxSequence bounds the bits held: 1 GiB of them.
const maxSequence = 1 << 33

func (s *sequences) has(n uint64) bool {
	return n/64 < uint64(len(s.bits)) && s.bits[n/64]&(1<<(n%64)) != 0
}

// check reports the first sequence up to through that is not accounted for.
func (s *sequences) check(ctx context.Context, src Source, through uint64, r *Report) error {
	if s.unknown {
		return nil
	}
	from, err := s.start(ctx, src, r)
	if errors.Is(err, ErrUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	for next := from; next != 0; {
		var ranges []Range
		if ranges, next, err = src.Explained(ctx, next); errors.Is(err, ErrUnknown) {
			return nil
		} else if err != nil {
			return err
		}
		for _, x := range ranges {
			if x.Last-x.First > maxExplained || x.Last < x.First {
				return &Bad{Log: Decisions, Index: -1, Reason: fmt.Sprintf("the ledger sequences %d to %d are explained at once", x.First, x.Last)}
			}
			for n := max(x.First, from); n <= min(x.Last, through); n++ {
				if !s.has(n) {
					s.add(n)
					r.Explained[x.Why]++
				}
			}
		}
		if next > through {
			next = 0
		}
	}
	for n := from; n <= through; n++ {
		if !s.has(n) {
			return &Bad{Log: Decisions, Index: -1, Reason: fmt.Sprintf("the message of ledger sequence %d is in no log, and nothing explains why", n)}
		}
	}
	r.Sequences, r.FirstSequence, r.LastSequence = true, from, through
	return nil
}

// maxExplained bounds one explained range: the auditor writes no longer ones.
const maxExplained = 1 << bucketExplained

// start is the first sequence that everything is there of: the logs may have
// been trimmed.
func (s *sequences) start(ctx context.Context, src Source, r *Report) (uint64, error) {
	from := uint64(1)
	if st, ok := src.(interface {
		State(context.Context) (State, error)
	}); ok {
		state, err := st.State(ctx)
		if err != nil {
			return 0, err
		}
		from = max(from, state.Start)
	}
	for _, l := range Logs {
		x := r.Of(l)
		if x.First == 0 {
			continue
		}
		if x.First >= x.Checkpoint.Tree.N {
			return 0, ErrUnknown // nothing left that would tell
		}
		entries, err := src.Entries(ctx, l, x.First/BundleSize, 1)
		if err != nil {
			return 0, err
		}
		if len(entries) == 0 || entries[0].ID == (ID{}) {
			return 0, ErrUnknown
		}
		from = max(from, entries[0].ID.Sequence)
	}
	return from, nil
}
