package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/fault"
)

// httpSource reads an auditor's logs: checkpoints, tiles and entry bundles as
// C2SP tlog-tiles has them, and the auditor's own routes for what these cannot
// tell: the entries' ids and seals, and sequences that are no entries. One that
// does not have those (another's transparency log) can be verified all the same.
type httpSource struct {
	*remote
	key    audit.PublicKey // that the auditor says it signs with
	signed map[audit.Log]int64
	plain  bool // no ids, no explanations
}

var _ audit.Source = (*httpSource)(nil)

func newHTTPSource(r *remote) *httpSource {
	return &httpSource{remote: r, signed: map[audit.Log]int64{}}
}

type checkpointAnswer struct {
	Decisions, Outcomes struct {
		Note string `json:"note"`
		Key  string `json:"key"`
	}
	Sequence uint64 `json:"sequence"`
}

// Checkpoints implements audit.Source.
func (s *httpSource) Checkpoints(ctx context.Context) (audit.Signed, error) {
	var a checkpointAnswer
	if err := s.patiently(ctx, func() error { return s.get(ctx, "/v1/checkpoint", nil, &a) }); err != nil {
		return audit.Signed{}, err
	}
	if a.Decisions.Key != "" {
		key, err := audit.ParsePublicKey(a.Decisions.Key)
		if err != nil {
			return audit.Signed{}, err
		}
		s.key = key
	}
	signed := audit.Signed{Decisions: []byte(a.Decisions.Note), Outcomes: []byte(a.Outcomes.Note), Sequence: a.Sequence}
	for _, l := range audit.Logs {
		c, err := audit.ParseCheckpoint(signed.Of(l))
		if err != nil {
			return audit.Signed{}, &audit.Bad{Log: l, Index: -1, Reason: err.Error()}
		}
		s.signed[l] = c.Tree.N
	}
	return signed, nil
}

// Tile implements audit.Source.
func (s *httpSource) Tile(ctx context.Context, l audit.Log, t tlog.Tile) (b []byte, err error) {
	err = s.patiently(ctx, func() error {
		b, err = s.call(ctx, http.MethodGet, "/"+string(l)+"/"+audit.TilePath(t), nil, nil, nil, nil)
		return err
	})
	if err == nil && len(b) != t.W*tlog.HashSize {
		err = fmt.Errorf("%w: %s has %d bytes, want %d hashes", audit.ErrDamaged, audit.TilePath(t), len(b), t.W)
	}
	return b, err
}

// Entries implements audit.Source. Of the last bundle it gives what was signed:
// a tile that is wider than the tree has no address.
func (s *httpSource) Entries(ctx context.Context, l audit.Log, n int64, width int) ([]audit.Entry, error) {
	width = int(min(int64(width), s.signed[l]-n*audit.BundleSize))
	if width <= 0 {
		return nil, nil
	}
	var records [][]byte
	var ids struct{ IDs, Seals, Extra []string }
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		t := tlog.Tile{H: audit.TileHeight, L: -1, N: n, W: width}
		return s.patiently(gctx, func() error {
			b, err := s.call(gctx, http.MethodGet, "/"+string(l)+"/"+audit.TilePath(t), nil, nil, nil, nil)
			if err != nil {
				return err
			}
			if records, err = audit.DecodeBundle(b); err != nil {
				return fmt.Errorf("%w: %w", audit.ErrDamaged, err)
			}
			return nil
		})
	})
	if !s.plain {
		g.Go(func() error {
			q := url.Values{"log": {string(l)}, "bundle": {strconv.FormatInt(n, 10)}, "width": {strconv.Itoa(width)}}
			return s.patiently(gctx, func() error { return s.get(gctx, "/v1/entries", q, &ids) })
		})
	}
	err := g.Wait()
	if p, ok := errors.AsType[*problemError](err); ok && !s.plain && p.Status == http.StatusNotFound && p.request == "GET /v1/entries" {
		s.plain = true
		return s.Entries(ctx, l, n, width)
	}
	if err != nil {
		return nil, err
	}
	entries := make([]audit.Entry, len(records))
	for i, record := range records {
		entries[i] = audit.Entry{Log: l, Index: n*audit.BundleSize + int64(i), Record: record}
		if s.plain {
			continue
		}
		if len(ids.IDs) != len(records) || len(ids.Seals) != len(records) {
			return nil, fmt.Errorf("%w: bundle %d of %s has %d records and %d ids", audit.ErrDamaged, n, l, len(records), len(ids.IDs))
		}
		if entries[i].ID, err = audit.ParseID(ids.IDs[i]); err != nil {
			return nil, fmt.Errorf("%w: %w", audit.ErrDamaged, err)
		}
		entries[i].Seal = ids.Seals[i]
	}
	for _, text := range ids.Extra { // what stands behind them and should not: verify names it
		id, err := audit.ParseID(text)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", audit.ErrDamaged, err)
		}
		entries = append(entries, audit.Entry{Log: l, Index: n*audit.BundleSize + int64(len(entries)), ID: id})
	}
	return entries, nil
}

