package store

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
)

func benchBoth(b *testing.B, bench func(b *testing.B, s *Store)) {
	for dialect, url := range databases {
		b.Run(string(dialect), func(b *testing.B) { bench(b, migrated(b, url(b))) })
	}
}

// BenchmarkBatch is what the worker does for 256 creates over all shards:
// positions, commands seen, rows, rows and commands written, positions moved, commit.
func BenchmarkBatch(b *testing.B) {
	benchBoth(b, func(b *testing.B, s *Store) {
		parts := make([]int, shards)
		for i := range parts {
			parts[i] = i
		}
		outcome := json.RawMessage(fmt.Sprintf(`{"id":"%0500d"}`, 1))
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			rows := make([]kind.Row, 256)
			commands := make([]Command, len(rows))
			ids := make([]string, len(rows))
			for i := range rows {
				rows[i], n = newContact(n), n+1 // time goes on
				ids[i] = rows[i].ID
				commands[i] = Command{
					ID: uuid.Must(uuid.NewV7()).String(), Tenant: "t", Kind: "contact", ResourceID: ids[i], Action: "create", PrincipalID: "sam",
					Status: events.StatusApplied, Version: 1, Attempts: 1, Result: outcome, Outcome: outcome, IssuedAt: at(n), At: at(n),
				}
			}
			ok(b, s.Update(b.Context(), func(ctx context.Context, tx *Tx) error {
				positions, err := tx.Positions(ctx, parts)
				ok(b, err)
				_, err = tx.Commands(ctx, ids)
				ok(b, err)
				_, err = tx.Rows(ctx, contact.Kind, ids)
				ok(b, err)
				ok(b, tx.PutRows(ctx, contact.Kind, rows))
				ok(b, tx.AddCommands(ctx, commands))
				moves := make([]Move, len(parts))
				for i, p := range parts {
					moves[i] = Move{p, positions[p], positions[p] + 16}
				}
				return tx.MoveAll(ctx, moves)
			}))
		}
	})
}

func BenchmarkGet(b *testing.B) {
	benchBoth(b, func(b *testing.B, s *Store) {
		row := newContact(1)
		ok(b, s.Update(b.Context(), func(ctx context.Context, tx *Tx) error { return tx.PutRows(ctx, contact.Kind, []kind.Row{row}) }))
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.Get(b.Context(), contact.Kind, row.ID); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

func BenchmarkList(b *testing.B) {
	benchBoth(b, func(b *testing.B, s *Store) {
		var rows []kind.Row
		for i := range 5000 {
			rows = append(rows, newContact(i))
		}
		ok(b, s.Update(b.Context(), func(ctx context.Context, tx *Tx) error { return tx.PutRows(ctx, contact.Kind, rows) }))
		q := Query{Tenant: "t", Sort: "-created_at", Where: Where{SQL: "owner_id = ?", Args: []any{"sam"}}}
		b.ReportAllocs()
		for b.Loop() {
			if page, err := s.List(b.Context(), contact.Kind, q); err != nil || len(page.Items) != DefaultLimit {
				b.Fatal(len(page.Items), err)
			}
		}
	})
}

// BenchmarkListPage is the first page of a list, and one in its middle, for
// somebody who sees all rows of a tenant, for an owner of fifty and for one of none.
func BenchmarkListPage(b *testing.B) {
	owned := func(by string) Where { return Where{SQL: `("owner_id" = ?)`, Args: []any{by}} }
	for dialect, url := range databases {
		for _, n := range []int{10_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/%d", dialect, n), func(b *testing.B) {
				s := migrated(b, url(b)) // filled once for all that follows
				grow(b, s, contact.Kind, n)
				for who, where := range map[string]Where{"admin": {}, "few": owned(few), "none": owned(none)} {
					for page, cursor := range map[string]string{"first": "", "middle": middle(n, "")} {
						b.Run(who+"/"+page, func(b *testing.B) {
							for b.Loop() {
								_, err := s.List(b.Context(), contact.Kind, Query{Tenant: "t", Where: where, Cursor: cursor})
								ok(b, err)
							}
						})
					}
				}
			})
		}
	}
}
