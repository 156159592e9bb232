package store

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
)

func TestUnfinishedCommandsOfATenant(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		var queued []Queued
		ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
			var all []Command
			for i, status := range []events.Status{events.StatusAccepted, events.StatusRetrying, events.StatusApplied, events.StatusRejected, events.StatusFailed, events.StatusAccepted} {
				for _, tenant := range []string{"default", "acme"} {
					c := Command{ID: fmt.Sprintf("%s-%d", tenant, i), Tenant: tenant, Kind: "user", Action: "roles", Status: status, Sequence: uint64(len(all) + 1), IssuedAt: time.Now(), At: time.Now()}
					all = append(all, c)
					queued = append(queued, Queued{Sequence: c.Sequence, CommandID: c.ID, Lane: "u"})
				}
			}
			ok(t, tx.AddCommands(ctx, all))
			return tx.Enqueue(ctx, queued)
		}))
		ids := func(tenant string, limit int) (ids []string) {
			found, err := s.Unfinished(t.Context(), tenant, limit)
			ok(t, err)
			for _, q := range found {
				ids = append(ids, q.CommandID)
			}
			return ids
		}
		if got := ids("default", 10); !slices.Equal(got, []string{"default-0", "default-1", "default-5"}) {
			t.Errorf("%q", got)
		}
		if got := ids("acme", 2); !slices.Equal(got, []string{"acme-0", "acme-1"}) {
			t.Errorf("%q", got)
		}
		if got := ids("nobody", 2); len(got) != 0 {
			t.Errorf("%q", got)
		}
	})
}
