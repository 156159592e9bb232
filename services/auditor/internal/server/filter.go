package server

import (
	"encoding/json"
	"math"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/request"
)

// Filter says which decisions are meant. All of it must hold.
type Filter struct {
	From      time.Time `query:"from" doc:"Recorded at this time or later, as the ledger's clock says"`
	To        time.Time `query:"to" doc:"Recorded before this time"`
	Principal string    `query:"principal" minLength:"1" maxLength:"200" doc:"About this principal, by id"`
	Kind      string    `query:"kind" minLength:"1" maxLength:"64" doc:"On resources of this kind"`
	Resource  string    `query:"resource" minLength:"1" maxLength:"200" doc:"On the resource with this id"`
	Action    string    `query:"action" minLength:"1" maxLength:"64"`
	Effect    string    `query:"effect" enum:"allow,deny"`
	Tenant    string    `query:"tenant" minLength:"1" maxLength:"63" doc:"Of this tenant: none but the request's own (Writ-Tenant) may be looked into"`
	Policy    string    `query:"policy" minLength:"1" maxLength:"200" doc:"Decided by the policy with this name, or under this policy revision"`
	Command   string    `query:"command" minLength:"1" maxLength:"200" doc:"About the command with this id"`
	Trace     string    `query:"trace" minLength:"1" maxLength:"64" doc:"In the trace with this id"`
}

// Resolve implements huma.Resolver: ids that are UUIDs are written in lower case.
func (f *Filter) Resolve(huma.Context) []error {
	for _, id := range []*string{&f.Resource, &f.Command} {
		if canonical, ok := request.UUID(*id); ok {
			*id = canonical
		}
	}
	return nil
}

// glance is what is read of every decision to tell whether it is meant.
type glance struct {
	ID        string
	Stage     events.Stage
	Tenant    string
	Principal struct{ ID string }
	Resource  struct{ Kind, ID string }
	Action    string
	Effect    events.Effect
	Policy    struct{ Matched, Revision string }
	TraceID   string `json:"trace_id"`
	Command   struct{ ID string }
}

// glanceAt reads a record; false if it is no decision, which is for
// writ audit verify to name.
func glanceAt(record []byte) (*glance, bool) {
	var g glance
	err := json.Unmarshal(record, &g)
	return &g, err == nil && g.Tenant != ""
}

// fits tells whether a decision is of the tenant and meant.
func (f *Filter) fits(g *glance, tenant string) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	return g.Tenant == tenant && is(f.Principal, g.Principal.ID) && is(f.Kind, g.Resource.Kind) && is(f.Resource, g.Resource.ID) &&
		is(f.Action, g.Action) && is(f.Effect, string(g.Effect)) && is(f.Command, g.Command.ID) && is(f.Trace, g.TraceID) &&
		(f.Policy == "" || f.Policy == g.Policy.Matched || f.Policy == g.Policy.Revision)
}

// span gives the ids between the filter's times.
func (f *Filter) span() audit.Span {
	span := audit.Span{To: audit.MaxID}
	if !f.From.IsZero() {
		span.From.Ms = firstMs(f.From)
	}
	if !f.To.IsZero() {
		span.To = audit.ID{Ms: firstMs(f.To)}
		if span.To == (audit.ID{}) { // nothing is before it
			return audit.Span{From: audit.MaxID}
		}
		span.To = span.To.Prev()
	}
	return span
}

// firstMs is the first whole millisecond that is not before t.
func firstMs(t time.Time) uint64 {
	if t.Year() < 1970 {
		return 0
	}
	if t.Year() > 9999 {
		return math.MaxUint64
	}
	return uint64(max(t.Add(time.Millisecond-1).UnixMilli(), 0))
}

// cursor reads the id after which a search goes on.
func cursor(text string) (audit.ID, error) {
	id, err := audit.ParseID(text)
	if err != nil || id == (audit.ID{}) {
		return id, fault.InvalidField("query.cursor", "want next_cursor of the page before")
	}
	return id, nil
}

// after is the rest of a span behind id, in its direction.
func after(span audit.Span, id audit.ID) audit.Span {
	switch {
	case span.Backwards && id.Less(span.To):
		span.To = id.Prev()
	case span.Backwards && id == span.To:
		span.To = id.Prev()
	case !span.Backwards && id == audit.MaxID: // which nothing is after: Next would be the log's beginning
		return audit.Span{From: audit.MaxID, Limit: span.Limit}
	case !span.Backwards && !id.Less(span.From):
		span.From = id.Next()
	}
	return span
}

// at is an entry's time by the ledger's clock.
func at(id audit.ID) time.Time {
	return time.UnixMilli(int64(min(id.Ms, maxMs))).UTC()
}

// maxMs is the last millisecond that RFC 3339 can write.
const maxMs = 253402300799999
