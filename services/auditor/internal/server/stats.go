package server

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/gate"
)

// Bounds of an answer.
const (
	statsSpan = time.Hour // that is counted if from is not given
	statsRows = 10_000
)

func (s *Server) registerStats() {
	register(s, huma.Operation{
		OperationID: "count-decisions", Path: "/v1/stats", Summary: "How many decisions there were each minute, by kind, action and effect",
		Description: "Roles auditor and admin. From the newest back: without from, the hour before to. One answer looks at a bounded number of decisions; " +
			"add the counts of the answers that next_cursor leads to.",
		Errors: []int{http.StatusForbidden},
	}, s.stats)
}

type statsInput struct {
	Filter
	Cursor string `query:"cursor" maxLength:"64" doc:"next_cursor of the answer before"`
}

// Count is how many decisions of a sort there were in a minute.
type Count struct {
	Minute time.Time     `json:"minute"`
	Kind   string        `json:"kind"`
	Action string        `json:"action"`
	Effect events.Effect `json:"effect" enum:"allow,deny"`
	Count  int           `json:"count"`
}

type statsOutput struct {
	Body struct {
		Counts []Count `json:"counts" doc:"Newest minute first"`
		Searched
	}
}

func (s *Server) stats(ctx context.Context, in *statsInput) (*statsOutput, error) {
	c := gate.CallerOf(ctx)
	if in.From.IsZero() {
		end := in.To
		if end.IsZero() {
			end = time.Now()
		}
		in.From = end.Add(-statsSpan)
	}
	q := &search{
		filter: &in.Filter, tenant: c.Tenant, span: in.span(), entries: s.limits.entries, until: time.Now().Add(s.limits.search),
	}
	q.span.Backwards = true
	if in.Cursor != "" {
		from, err := cursor(in.Cursor)
		if err != nil {
			return nil, err
		}
		q.span = after(q.span, from)
	}
	if in.Tenant != "" && in.Tenant != c.Tenant {
		return nil, s.ofAnotherTenant(ctx, c, actionList)
	}
	if _, err := s.permit(ctx, c, about(wholeLog, c.Tenant, in.Principal), actionList); err != nil {
		return nil, err
	}
	counts := map[Count]int{} // by what is counted, whose own Count is 0
	err := s.run(ctx, q, func(f found) (bool, error) {
		counts[Count{Minute: at(f.Entry.ID).Truncate(time.Minute), Kind: f.Resource.Kind, Action: f.Action, Effect: f.Effect}]++
		return len(counts) >= statsRows, nil
	})
	if err != nil {
		return nil, err
	}
	out := &statsOutput{}
	out.Body.Counts = make([]Count, 0, len(counts))
	for c, n := range counts {
		c.Count = n
		out.Body.Counts = append(out.Body.Counts, c)
	}
	slices.SortFunc(out.Body.Counts, func(a, b Count) int {
		return cmp.Or(b.Minute.Compare(a.Minute), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Action, b.Action), cmp.Compare(a.Effect, b.Effect))
	})
	out.Body.Searched = q.searched()
	return out, nil
}
