package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/uuid"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
)

// auditorPerSecond is about how many entries the auditor copies in a second: it is given as many as keep it busy for
// the time that the parts are driven.
const auditorPerSecond = 30_000

// rawAuditor starts the auditor beside a ledger that holds decisions of the load's size and an empty redis-server, and
// measures from the first batch to the last entry: reading, verifying, hashing, signing and the one script included.
func rawAuditor(ctx context.Context, o options, root, dir string) (r raw, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute+10*o.raw)
	defer cancel()
	addr, stop, err := startRedis(ctx, dir)
	if err != nil {
		return r, err
	}
	defer stop()
	srv, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: filepath.Join(dir, "nats-auditor"), NoLog: true, NoSigs: true, MaxPayload: 4 << 20,
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
	seal := events.GenerateKey("bench")
	n := max(int64(o.raw.Seconds()*auditorPerSecond), 4*batchSize)
	if err := fillLedger(ctx, srv.ClientURL(), seal, int(n)); err != nil {
		return r, fmt.Errorf("fill the ledger: %w", err)
	}
	key := filepath.Join(dir, "audit.key")
	if _, err := audit.CreateKey(key, "bench"); err != nil {
		return r, err
	}
	bin, err := binary(ctx, root, dir, "./services/auditor/cmd/auditor")
	if err != nil {
		return r, err
	}
	auditor := exec.CommandContext(ctx, bin)
	auditor.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Who asks is nobody: the database, the policies and Stytch are named and not used.
	auditor.Env = append(os.Environ(), "WRIT_AUDITOR_ADDR=127.0.0.1:0", "WRIT_NATS_URL="+srv.ClientURL(), "WRIT_REDIS_URL=redis://"+addr, "WRIT_SEAL_KEYS="+seal,
		"WRIT_AUDIT_KEY_FILE="+key, "WRIT_DATABASE_URL=sqlite:"+filepath.Join(dir, "auditor.db"), "WRIT_CERBOS=embed:"+filepath.Join(root, "policies"),
		"STYTCH_PROJECT_ID=project-test-00000000-0000-4000-8000-000000000000", "STYTCH_SECRET=secret-test", "STYTCH_BASE_URL=http://127.0.0.1:1")
	var output bytes.Buffer
	auditor.Stdout, auditor.Stderr = &output, &output
	if err := auditor.Start(); err != nil {
		return r, err
	}
	defer func() {
		_ = auditor.Process.Kill()
		_ = auditor.Wait() // killed
	}()
	if r, err = drained(ctx, addr, n); err != nil {
		err = fmt.Errorf("%w: %s", err, output.String())
	}
	return r, err
}

// drained measures until n entries are there.
func drained(ctx context.Context, addr string, n int64) (raw, error) {
	rdb := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: 50, MaxRetryBackoff: 100 * time.Millisecond})
	defer rdb.Close()
	r := raw{name: rawAudit, calls: newHistogram(), cpu: -1}
	var first int64
	var began time.Time
	for {
		have, err := rdb.XLen(ctx, audit.Decisions.Stream()).Result()
		if err != nil {
			return r, err
		}
		switch {
		case have == 0 || have < n && first > 0:
		case first == 0:
			first, began = have, time.Now()
		default:
			r.elapsed, r.each = time.Since(began), n-first
			record(r.calls, r.elapsed)
			return r, nil
		}
		select {
		case <-ctx.Done():
			return r, fmt.Errorf("%d of %d entries: %w", have, n, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// fillLedger puts n decisions like the load's on a ledger, each with an id of its own.
func fillLedger(ctx context.Context, url, seal string, n int) (err error) {
	keys, err := events.ParseKeyring(seal)
	if err != nil {
		return err
	}
	nc, err := ledger.Connect(url, "writ-bench")
	if err != nil {
		return err
	}
	defer nc.Close()
	l, err := ledger.Open(ctx, nc, ledger.Config{Replicas: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close(ctx)) }()
	m, _, _, err := sample()
	if err != nil {
		return err
	}
	like, err := events.Parse(m.Data)
	if err != nil {
		return err
	}
	d := like.Decision
	d.Command = nil
	for n > 0 {
		all := make([]events.Message, min(n, batchSize))
		ctxs := make([]context.Context, len(all))
		for i := range all {
			d.ID = uuid.Must(uuid.NewV7()).String()
			if all[i], err = events.NewDecision(keys, &d); err != nil {
				return err
			}
			ctxs[i] = ctx
		}
		if err := l.AppendAll(ctx, ctxs, all); err != nil {
			return err
		}
		n -= len(all)
	}
	return nil
}
