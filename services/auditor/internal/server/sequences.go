package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind/user"
)

// registerSequences adds what C2SP tiles have no room for and whoever verifies
// wants to know: which ledger address each entry has, and why others have none.
func (s *Server) registerSequences() {
	register(s, huma.Operation{
		OperationID: "list-entry-ids", Path: "/v1/entries", Summary: "The ids and seals of a bundle's entries",
		Description: "Beside /tile/entries/<N>, which holds their records. Roles auditor and admin of the default tenant.",
		Errors:      []int{http.StatusForbidden, http.StatusNotFound, http.StatusGone},
	}, s.entryIDs)
	register(s, huma.Operation{
		OperationID: "explain-sequences", Path: "/v1/explained", Summary: "Ledger addresses that are no entries, and why",
		Description: "Roles auditor and admin of the default tenant.", Errors: []int{http.StatusForbidden},
	}, s.explained)
}

type entryIDsInput struct {
	Log    string `query:"log" enum:"decisions,outcomes" default:"decisions"`
	Bundle int64  `query:"bundle" minimum:"0" required:"true" doc:"The bundle's number: entry 256 times that is its first"`
	Width  int    `query:"width" minimum:"1" maximum:"256" default:"256" doc:"How many of its entries"`
}

type entryIDsOutput struct {
	Body struct {
		IDs   []string `json:"ids" doc:"<ms>-<ledger address>, in the entries' order"`
		Seals []string `json:"seals" doc:"The key's id and the MAC of the record's bytes"`
		Extra []string `json:"extra,omitempty" doc:"What stands behind them and should not: it was put in by whoever holds Redis"`
	}
}

func (s *Server) entryIDs(ctx context.Context, in *entryIDsInput) (*entryIDsOutput, error) {
	if err := s.mayVerifyAll(ctx); err != nil {
		return nil, err
	}
	l := audit.Log(in.Log)
	state, err := s.Audit.State(ctx)
	if err != nil {
		return nil, err
	}
	if size := state.Of(l).Size; in.Bundle > size/audit.BundleSize || in.Bundle*audit.BundleSize+int64(in.Width) > size {
		return nil, fault.Missing("bundle", audit.TilePath(tlog.Tile{H: audit.TileHeight, L: -1, N: in.Bundle, W: in.Width}))
	}
	done, err := s.room(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	entries, err := s.Audit.Entries(ctx, l, in.Bundle, in.Width)
	if err == nil && len(entries) < in.Width {
		err = errors.Join(audit.ErrDamaged, errors.New("entries are missing"))
	}
	if err != nil {
		return nil, err
	}
	extra, err := s.Audit.Extra(ctx, l, in.Bundle, in.Width)
	if err != nil {
		return nil, err
	}
	out := &entryIDsOutput{}
	for _, id := range extra {
		out.Body.Extra = append(out.Body.Extra, id.String())
	}
	for _, e := range entries[:in.Width] {
		out.Body.IDs, out.Body.Seals = append(out.Body.IDs, e.ID.String()), append(out.Body.Seals, e.Seal)
	}
	return out, nil
}

type explainedInput struct {
	From uint64 `query:"from" minimum:"1" default:"1" doc:"The ledger address to begin with; next of the answer before"`
}

// ExplainedRange is a run of ledger addresses, both ends included.
type ExplainedRange struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	Why   string `json:"why" enum:"refused,checkpoint,end" doc:"refused: there is a dead letter of the auditor. checkpoint: the event is one of this log. end: the message holds no event there"`
}

type explainedOutput struct {
	Body struct {
		Start  uint64           `json:"start" doc:"The first address that is accounted for: the first message's, unless the ledger begins later"`
		Ranges []ExplainedRange `json:"ranges"`
		Next   uint64           `json:"next,omitempty" doc:"Where to go on; absent when there are no more"`
	}
}

func (s *Server) explained(ctx context.Context, in *explainedInput) (*explainedOutput, error) {
	if err := s.mayVerifyAll(ctx); err != nil {
		return nil, err
	}
	state, err := s.Audit.State(ctx)
	if err != nil {
		return nil, err
	}
	out := &explainedOutput{}
	out.Body.Start, out.Body.Ranges = state.Start, []ExplainedRange{}
	next := in.From
	// Where nothing needs an explanation is passed over here.
	for until := time.Now().Add(s.limits.search); len(out.Body.Ranges) == 0; {
		var ranges []audit.Range
		if ranges, next, err = s.Audit.Explained(ctx, next); err != nil {
			return nil, err
		}
		for _, r := range ranges {
			out.Body.Ranges = append(out.Body.Ranges, ExplainedRange{r.First, r.Last, whys[r.Why]})
		}
		if next == 0 || time.Now().After(until) {
			break
		}
	}
	if len(out.Body.Ranges) > maxRanges {
		out.Body.Ranges = out.Body.Ranges[:maxRanges]
		next = out.Body.Ranges[maxRanges-1].Last + 1
	}
	out.Body.Next = next
	return out, nil
}

// maxRanges bounds one answer: about 400 kB.
const maxRanges = 8192

// whys are the reasons' names.
var whys = map[audit.Why]string{audit.WhyRefused: "refused", audit.WhyCheckpoint: "checkpoint", audit.WhyEnd: "end"}

// mayVerifyAll decides whether the caller may verify the whole log, of all
// tenants, and records the decision.
func (s *Server) mayVerifyAll(ctx context.Context) error {
	c := gate.CallerOf(ctx)
	if c.Tenant != user.DefaultTenant {
		return s.ofAnotherTenant(ctx, c, actionVerify)
	}
	_, err := s.permit(ctx, c, about(wholeLog, c.Tenant, ""), actionVerify)
	return err
}
