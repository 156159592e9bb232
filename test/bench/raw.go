package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
)

// raw is what one part does alone.
type raw struct {
	name    string
	each    int64 // things done in one call
	calls   *hdrhistogram.Histogram
	elapsed time.Duration
	cpu     time.Duration // of this process; negative when the work is done in another or cannot be known
	ratio   float64       // of rawAudit: to XADD alone, measured in the same round
}

func (r raw) count() int64 { return r.calls.TotalCount() * r.each }

// perSecond is how many things were done a second.
func (r raw) perSecond() float64 { return float64(r.count()) / r.elapsed.Seconds() }

// costs is the processor time of a thousand things in seconds; negative when not known.
func (r raw) costs() float64 {
	if r.cpu < 0 || r.count() == 0 {
		return -1
	}
	return r.cpu.Seconds() * 1000 / float64(r.count())
}

// The parts' names.
const (
	rawAnswered = "an API that verifies the JWT and answers 202"
	rawCheck    = "Cerbos engine, 1 check"
	rawAppend   = "ledger append, grouped, fsync always"
	rawBatch    = "SQL batch of 256 commands, SQLite"
	rawXADD     = "XADD, pipelines of 256, miniredis"
	rawRedis    = "XADD, pipelines of 256, redis-server"
	rawAudit    = "auditor, the same entries, redis-server"
)

// rawLimits drives each part alone, one after the other, in this process.
func rawLimits(ctx context.Context, o options, root string) ([]raw, error) {
	dir, err := os.MkdirTemp("", "writ-bench-raw-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var all []raw
	for _, part := range []func() (raw, error){
		func() (raw, error) { return rawAnswer(ctx, o) },
		func() (raw, error) { return rawEngine(ctx, o, filepath.Join(root, "policies")) },
		func() (raw, error) { return rawLedger(ctx, o, filepath.Join(dir, "nats")) },
		func() (raw, error) { return rawSQL(ctx, o, filepath.Join(dir, "raw.db")) },
		func() (raw, error) { return rawMiniredis(ctx, o) },
		func() (raw, error) { return rawRedisServer(ctx, o, dir) },
		func() (raw, error) { return rawAuditor(ctx, o, root, dir) },
	} {
		r, err := part()
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// errAbsent is a part that is not installed here.
var errAbsent = errors.New("not installed")

// repeat calls do from several goroutines for a time; n tells the calls apart.
func repeat(ctx context.Context, o options, name string, goroutines int, each int64, do func(ctx context.Context, goroutine, n int) error) (raw, error) {
	r := raw{name: name, each: each, calls: newHistogram()}
	parts, failed := make([]*hdrhistogram.Histogram, goroutines), make([]error, goroutines)
	cpu, start := processorTime(os.Getpid()), time.Now()
	var running sync.WaitGroup
	for g := range goroutines {
		parts[g] = newHistogram()
		running.Go(func() {
			for n := 0; failed[g] == nil && ctx.Err() == nil && time.Since(start) < o.raw; n++ {
				began := time.Now()
				failed[g] = do(ctx, g, n)
				record(parts[g], time.Since(began))
			}
		})
	}
	running.Wait()
	r.elapsed, r.cpu = time.Since(start), -1
	if cpu >= 0 {
		r.cpu = processorTime(os.Getpid()) - cpu
	}
	for _, p := range parts {
		r.calls.Merge(p)
	}
	if err := errors.Join(append(failed, ctx.Err())...); err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

// rawEngine asks about an update as the api does: two actions on one resource, the same each time, so it is remembered.
func rawEngine(ctx context.Context, o options, policies string) (raw, error) {
	az, err := authz.Open(ctx, "embed:"+policies)
	if err != nil {
		return raw{}, err
	}
	q := authz.Request{
		Principal: events.Principal{ID: "user-1", Version: 1, Roles: []string{"user"}, Attr: map[string]any{"region": "eu-east-1", "tenant": "default"}},
		Resource: events.Resource{Kind: "contact", ID: uuid.NewString(), Version: 1, Attr: map[string]any{
			"owner_id": "user-1", "tenant": "default", "is_active": true, "changes": []any{"notes", "phone"}}},
		Actions: []string{kind.ActionUpdate, kind.ActionRead}, Tenant: "default",
	}
	r, err := repeat(ctx, o, rawCheck, runtime.GOMAXPROCS(0), 1, func(ctx context.Context, _, _ int) error {
		a, err := az.Check(ctx, q)
		if err == nil && !a.Allowed(kind.ActionUpdate) {
			err = errors.New("denied")
		}
		return err
	})
	return r, errors.Join(err, az.Close())
}

// sample is a writ as the api makes it of a new contact.
func sample() (m events.Message, decision []byte, row kind.Row, err error) {
	now := time.Now()
	body := contactBody()
	id := uuid.Must(uuid.NewV7()).String()
	if row, err = contact.Kind.Create(id, "default", "user-live-00000000-0000-4000-8000-000000000000", body, now); err != nil {
		return
	}
	keys, err := events.ParseKeyring(events.GenerateKey("bench"))
	if err != nil {
		return
	}
	d := events.Decision{
		ID: uuid.Must(uuid.NewV7()).String(), Stage: events.StageRequest, Tenant: "default",
		Principal: events.Principal{ID: row.OwnerID, Version: 1, Roles: []string{"user"}},
		Resource:  events.Resource{Kind: "contact", ID: id, Attr: contact.Kind.Attrs(row)}, Action: kind.ActionCreate, Effect: events.Allow,
		Policy: events.Policy{Matched: "resource.contact.vdefault", Revision: events.Digest(nil)}, CallID: uuid.NewString(), EvaluatedAt: now,
		Request: events.RequestInfo{ID: uuid.NewString(), Method: "POST", Route: "/v1/contacts", Remote: "127.0.0.1"}, TraceID: events.Digest(nil)[:32],
	}
	c := events.Command{ID: uuid.Must(uuid.NewV7()).String(), Kind: "contact", ResourceID: id, Action: kind.ActionCreate, Tenant: "default",
		PrincipalID: row.OwnerID, Body: body, Fingerprint: events.Digest(body), IssuedAt: now}
	if m, err = events.NewWrit(keys, events.SourceAPI, &d, &c, now.Add(time.Hour)); err != nil {
		return
	}
	decision, err = events.EncodeDecision(&d)
	return
}
