package store

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/webhook"
)

// TestCountHoldsUntilTheEnd: transactions that make a row while there are fewer
// than so many, at once, make no more.
func TestCountHoldsUntilTheEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		const most, at = 3, 12
		tenants := []string{"acme", "globex"}
		var all sync.WaitGroup
		begin := make(chan struct{})
		for n := range at {
			all.Go(func() {
				<-begin
				ask := []string{tenants[n%2], tenants[1-n%2], tenants[n%2]} // in any order, twice
				if err := s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
					has, err := tx.Count(ctx, webhook.Kind, ask)
					if err != nil {
						return err
					}
					var rows []kind.Row
					for _, tenant := range tenants {
						if has[tenant] < most {
							row, err := webhook.Kind.Create(fmt.Sprintf("%s-%d", tenant, n), tenant, "u", []byte(`{"url":"https://example.com/","secret_id":"s","secret_key":"k"}`), time.Now())
							if err != nil {
								return err
							}
							rows = append(rows, row)
						}
					}
					return tx.PutRows(ctx, webhook.Kind, rows)
				}); err != nil {
					t.Error(err)
				}
			})
		}
		close(begin)
		all.Wait()
		ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
			has, err := tx.Count(ctx, webhook.Kind, append(tenants, "nobody", "odd\x00"))
			if err == nil && (has["acme"] != most || has["globex"] != most || has["nobody"] != 0) {
				t.Errorf("%v", has)
			}
			return err
		}))
	})
}
