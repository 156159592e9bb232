package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestDatabaseRestartInMidTransactionIsRetriedAsAWhole(t *testing.T) {
	server := testkit.PostgresServer(t)
	s := migrated(t, server.Database(t))
	row := newContact(1)
	calls := 0
	ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
		calls++
		if err := tx.PutRows(ctx, contact.Kind, []kind.Row{row}); err != nil {
			return err
		}
		if calls == 1 {
			server.Kill()
			server.Start(t)
		}
		return batch(ctx, tx, 1, 0, 1, row)
	}))
	if calls != 2 {
		t.Errorf("%d calls", calls)
	}
	applied(t, s, true, 1, 1, row)

	server.Kill() // and stays away
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, getErr := s.Get(ctx, contact.Kind, row.ID)
	for what, err := range map[string]error{
		"get": getErr, "ping": s.Ping(ctx),
		"update": s.Update(ctx, func(context.Context, *Tx) error { return nil }),
	} {
		if !fault.Is(err, fault.Unavailable) || IsPermanent(err) || errors.Is(err, ErrCommitUnknown) {
			t.Errorf("%s: %v", what, err)
		}
	}
	server.Start(t)
	testkit.Eventually(t, 10*time.Second, func() error { return s.Ping(t.Context()) })
	applied(t, s, true, 1, 1, row)
}

// throughProxy opens a database behind a proxy, and beside it.
func throughProxy(t *testing.T) (s, direct *Store, proxy *testkit.Proxy) {
	t.Helper()
	u, err := url.Parse(testkit.Postgres(t))
	ok(t, err)
	direct = migrated(t, u.String())
	proxy = testkit.NewProxy(t, u.Host)
	u.Host = proxy.Addr()
	return opened(t, u.String()), direct, proxy
}

// cutAtCommit is a connection that is lost at the moment of a COMMIT: before
// the database has heard of it, or before its answer comes back.
type cutAtCommit struct {
	net.Conn
	armed   *atomic.Bool
	arrives bool
	lost    bool
}

func (c *cutAtCommit) Write(b []byte) (int, error) {
	if !c.armed.Load() || !bytes.Contains(b, []byte("commit")) {
		return c.Conn.Write(b)
	}
	c.lost = true
	if !c.arrives {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *cutAtCommit) Read(b []byte) (int, error) {
	if !c.lost {
		return c.Conn.Read(b)
	}
	if c.arrives {
		if _, err := c.Conn.Read(b); err != nil {
			return 0, err
		}
	}
	return 0, errors.Join(io.ErrUnexpectedEOF, c.Close())
}

func TestACommitThatMayHaveHappenedIsSaidToBeUnknown(t *testing.T) {
	for _, arrives := range []bool{false, true} {
		config, err := pgx.ParseConfig(testkit.Postgres(t))
		ok(t, err)
		armed := &atomic.Bool{}
		dial := config.DialFunc
		config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return &cutAtCommit{Conn: conn, armed: armed, arrives: arrives}, err
		}
		s, err := newPostgres(config)
		ok(t, err)
		t.Cleanup(func() { ok(t, s.Close()) })
		ok(t, s.Migrate(t.Context()))
		ok(t, s.MakeShards(t.Context(), 1))
		row, calls := newContact(1), 0
		armed.Store(true)
		err = s.Update(t.Context(), func(ctx context.Context, tx *Tx) error { calls++; return batch(ctx, tx, 0, 0, 1, row) })
		armed.Store(false)
		if !errors.Is(err, ErrCommitUnknown) || !fault.Is(err, fault.Unavailable) || calls != 1 {
			t.Errorf("arrives %t, after %d calls: %v", arrives, calls, err)
		}
		position := uint64(0)
		if arrives {
			position = 1
		}
		applied(t, s, arrives, 0, position, row)
	}
}

func TestAConnectionLostBeforeTheCommitIsRetried(t *testing.T) {
	s, _, proxy := throughProxy(t)
	row, calls := newContact(1), 0
	ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
		if calls++; calls == 1 {
			ok(t, batch(ctx, tx, 0, 0, 1, row))
			proxy.Cut()
			proxy.Restore()
		}
		return batch(ctx, tx, 0, 0, 1, row)
	}))
	applied(t, s, true, 0, 1, row)
	if calls != 2 {
		t.Errorf("%d calls", calls)
	}
	proxy.Stall()
	defer proxy.Restore()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.Get(ctx, contact.Kind, row.ID); !fault.Is(err, fault.Unavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a database that hangs: %v", err)
	}
}

func TestADeadlockIsRetriedNotSurfaced(t *testing.T) {
	s := migrated(t, testkit.Postgres(t))
	var all, first sync.WaitGroup
	first.Add(2)
	calls := make([]int, 2)
	for i, order := range [][]int{{1, 2}, {2, 1}} {
		all.Go(func() {
			if err := s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
				calls[i]++
				if _, err := tx.Positions(ctx, order[:1]); err != nil {
					return err
				}
				if calls[i] == 1 { // both hold what the other wants
					first.Done()
					first.Wait()
				}
				at, err := tx.Positions(ctx, order)
				if err != nil {
					return err
				}
				return tx.MoveAll(ctx, []Move{{1, at[1], at[1] + 1}, {2, at[2], at[2] + 1}})
			}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	applied(t, s, true, 1, 2)
	applied(t, s, true, 2, 2)
	if calls[0]+calls[1] != 3 {
		t.Errorf("calls %v", calls)
	}
}
