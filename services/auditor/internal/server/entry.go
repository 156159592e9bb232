package server

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
)

// Entry is a decision as it stands in the audit log.
type Entry struct {
	ID       string         `json:"id" doc:"<ms>-<ledger address>: its place in the log, for Last-Event-ID and cursor"`
	Index    int64          `json:"index" doc:"The number of its leaf in the tree, from 0"`
	Sequence uint64         `json:"sequence" doc:"Its address on the ledger: the message's sequence times 256, plus its index in the message"`
	At       time.Time      `json:"at" doc:"When the ledger stored it"`
	LeafHash string         `json:"leaf_hash,omitempty" doc:"Hex of SHA-256 of 0x00 and the decision's bytes (RFC 6962)"`
	Seal     string         `json:"seal,omitempty" doc:"The key's id and the MAC of the decision's bytes"`
	Masked   bool           `json:"masked,omitempty" doc:"Only what a principal may know of a decision about themselves: not the recorded bytes"`
	Decision DecisionRecord `json:"decision" doc:"The bytes that were recorded, unless masked"`
	Outcome  OutcomeRecord  `json:"outcome,omitempty" doc:"What became of the command, once it is done"`
}

// DecisionRecord is a decision's bytes.
type DecisionRecord []byte

// MarshalJSON gives the bytes as they are.
func (r DecisionRecord) MarshalJSON() ([]byte, error) { return r, nil }

// Schema implements huma.SchemaProvider.
func (DecisionRecord) Schema(r huma.Registry) *huma.Schema {
	return r.Schema(reflect.TypeFor[events.Decision](), true, "Decision")
}

// OutcomeRecord is an outcome's bytes.
type OutcomeRecord []byte

// MarshalJSON gives the bytes as they are.
func (r OutcomeRecord) MarshalJSON() ([]byte, error) { return r, nil }

// Schema implements huma.SchemaProvider.
func (OutcomeRecord) Schema(r huma.Registry) *huma.Schema {
	return r.Schema(reflect.TypeFor[events.Outcome](), true, "Outcome")
}

func entryOf(e audit.Entry) Entry {
	return Entry{
		ID: e.ID.String(), Index: e.Index, Sequence: e.ID.Sequence, At: at(e.ID),
		LeafHash: leafHash(e.LeafHash()), Seal: e.Seal, Decision: e.Record,
	}
}

func leafHash(h tlog.Hash) string { return hex.EncodeToString(h[:]) }

// maskedReason stands for every reason of a denial, as in answers to AuthZEN.
const maskedReason = "denied"

// masked is an entry as its principal may see it. A decision holds more than
// they were told when it was taken: the attributes and the version of a resource
// that they may not read, the rule and the reason of a denial that was answered
// with 404 or, by AuthZEN, with a reason that told nothing. None of this is shown,
// and of a question that somebody else asked about them not who asked, or from where.
func masked(e audit.Entry) (Entry, error) {
	var d events.Decision
	if err := json.Unmarshal(e.Record, &d); err != nil {
		return Entry{}, fmt.Errorf("%w: entry %s: %w", audit.ErrDamaged, e.ID, err)
	}
	shown := events.Decision{
		ID: d.ID, Stage: d.Stage, Tenant: d.Tenant, Action: d.Action, Effect: d.Effect, EvaluatedAt: d.EvaluatedAt, Command: d.Command,
		Principal: events.Principal{ID: d.Principal.ID, Version: d.Principal.Version, Roles: d.Principal.Roles},
		Resource:  events.Resource{Kind: d.Resource.Kind, ID: d.Resource.ID},
		Policy:    events.Policy{Revision: d.Policy.Revision},
	}
	if d.Effect != events.Allow {
		shown.Policy.Reason = maskedReason
	}
	if d.Asker == "" {
		shown.Request, shown.TraceID = d.Request, d.TraceID
	}
	b, err := events.EncodeDecision(&shown)
	if err != nil {
		return Entry{}, err
	}
	return Entry{ID: e.ID.String(), Index: e.Index, Sequence: e.ID.Sequence, At: at(e.ID), Masked: true, Decision: b}, nil
}

// told tells whether a list of somebody's decisions may show them this one. A
// denial about a named resource may have been answered with 404: that there is
// a decision would tell that there is the resource. What is to be created is
// none yet. By its id, which the answer to a denial gives where it may, such a
// decision can still be read.
func (g *glance) told() bool {
	return g.Effect == events.Allow || g.Resource.ID == "" || g.Resource.ID == wholeLog || g.Action == "create"
}
