package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
)

func contactBody() []byte { return contactJSON(rand.New(rand.NewPCG(1, 1))) }

// rawLedger appends writs of the load's size over loopback to an embedded server, as `writ dev` has it, from as many
// callers as there are connections.
func rawLedger(ctx context.Context, o options, dir string) (r raw, err error) {
	srv, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: dir, SyncAlways: true, NoLog: true, NoSigs: true, MaxPayload: 4 << 20,
	})
	if err != nil {
		return r, err
	}
	srv.Start()
	defer func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	}()
	if !srv.ReadyForConnections(10 * time.Second) {
		return r, errors.New("the NATS server does not answer")
	}
	nc, err := ledger.Connect(srv.ClientURL(), "writ-bench")
	if err != nil {
		return r, err
	}
	defer nc.Close()
	l, err := ledger.Open(ctx, nc, ledger.Config{Replicas: 1})
	if err != nil {
		return r, err
	}
	m, _, _, err := sample()
	if err != nil {
		return r, err
	}
	r, err = repeat(ctx, o, rawAppend, o.connections, 1, func(ctx context.Context, _, _ int) error {
		_, err := l.Append(ctx, m)
		return err
	})
	return r, errors.Join(err, l.Close(ctx))
}

// batchSize is how many commands one transaction or pipeline holds: as many as the worker takes at most.
const batchSize = 256

// rawSQL writes what the worker writes for a full batch of creates: the contacts, the commands, the positions.
func rawSQL(ctx context.Context, o options, path string) (r raw, err error) {
	st, err := store.Open(ctx, "sqlite:"+path)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if err := st.Migrate(ctx); err != nil {
		return r, err
	}
	_, decision, row, err := sample()
	if err != nil {
		return r, err
	}
	parts := []int{0} // one shard, as by default
	if err := st.MakeShards(ctx, len(parts)); err != nil {
		return r, err
	}
	return repeat(ctx, o, rawBatch, 1, batchSize, func(ctx context.Context, _, n int) error {
		rows, commands, ids := batch(row, decision)
		return st.Update(ctx, func(ctx context.Context, tx *store.Tx) error {
			positions, err := tx.Positions(ctx, parts)
			if err != nil {
				return err
			}
			if _, err := tx.Commands(ctx, ids); err != nil {
				return err
			}
			if _, err := tx.Rows(ctx, contact.Kind, ids); err != nil {
				return err
			}
			if err := errors.Join(tx.PutRows(ctx, contact.Kind, rows), tx.AddCommands(ctx, commands)); err != nil {
				return err
			}
			return tx.MoveAll(ctx, []store.Move{{Part: parts[0], From: positions[parts[0]], To: positions[parts[0]] + batchSize}})
		})
	})
}

// batch makes new contacts like row, and their commands.
func batch(row kind.Row, outcome []byte) (rows []kind.Row, commands []store.Command, ids []string) {
	now := time.Now()
	like := *row.Value.(*contact.Contact)
	for range batchSize {
		c := like
		c.ID = uuid.Must(uuid.NewV7()).String()
		ids = append(ids, c.ID)
		rows = append(rows, kind.Row{Meta: &c.Meta, Value: &c})
		commands = append(commands, store.Command{
			ID: uuid.Must(uuid.NewV7()).String(), Tenant: c.Tenant, Kind: "contact", ResourceID: c.ID, Action: kind.ActionCreate, PrincipalID: c.OwnerID,
			Status: events.StatusApplied, Version: 1, Attempts: 1, Fingerprint: events.Digest(nil), DecisionID: c.ID,
			Result: contactBody(), Outcome: outcome, IssuedAt: now, At: now,
		})
	}
	return rows, commands, ids
}

func rawMiniredis(ctx context.Context, o options) (raw, error) {
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		return raw{}, err
	}
	defer m.Close()
	return rawStream(ctx, o, rawXADD, m.Addr())
}

// rawRedisServer is left out where there is no redis-server (WRIT_REDIS_BIN, PATH). Its processor time is not ours.
func rawRedisServer(ctx context.Context, o options, dir string) (r raw, err error) {
	addr, stop, err := startRedis(ctx, dir)
	if err != nil {
		return r, err
	}
	defer stop()
	if r, err = rawStream(ctx, o, rawRedis, addr); err == nil {
		r.cpu = -1
	}
	return r, err
}

// startRedis starts an empty redis-server, or reports errAbsent.
func startRedis(ctx context.Context, dir string) (addr string, stop func(), err error) {
	bin := os.Getenv("WRIT_REDIS_BIN")
	if bin == "" {
		bin = "redis-server"
	}
	if bin, err = exec.LookPath(bin); err != nil {
		return "", nil, errAbsent
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	at := ln.Addr().(*net.TCPAddr)
	if err := ln.Close(); err != nil { // only to find a free port
		return "", nil, err
	}
	server := exec.CommandContext(ctx, bin, "--port", strconv.Itoa(at.Port), "--bind", "127.0.0.1", "--save", "", "--dir", filepath.Clean(dir))
	if err := server.Start(); err != nil {
		return "", nil, err
	}
	return at.String(), func() {
		_ = server.Process.Kill() // it keeps nothing
		_ = server.Wait()
	}, nil
}

// rawStream adds decisions' bytes to a stream, pipelined.
func rawStream(ctx context.Context, o options, name, addr string) (r raw, err error) {
	rdb := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: 50, MaxRetryBackoff: 100 * time.Millisecond}) // it may just be starting
	defer func() { err = errors.Join(err, rdb.Close()) }()
	if err := rdb.Ping(ctx).Err(); err != nil {
		return r, err
	}
	_, decision, _, err := sample()
	if err != nil {
		return r, err
	}
	sequence := 0
	return repeat(ctx, o, name, 1, batchSize, func(ctx context.Context, _, _ int) error {
		sequence += batchSize
		return xadd(ctx, rdb, decision, sequence)
	})
}

// xadd adds a batch to a stream, pipelined, with ids after 1-<after>.
func xadd(ctx context.Context, rdb *redis.Client, decision []byte, after int) error {
	_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range batchSize {
			p.XAdd(ctx, &redis.XAddArgs{Stream: "decisions", ID: fmt.Sprintf("1-%d", after+i+1),
				Values: []any{"decision", decision, "seal", "bench." + events.Digest(nil)}})
		}
		return nil
	})
	return err
}
