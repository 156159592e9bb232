package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/tenant"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kinds"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// databases gives a new, empty database's URL, by dialect.
var databases = map[Dialect]func(testing.TB) string{
	SQLite: func(t testing.TB) string {
		return "sqlite:" + filepath.Join(t.TempDir(), "a b?#%.db") // every character that a URI minds
	},
	Postgres: testkit.Postgres,
}

// onBoth runs a conformance test on both databases, migrated.
func onBoth(t *testing.T, test func(t *testing.T, s *Store)) {
	for dialect, url := range databases {
		t.Run(string(dialect), func(t *testing.T) { test(t, migrated(t, url(t))) })
	}
}

func opened(t testing.TB, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// shards is over how many shards the tests spread positions.
const shards = 16

func migrated(t testing.TB, url string) *Store {
	t.Helper()
	s := opened(t, url)
	ok(t, s.Migrate(t.Context()))
	if err := s.MakeShards(t.Context(), shards); err != nil {
		t.Fatal(err)
	}
	return s
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put1(t testing.TB, s *Store, def *kind.Definition, rows ...kind.Row) {
	t.Helper()
	ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error { return tx.PutRows(ctx, def, rows) }))
}

// at is a time with the precision that is kept.
func at(i int) time.Time { return time.Date(2025, 1, 2, 3, 4, 5, i*1000, time.UTC) }

func newContact(i int, change ...func(*contact.Contact)) kind.Row {
	row := contact.Kind.New()
	c := row.Value.(*contact.Contact)
	c.Meta = kind.Meta{ID: uuid.Must(uuid.NewV7()).String(), Tenant: "t", OwnerID: "sam", Version: 1, CreatedAt: at(i), UpdatedAt: at(i)}
	c.FirstName = fmt.Sprintf("name %d", i)
	for _, f := range change {
		f(c)
	}
	return row
}

