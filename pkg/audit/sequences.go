package audit

import (
	"context"
	"errors"
	"fmt"
)

// sequences are the ledger sequences up to through that are accounted for.
type sequences struct {
	through   uint64
	entries   bitmap
	explained map[Why]*bitmap
	from      uint64 // the first one that everything is there of
	unknown   bool   // the source does not tell, or nothing is left that would
}

// bitmap holds one bit a sequence.
type bitmap []uint64

// maxSequence bounds what is held: 1 GiB of bits. What is beyond is missing.
const maxSequence = 1 << 33

func (b *bitmap) add(n uint64) {
	if n >= maxSequence {
		return
	}
	for uint64(len(*b)) <= n/64 {
		*b = append(*b, make([]uint64, max(64, len(*b)/4))...)
	}
	(*b)[n/64] |= 1 << (n % 64)
}

func (b bitmap) has(n uint64) bool { return n/64 < uint64(len(b)) && b[n/64]&(1<<(n%64)) != 0 }

// maxExplained bounds one explained range: the auditor writes no longer ones.
const maxExplained = 1 << bucketExplained

// readSequences reads what is explained. That comes before the logs are read:
// what is trimmed meanwhile was seen then.
func readSequences(ctx context.Context, src Source, through uint64) (*sequences, error) {
	s := &sequences{through: through, explained: map[Why]*bitmap{}, from: 1}
	if st, ok := src.(interface {
		State(context.Context) (State, error)
	}); ok {
		state, err := st.State(ctx)
		if err != nil {
			return nil, err
		}
		s.from = max(s.from, state.Start)
	}
	for next := s.from; next != 0 && next <= through; {
		ranges, after, err := src.Explained(ctx, next)
		if errors.Is(err, ErrUnknown) {
			s.unknown = true
			return s, nil
		}
		if err != nil {
			return nil, err
		}
		for _, x := range ranges {
			if x.Last < x.First || x.Last-x.First >= maxExplained {
				return nil, &Bad{Log: Decisions, Index: -1, Reason: fmt.Sprintf("the ledger sequences %d to %d are explained at once", x.First, x.Last)}
			}
			for n := x.First; n <= min(x.Last, through); n++ {
				if s.explained[x.Why] == nil {
					s.explained[x.Why] = &bitmap{}
				}
				s.explained[x.Why].add(n)
			}
		}
		if after != 0 && after <= next {
			return nil, fmt.Errorf("%w: what is explained after %d goes on at %d", ErrDamaged, next, after)
		}
		next = after
	}
	return s, nil
}

// add takes an entry's sequence.
func (s *sequences) add(n uint64) {
	if n <= s.through {
		s.entries.add(n)
	}
}

// begins says that a log begins trimmed: everything is there from its first
// entry on, whose sequence is 0 when none is left.
func (s *sequences) begins(sequence uint64) {
	s.unknown = s.unknown || sequence == 0
	s.from = max(s.from, sequence)
}

// check reports the first sequence that is not accounted for.
func (s *sequences) check(r *Report) error {
	if s.unknown {
		return nil
	}
	for n := s.from; n <= s.through; n++ {
		if s.entries.has(n) {
			continue
		}
		found := false
		for why, b := range s.explained {
			if found = b.has(n); found {
				r.Explained[why]++
				break
			}
		}
		if !found {
			return &Bad{Log: Decisions, Index: -1, Reason: fmt.Sprintf("the message of ledger sequence %d is in no log, and nothing explains why", n)}
		}
	}
	r.Sequences, r.FirstSequence, r.LastSequence = true, s.from, s.through
	return nil
}
