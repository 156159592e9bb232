package store

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
)

// TestUsersAreListedByTenant: those who were there before the table of their tenants was, and those who change.
func TestUsersAreListedByTenant(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		p, err := s.provider(s.writer)
		ok(t, err)
		_, err = p.DownTo(ctx, 3)
		ok(t, err)
		for id, tenants := range map[string]string{"a": `{}`, "b": `{"acme":{"roles":["user"]}}`, "c": `{"acme":{"roles":["user"]},"default":{"roles":["admin"],"attr":{"globex":{"x":1}}}}`} {
			_, err := s.writer.ExecContext(ctx, fmt.Sprintf(`INSERT INTO users VALUES ('%s', 'default', '%[1]s', 1, 0, 0, '%[1]s@example.com', '', '', '%s')`, id, tenants))
			ok(t, err)
		}
		_, err = p.Up(ctx)
		ok(t, err)
		in := func(tenant string, want ...string) {
			t.Helper()
			page, err := s.List(ctx, user.Kind, Query{Tenant: tenant, Sort: "id"})
			ok(t, err)
			var got []string
			for _, r := range page.Items {
				got = append(got, r.ID)
			}
			if !slices.Equal(got, want) {
				t.Errorf("in %s: %v, want %v", tenant, got, want)
			}
		}
		in("default", "a", "c")
		in("acme", "b", "c")
		in("globex")
		row, err := s.Get(ctx, user.Kind, "c")
		ok(t, err)
		row.Value.(*user.User).Tenants = map[string]user.Membership{"globex": {Roles: []string{"user"}}}
		ok(t, s.Update(ctx, func(ctx context.Context, tx *Tx) error {
			if err := tx.PutRows(ctx, user.Kind, []kind.Row{row, row}); err != nil {
				return err
			}
			return tx.DeleteRows(ctx, user.Kind, []string{"a"})
		}))
		in("default")
		in("acme", "b")
		in("globex", "c")
	})
}