func TestOpenNamesTheSettingThatIsWrong(t *testing.T) {
	for _, url := range []string{
		"", "mysql://h/db", "sqlite:", "sqlite::memory:", "writ.db", "postgres://u:secret@h:port/db",
		"sqlite:" + filepath.Join(t.TempDir(), "missing", "writ.db"),
	} {
		s, err := Open(t.Context(), url)
		if err == nil {
			t.Errorf("%q: opened: %v", url, s.Close())
		} else if !strings.Contains(err.Error(), "WRIT_DATABASE_URL") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestSettingsOfConnections(t *testing.T) {
	settings := map[Dialect]map[string]string{
		SQLite: {
			"PRAGMA journal_mode": "wal", "PRAGMA synchronous": "2", "PRAGMA foreign_keys": "1", "PRAGMA busy_timeout": "5000",
		},
		Postgres: {"SHOW statement_timeout": "10s", "SHOW idle_in_transaction_session_timeout": "10s"},
	}
	onBoth(t, func(t *testing.T, s *Store) {
		for query, want := range settings[s.Dialect()] {
			var have string
			ok(t, s.writer.QueryRowContext(t.Context(), query).Scan(&have))
			if have != want {
				t.Errorf("%s: %s, want %s", query, have, want)
			}
		}
		if s.Dialect() == SQLite {
			if _, err := s.readers.ExecContext(t.Context(), "DELETE FROM positions"); err == nil {
				t.Error("a reader can write")
			}
		}
	})
}

func TestConcurrentMigrationsBothSucceed(t *testing.T) {
	for dialect, database := range databases {
		t.Run(string(dialect), func(t *testing.T) {
			url := database(t)
			stores := []*Store{opened(t, url), opened(t, url), opened(t, url)}
			if v, err := stores[0].Version(t.Context()); v != 0 || err != nil {
				t.Fatalf("version %d of an empty database: %v", v, err)
			}
			if pending, err := stores[0].Pending(t.Context()); !pending || err != nil {
				t.Fatalf("pending %t: %v", pending, err)
			}
			var all sync.WaitGroup
			for _, s := range stores {
				all.Go(func() {
					if err := s.Migrate(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			for _, s := range stores {
				if pending, err := s.Pending(t.Context()); pending || err != nil {
					t.Errorf("pending %t: %v", pending, err)
				}
				if v, err := s.Version(t.Context()); v < 1 || err != nil {
					t.Errorf("version %d: %v", v, err)
				}
				ok(t, s.Migrate(t.Context())) // again: nothing to do
				ok(t, s.Ping(t.Context()))
			}
		})
	}
}

func TestEveryKindHasItsTable(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		for _, def := range append(slices.Clone(kinds.All), user.Kind, tenant.Kind) {
			want := map[string]string{}
			for name, f := range s.table(def).fields {
				want[name] = map[class]string{
					text: "TEXT", integer: "BIGINT", float: "DOUBLE PRECISION", boolean: "BOOLEAN", instant: "BIGINT", document: "TEXT",
				}[f.class]
				if !f.nullable {
					want[name] += " NOT NULL"
				}
			}
			query := "SELECT name, type, \"notnull\" = 1, 'C' FROM pragma_table_info(?)"
			if s.Dialect() == Postgres {
				query = "SELECT column_name, upper(data_type), is_nullable = 'NO', coalesce(collation_name, 'C') " +
					"FROM information_schema.columns WHERE table_name = $1"
			}
			rows, err := s.readers.QueryContext(t.Context(), query, def.Plural)
			ok(t, err)
			have := map[string]string{}
			ok(t, each(sqlResult{rows}, func() error {
				var name, typ, collation string
				var notNull bool
				err := rows.Scan(&name, &typ, &notNull, &collation)
				if notNull {
					typ += " NOT NULL"
				}
				if collation != "C" {
					t.Errorf("%s.%s is ordered by %s", def.Plural, name, collation)
				}
				have[name] = typ
				return err
			}))
			if diff := cmp.Diff(want, have); diff != "" {
				t.Errorf("table %s (-definition +table):\n%s", def.Plural, diff)
			}
		}
	})
}

func TestRowsComeBackAsTheyWere(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		c := newContact(1, func(c *contact.Contact) {
			c.FirstName, c.Notes, c.MarketingOptIn, c.IsActive = `O'Brien "x" \ % _ é 漢 🙂`, strings.Repeat("n", 100_000), true, false
		})
		u := user.Kind.New()
		*u.Value.(*user.User) = user.User{
			Meta:    kind.Meta{ID: "u1", Tenant: "default", Version: 3, CreatedAt: at(1), UpdatedAt: at(2)},
			Email:   "sam@example.com",
			Tenants: map[string]user.Membership{"t": {Roles: []string{"user"}, Attr: map[string]any{"region": "eu", "n": 1.5}}},
		}
		put1(t, s, contact.Kind, c)
		put1(t, s, user.Kind, u)
		for def, want := range map[*kind.Definition]kind.Row{contact.Kind: c, user.Kind: u} {
			have, err := s.Get(ctx, def, want.ID)
			ok(t, err)
			if diff := cmp.Diff(want.Value, have.Value); diff != "" {
				t.Errorf("%s (-put +got):\n%s", def.Name, diff)
			}
		}
		for _, id := range []string{"none", "", "nul\x00", "bad\xff"} {
			if _, err := s.Get(ctx, contact.Kind, id); !fault.Is(err, fault.NotFound) {
				t.Errorf("get %q: %v", id, err)
			}
			if _, err := s.Command(ctx, id); !fault.Is(err, fault.NotFound) {
				t.Errorf("command %q: %v", id, err)
			}
		}
	})
}

func TestRowsInBulk(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		const n = 701 // several chunks, an odd one among them
		var rows []kind.Row
		var ids []string
		for i := range n {
			rows = append(rows, newContact(i))
			ids = append(ids, rows[i].ID)
		}
		again := newContact(0, func(c *contact.Contact) { c.ID, c.FirstName = ids[5], "later" })
		for range 2 { // the second time from prepared statements
			put1(t, s, contact.Kind, append(rows, again)...)
		}
		ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
			have, err := tx.Rows(ctx, contact.Kind, append(ids, "none", "nul\x00", ids[0]))
			ok(t, err)
			if len(have) != n || have[ids[5]].Value.(*contact.Contact).FirstName != "later" {
				t.Errorf("%d rows, the one put twice is %+v", len(have), have[ids[5]].Value)
			}
			ok(t, tx.DeleteRows(ctx, contact.Kind, append(ids[1:], "nul\x00")))
			have, err = tx.Rows(ctx, contact.Kind, ids)
			ok(t, err)
			if len(have) != 1 || have[ids[0]].Value == nil {
				t.Errorf("%d rows left", len(have))
			}
			for _, err := range []error{tx.PutRows(ctx, contact.Kind, nil), tx.DeleteRows(ctx, contact.Kind, nil), tx.AddCommands(ctx, nil), tx.MoveAll(ctx, nil)} {
				ok(t, err)
			}
			return nil
		}))
	})
}

