package store

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
)

// TestLoadAndWriteAreTheOthersAtOnce: what Write wrote, Load and the methods for
// one thing at a time read; and a part of it that fails leaves nothing of it.
func TestLoadAndWriteAreTheOthersAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		sam := *user.Sync{Email: "sam@example.com", Tenants: map[string]user.Membership{"t": {Roles: []string{"user"}}}}.Apply(nil, "sam", at(0))
		kept, gone := newContact(1), newContact(2)
		put1(t, s, contact.Kind, gone)
		put1(t, s, user.Kind, *user.Sync{Email: "eve@example.com"}.Apply(nil, "eve", at(0)))
		ran := Command{Key: "k1", ID: "c1", Status: events.StatusApplied, Result: []byte(`{"a":1}`), IssuedAt: at(1), At: at(2)}
		ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
			return tx.Write(ctx, Changes{
				Put:     map[*kind.Definition][]kind.Row{contact.Kind: {kept}, user.Kind: {sam}},
				Deleted: map[*kind.Definition][]string{contact.Kind: {gone.ID}, user.Kind: {"eve"}}, Departed: []string{"eve"}, At: at(3),
				Commands: []Command{ran}, Queued: []Queued{{Sequence: 7, CommandID: "c1", Lane: "sam"}},
				Moves: []Move{{2, 0, 9}, {5, 0, 1}},
			})
		}))
		wanted := Wanted{
			Parts: []int{5, 2, 5}, Commands: []string{"c1", "c2", "nul\x00"}, Keys: []string{"k1", "k2", "nul\x00"}, Departed: []string{"sam", "eve"},
			Rows: map[*kind.Definition][]string{contact.Kind: {kept.ID, gone.ID}, user.Kind: {"sam", "eve"}},
		}
		want := Loaded{
			Positions: map[int]uint64{2: 9, 5: 1}, Commands: map[string]Command{"c1": ran}, Keys: map[string]Command{"k1": ran}, Departed: map[string]bool{"eve": true},
			Rows: map[*kind.Definition]map[string]kind.Row{contact.Kind: {kept.ID: kept}, user.Kind: {"sam": sam}},
		}
		byHand := Loaded{Rows: map[*kind.Definition]map[string]kind.Row{}}
		var have Loaded
		ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) (err error) {
			have, err = tx.Load(ctx, wanted)
			ok(t, err)
			byHand.Positions, err = tx.Positions(ctx, wanted.Parts)
			ok(t, err)
			byHand.Commands, err = tx.Commands(ctx, wanted.Commands)
			ok(t, err)
			byHand.Keys, err = tx.CommandsByKey(ctx, wanted.Keys)
			ok(t, err)
			byHand.Departed, err = tx.Departed(ctx, wanted.Departed)
			ok(t, err)
			for def, ids := range wanted.Rows {
				byHand.Rows[def], err = tx.Rows(ctx, def, ids)
				ok(t, err)
			}
			return nil
		}))
		sameDefinition := cmp.Comparer(func(a, b *kind.Definition) bool { return a == b })
		for how, got := range map[string]Loaded{"Load": have, "one by one": byHand} {
			if diff := cmp.Diff(want, got, sameDefinition); diff != "" {
				t.Errorf("%s (-want +got):\n%s", how, diff)
			}
		}
		if q, found, err := s.Head(t.Context(), "sam"); err != nil || !found || q.Sequence != 7 {
			t.Errorf("the queue's head is %+v, found %t, error %v; want sequence 7", q, found, err)
		}

		lost := newContact(3)
		nul := newContact(4, func(c *contact.Contact) { c.Notes = "a\x00b" })
		for what, c := range map[string]struct {
			change func(*Changes)
			is     func(error) bool
		}{
			"a command that is known":   {func(c *Changes) { c.Commands = []Command{{ID: "c3"}, {ID: "c1"}} }, func(err error) bool { return errors.Is(err, ErrCommandKnown) }},
			"a position that has moved": {func(c *Changes) { c.Moves = []Move{{2, 9, 10}, {5, 0, 2}} }, func(err error) bool { return errors.Is(err, ErrPositionMoved) }},
			"text that cannot be kept":  {func(c *Changes) { c.Put[contact.Kind] = append(c.Put[contact.Kind], nul) }, IsPermanent},
			"an address that is taken": {func(c *Changes) {
				c.Put[user.Kind] = []kind.Row{*user.Sync{Email: "Sam@example.com"}.Apply(nil, "x", at(0))}
			}, IsPermanent},
			"a position that is not there": {func(c *Changes) { c.Moves = []Move{{2, 9, 10}, {99, 0, 2}} }, func(err error) bool { return errors.Is(err, ErrPositionMoved) }},
		} {
			changes := Changes{Put: map[*kind.Definition][]kind.Row{contact.Kind: {lost}}, Moves: []Move{{2, 9, 10}}}
			c.change(&changes)
			calls := 0
			err := s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
				calls++
				_ = tx.Write(ctx, changes) // overlooked
				if _, err := tx.Load(ctx, wanted); err == nil {
					t.Errorf("%s: the transaction went on after it", what)
				}
				return nil
			})
			if !c.is(err) || calls != 1 || strings.Contains(err.Error(), "@") {
				t.Errorf("%s, after %d calls: %v", what, calls, err)
			}
			applied(t, s, true, 2, 9)
			if _, err := s.Get(t.Context(), contact.Kind, lost.ID); !fault.Is(err, fault.NotFound) {
				t.Errorf("%s: a row of the transaction is there, or %v", what, err)
			}
		}
	})
}
