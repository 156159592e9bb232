package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
const auditorPerSecond = 90_000

// auditorRounds are how often it copies all of it, each time after the same entries were added to the same redis-server
// by pipelined XADD: what else the machine does meanwhile touches both. The round with the median ratio is told.
const auditorRounds = 3

// rawAuditor starts the auditor beside a ledger that holds decisions of the load's size and an empty redis-server, and
// measures from the first batch to the last entry: reading, verifying, hashing, signing and the one script included.
// Emptied, Redis is filled again, which is the next round.
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
	rdb := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: 50, MaxRetryBackoff: 100 * time.Millisecond})
	defer rdb.Close()
	var rounds []raw
	for range auditorRounds {
		r, err := auditorRound(ctx, rdb, n)
		if err != nil {
			return r, fmt.Errorf("%w: %s", err, output.String())
		}
		rounds = append(rounds, r)
	}
	slices.SortFunc(rounds, func(a, b raw) int { return cmp.Compare(a.ratio, b.ratio) })
	return rounds[auditorRounds/2], nil
}

// auditorRound measures XADD of n entries and then how the auditor fills the emptied Redis with as many.
func auditorRound(ctx context.Context, rdb *redis.Client, n int64) (raw, error) {
	r := raw{name: rawAudit, calls: newHistogram(), cpu: -1}
	if err := drained(ctx, rdb, n); err != nil { // so that the auditor is at rest
		return r, err
	}
	_, decision, _, err := sample()
	if err != nil {
		return r, err
	}
	began := time.Now()
	for done := int64(0); done < n; done += batchSize {
		if err := xadd(ctx, rdb, decision, int(done)); err != nil {
			return r, err
		}
	}
	alone := float64(n) / time.Since(began).Seconds()
	if err := rdb.FlushAll(ctx).Err(); err != nil {
		return r, err
	}
	first, err := waitFor(ctx, rdb, 1)
	if err != nil {
		return r, err
	}
	began = time.Now()
	if err := drained(ctx, rdb, n); err != nil {
		return r, err
	}
	r.elapsed, r.each = time.Since(began), n-first
	record(r.calls, r.elapsed)
	r.ratio = r.perSecond() / alone
	return r, nil
}

// drained waits until n entries are there.
func drained(ctx context.Context, rdb *redis.Client, n int64) error {
	_, err := waitFor(ctx, rdb, n)
	return err
}

func waitFor(ctx context.Context, rdb *redis.Client, n int64) (have int64, err error) {
	for {
		if have, err = rdb.XLen(ctx, audit.Decisions.Stream()).Result(); err != nil || have >= n {
			return have, err
		}
		select {
		case <-ctx.Done():
			return have, fmt.Errorf("%d of %d entries: %w", have, n, ctx.Err())
		case <-time.After(2 * time.Millisecond):
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
		for i := range all {
			d.ID = uuid.Must(uuid.NewV7()).String()
			if all[i], err = events.NewDecision(keys, events.SourceAPI, &d); err != nil {
				return err
			}
		}
		if err := l.AppendAll(ctx, all); err != nil {
			return err
		}
		n -= len(all)
	}
	return nil
}