func TestCommandsComeBackToTheByte(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		full := Command{
			ID: "c1", Tenant: "t", Kind: "contact", ResourceID: "r", Action: "create", PrincipalID: "sam", Status: events.StatusRejected,
			Code: "version-conflict", Reason: "it's at 2", Version: 2, Attempts: 3, Fingerprint: "f", DecisionID: "d", Sequence: 1 << 53,
			Result:  json.RawMessage(`{"b": 1,  "a":"\u0000"}`),
			Outcome: json.RawMessage("{ \"z\":1e2,\n\"a\" : \"\xff\" }"), // even what is not UTF-8
			Apply:   json.RawMessage(`{"a":1,"a":2}`), IssuedAt: at(1), At: at(2),
		}
		bare := Command{ID: "c2", IssuedAt: at(1), At: at(1)}
		ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error { return tx.AddCommands(ctx, []Command{bare, full}) }))
		for _, again := range [][]Command{{{ID: "c1"}}, {{ID: "c3"}, {ID: "c2"}}, {{ID: "c4"}, {ID: "c4"}}} {
			err := s.Update(t.Context(), func(ctx context.Context, tx *Tx) error { return tx.AddCommands(ctx, again) })
			if !errors.Is(err, ErrCommandKnown) || IsPermanent(err) {
				t.Errorf("%v: %v", again, err)
			}
		}
		for _, want := range []Command{full, bare} {
			have, err := s.Command(t.Context(), want.ID)
			ok(t, err)
			if diff := cmp.Diff(want, have); diff != "" {
				t.Errorf("(-put +got):\n%s", diff)
			}
			if !bytes.Equal(want.Outcome, have.Outcome) {
				t.Errorf("outcome %q", have.Outcome)
			}
		}
		ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
			have, err := tx.Commands(ctx, []string{"c1", "c2", "c3"})
			if diff := cmp.Diff(map[string]Command{"c1": full, "c2": bare}, have); diff != "" {
				t.Errorf("(-put +got):\n%s", diff)
			}
			return err
		}))
	})
}

func TestRebind(t *testing.T) {
	in, want := `a = ? AND "q?""x?" = ? OR b = 'it''s ?' AND c IN (?, ?)`, `a = $1 AND "q?""x?" = $2 OR b = 'it''s ?' AND c IN ($3, $4)`
	if have := numbered(in); have != want {
		t.Errorf("have %s", have)
	}
}

// TestShardsAreMadeOnceAndResetTogether: a start must not move a position back,
// and another number of shards begins where the ledger was.
func TestShardsAreMadeOnceAndResetTogether(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error { return tx.Move(ctx, 1, 0, 700) }))
		ok(t, s.MakeShards(t.Context(), shards))
		positions, err := s.Positions(t.Context())
		ok(t, err)
		if len(positions) != shards || positions[1] != 700 {
			t.Errorf("made again there are %d positions, that of shard 1 is %d; want %d and 700", len(positions), positions[1], shards)
		}
		ok(t, s.ResetShards(t.Context(), 3, 900))
		if positions, err = s.Positions(t.Context()); err != nil || len(positions) != 3 || positions[0] != 900 || positions[2] != 900 {
			t.Errorf("positions after a reset to 3 shards at 900: %v, %v", positions, err)
		}
	})
}

// TestAKeyStandsForOneCommand: of two commands under one idempotency key the
// database takes the first.
func TestAKeyStandsForOneCommand(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		one := Command{ID: "one", Key: "key", Status: events.StatusApplied, IssuedAt: at(1), At: at(1)}
		two := one
		two.ID = "two"
		add := func(c ...Command) error {
			return s.Update(t.Context(), func(ctx context.Context, tx *Tx) error { return tx.AddCommands(ctx, c) })
		}
		ok(t, add(one, Command{ID: "a", Status: events.StatusApplied}, Command{ID: "b", Status: events.StatusApplied})) // those without a key are many
		if err := add(two); !errors.Is(err, ErrCommandKnown) {
			t.Errorf("a second command under one key: %v, want %v", err, ErrCommandKnown)
		}
		if c, err := s.CommandByKey(t.Context(), "key"); err != nil || c.ID != "one" || c.Key != "key" {
			t.Errorf("the key stands for %q (key %q), %v; want one", c.ID, c.Key, err)
		}
		if _, err := s.CommandByKey(t.Context(), "other"); !fault.Is(err, fault.NotFound) {
			t.Errorf("a key that nobody used: %v, want not found", err)
		}
	})
}
