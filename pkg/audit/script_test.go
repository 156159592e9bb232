package audit

import (
	"errors"
	"testing"

	"github.com/writ-project/writ/pkg/events"
)

// A batch of more than a script appends is all there, also on a Redis that has
// forgotten the script.
func TestLargeBatch(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		for _, n := range []int{10*scriptItems + 7, 1, 2 * scriptItems} {
			r.append(r.batch(n))
			if head := need(r.log.Head(t.Context()))(t); head != r.head {
				t.Fatalf("Redis stands at %+v, not at %+v", head, r.head)
			}
			r.sign()
			if report, err := r.verify(); err != nil || report.LastSequence != r.head.Sequence {
				t.Fatalf("%+v, %v", report, err)
			}
			r.do("SCRIPT", "FLUSH")
		}
	})
}

// TestPartsAccountForEveryAddress: whatever part was the last one that was appended,
// the log stands at the end of an event or of a message, where copying can go on.
func TestPartsAccountForEveryAddress(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		b := r.batch(7*scriptItems + 13)
		parts := b.parts()
		if len(parts) < 4 {
			t.Fatalf("%d parts, want several", len(parts))
		}
		at := b.Start - 1
		for i, p := range parts {
			covered := &bitmap{}
			for _, item := range p.Items {
				covered.add(item.ID.Sequence, item.ID.Sequence)
			}
			for _, x := range p.Explained {
				covered.add(x.First, x.Last)
			}
			if n := covered.count(at+1, p.Sequence); n != p.Sequence-at || covered.count(0, MaxID.Sequence) != n {
				t.Fatalf("part %d accounts for %d of the addresses %d to %d, and for %d at all", i, n, at+1, p.Sequence, covered.count(0, MaxID.Sequence))
			}
			at = p.Sequence
			if i+1 < len(parts) && (events.IndexOf(at) == perMessage-1) {
				t.Fatalf("part %d ends at %s, before the end of the message", i, place(at))
			}
		}
		if at != b.Sequence {
			t.Fatalf("the parts end at %d, the batch at %d", at, b.Sequence)
		}
	})
}

// While a batch is on its way another auditor appends its beginning, which is or is not
// what one script appends: nothing is there twice, and it can go on behind.
func TestLargeBatchMeetsAnother(t *testing.T) {
	t.Parallel()
	for _, first := range []int{scriptItems, scriptItems / 2} {
		redises(t, func(t *testing.T, r *rig) {
			r.fill(40)
			b, before := r.batch(5*scriptItems), r.head
			full := r.trees.Clone()
			for _, l := range Logs {
				full.Of(l).Append(b.Leaves(l)...)
			}
			mine := r.trees.Clone()
			theirs := Batch{Items: b.Items[:first], Sequence: b.Items[first-1].ID.Sequence}
			for _, x := range b.Explained {
				if x.Last < b.Items[first].ID.Sequence {
					theirs.Explained, theirs.Sequence = append(theirs.Explained, x), max(theirs.Sequence, x.Last)
				}
			}
			r.append(theirs)
			if _, err := r.log.Append(t.Context(), before, mine, b); !errors.Is(err, ErrMoved) {
				t.Fatal(err)
			}
			head := need(r.log.Head(t.Context()))(t)
			switch {
			case head.Damaged != "":
				t.Fatalf("%+v", head)
			case head.Sequence == b.Sequence: // they had stopped where the second script begins
				r.head, r.trees = head, full
			case head != r.head:
				t.Fatalf("Redis stands at %+v, not at %+v", head, r.head)
			default:
				rest := b
				rest.Items, rest.Explained = b.Items[first:], b.Explained[len(theirs.Explained):]
				r.append(rest)
			}
			r.sign()
			if _, err := r.verify(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