type explained struct {
	Start  uint64 `json:"start"`
	Ranges []struct {
		First, Last uint64
		Why         string
	} `json:"ranges"`
	Next uint64 `json:"next"`
}

func (s *httpSource) explain(ctx context.Context, from uint64) (*explained, error) {
	if s.plain {
		return nil, audit.ErrUnknown
	}
	var x explained
	err := s.patiently(ctx, func() error {
		return s.get(ctx, "/v1/explained", url.Values{"from": {strconv.FormatUint(from, 10)}}, &x)
	})
	if statusOf(err) == http.StatusNotFound {
		return nil, audit.ErrUnknown
	}
	if err == nil && x.Next != 0 && x.Next <= from {
		err = errors.New("the auditor explains sequences in a circle")
	}
	return &x, err
}

// State tells where the account of ledger sequences begins, and nothing else.
func (s *httpSource) State(ctx context.Context) (audit.State, error) {
	x, err := s.explain(ctx, 1)
	if err != nil {
		return audit.State{}, err
	}
	return audit.State{Start: x.Start}, nil
}

// Explained implements audit.Source.
func (s *httpSource) Explained(ctx context.Context, from uint64) ([]audit.Range, uint64, error) {
	x, err := s.explain(ctx, from)
	if err != nil {
		return nil, 0, err
	}
	ranges := make([]audit.Range, len(x.Ranges))
	for i, r := range x.Ranges {
		why, ok := whys[r.Why]
		if !ok {
			return nil, 0, fmt.Errorf("%w: the auditor explains %d to %d by %q", audit.ErrDamaged, r.First, r.Last, r.Why)
		}
		ranges[i] = audit.Range{First: r.First, Last: r.Last, Why: why}
	}
	return ranges, x.Next, nil
}

// whys are the auditor's words for why an address is no entry.
var whys = map[string]audit.Why{"refused": audit.WhyRefused, "checkpoint": audit.WhyCheckpoint, "end": audit.WhyEnd}

// patience is for how long what may pass is waited out.
const patience = 30 * time.Second

// patiently tries again while the auditor does not answer, is busy or has no
// checkpoint yet, and gives what it says as package audit's errors.
func (s *httpSource) patiently(ctx context.Context, ask func() error) error {
	until := time.Now().Add(patience)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := ask()
		passing := false
		p, answered := errors.AsType[*problemError](err)
		switch {
		case err == nil:
			return nil
		case answered && p.Code == "trimmed":
			return audit.ErrTrimmed
		case answered && p.Code == "damaged":
			return fmt.Errorf("%w: the auditor cannot read it", audit.ErrDamaged)
		case answered:
			passing = p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests
		case ctx.Err() != nil || errors.Is(err, audit.ErrDamaged):
			return err
		default:
			passing = true // no answer at all
		}
		if !passing {
			return err
		}
		if time.Now().After(until) {
			if answered && p.Code == "no-checkpoint" {
				return audit.ErrNoCheckpoint
			}
			return fault.Unreachable("auditor", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
