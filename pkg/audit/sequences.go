package audit

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"github.com/writ-project/writ/pkg/events"
)

// sequences are the ledger addresses up to through that are accounted for.
type sequences struct {
	through events.Address
	all     bitmap          // entries, and everything that is explained
	counted map[Why]*bitmap // of what is explained: events that are refused, checkpoints
	from    events.Address  // the first one that everything is there of
	unknown bool            // the source does not tell, or nothing is left that would
}

// bitmap holds one bit an address, in pages that are made when they are written.
type bitmap []*page

type page [1 << pageBits / 64]uint64 // 4 kB

const (
	pageBits = 15 // of addresses in one page: 128 messages
	// maxAddress bounds what is held: 2^28 messages, 8 GiB of bits if the ledger has
	// as many. What is beyond is missing.
	maxAddress = 1 << 36
)

// add sets the bits from first to last, both included.
func (b *bitmap) add(first, last events.Address) {
	for last = min(last, maxAddress-1); first <= last; {
		n := first >> pageBits
		for uint64(len(*b)) <= n {
			*b = append(*b, nil)
		}
		if (*b)[n] == nil {
			(*b)[n] = new(page)
		}
		end := min(last, first|63) // of this word
		(*b)[n][first>>6%uint64(len(page{}))] |= mask(first, end)
		first = end + 1
	}
}

// mask has the bits from first to last of the word that both are in.
func mask(first, last events.Address) uint64 {
	return ^uint64(0) << (first % 64) & (^uint64(0) >> (63 - last%64))
}

// word gives the 64 bits that an address is in.
func (b bitmap) word(a events.Address) uint64 {
	if n := a >> pageBits; n < uint64(len(b)) && b[n] != nil {
		return b[n][a>>6%uint64(len(page{}))]
	}
	return 0
}

// maxExplained bounds one explained range: the auditor writes no longer ones.
const maxExplained = 1 << bucketExplained

// readSequences reads what is explained. That comes before the logs are read:
// what is trimmed meanwhile was seen then.
func readSequences(ctx context.Context, src Source, through events.Address) (*sequences, error) {
	s := &sequences{through: through, counted: map[Why]*bitmap{WhyRefused: {}, WhyCheckpoint: {}}, from: 1}
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
				return nil, &Bad{Log: Decisions, Index: -1, Reason: fmt.Sprintf("the ledger addresses %d to %d are explained at once", x.First, x.Last)}
			}
			s.explain(x)
		}
		if after != 0 && after <= next {
			return nil, fmt.Errorf("%w: what is explained after %d goes on at %d", ErrDamaged, next, after)
		}
		next = after
	}
	return s, nil
}

// explain takes a range; one for no known reason explains nothing.
func (s *sequences) explain(x Range) {
	last := min(x.Last, s.through)
	if b := s.counted[x.Why]; b != nil {
		b.add(x.First, last)
	} else if x.Why != WhyEnd {
		return
	}
	s.all.add(x.First, last)
}

// add takes an entry's address.
func (s *sequences) add(a events.Address) {
	if a <= s.through {
		s.all.add(a, a)
	}
}

// begins says that a log begins trimmed: everything is there from its first
// entry on, whose address is 0 when none is left.
func (s *sequences) begins(address events.Address) {
	s.unknown = s.unknown || address == 0
	s.from = max(s.from, address)
}

// gap gives the first address from one to another, both included, that is not
// accounted for.
func (s *sequences) gap(first, last events.Address) (a events.Address, found bool) {
	for first <= last {
		end := min(last, first|63)
		if lacks := mask(first, end) &^ s.all.word(first); lacks != 0 {
			return first&^63 + uint64(bits.TrailingZeros64(lacks)), true
		}
		first = end + 1
	}
	return 0, false
}

// check reports the first address that is not accounted for.
func (s *sequences) check(r *Report) error {
	if s.unknown {
		return nil
	}
	if a, found := s.gap(s.from, s.through); found {
		return &Bad{Log: Decisions, Index: -1, Address: a, Reason: fmt.Sprintf("the event at %s is in no log, and nothing explains why", place(a))}
	}
	for why, b := range s.counted {
		if n := b.count(s.from, s.through); n > 0 {
			r.Explained[why] = n
		}
	}
	r.Sequences, r.FirstSequence, r.LastSequence = true, s.from, s.through
	return nil
}

// count tells how many bits are set from one address to another, both included.
func (b bitmap) count(first, last events.Address) (n uint64) {
	for first <= last && first>>pageBits < uint64(len(b)) {
		end := min(last, first|63)
		if b[first>>pageBits] == nil {
			end = min(last, first|(1<<pageBits-1))
		} else {
			n += uint64(bits.OnesCount64(b.word(first) & mask(first, end)))
		}
		first = end + 1
	}
	return n
}
