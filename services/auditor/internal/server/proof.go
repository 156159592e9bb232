package server

import (
	"context"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
)

func (s *Server) registerProofs() {
	register(s, huma.Operation{
		OperationID: "prove-decision", Path: "/v1/decisions/{id}/proof", Summary: "The evidence that a decision was recorded",
		Description: "For a command it is the evidence of the whole mutation: its decisions and its outcome. writ audit check verifies it offline. " +
			"Roles auditor and admin. 503 with the code no-checkpoint while no checkpoint covers it, a second at most.",
		Errors: []int{http.StatusForbidden, http.StatusNotFound},
	}, s.prove)
	register(s, huma.Operation{
		OperationID: "get-checkpoint", Path: "/v1/checkpoint", Summary: "The latest checkpoints of both logs",
		Description: "Roles auditor and admin. Clients of transparency logs read /checkpoint, which is public.",
		Errors:      []int{http.StatusForbidden},
	}, s.checkpoint)
	register(s, huma.Operation{
		OperationID: "prove-consistency", Path: "/v1/consistency", Summary: "The proof that a checkpoint's tree is the beginning of the latest one's",
		Description: "Roles auditor and admin.", Errors: []int{http.StatusForbidden},
	}, s.consistency)
}

type proofOutput struct{ Body *audit.Evidence }

func (s *Server) prove(ctx context.Context, in *getInput) (*proofOutput, error) {
	c := gate.CallerOf(ctx)
	e, g, err := s.find(ctx, c, in.ID)
	if err != nil {
		return nil, err
	}
	if _, err := s.permit(ctx, c, about(in.ID, c.Tenant, g.Principal.ID), actionVerify); err != nil {
		return nil, err
	}
	if e == nil {
		return nil, fault.Missing("decision", in.ID)
	}
	done, err := s.room(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	evidence, err := s.Audit.Evidence(ctx, in.ID)
	return &proofOutput{evidence}, err
}

// CheckpointOf is one log's checkpoint.
type CheckpointOf struct {
	Origin string `json:"origin"`
	Size   int64  `json:"size"`
	Root   string `json:"root" doc:"Base64 of the tree's hash"`
	Note   string `json:"note" doc:"The signed note (C2SP tlog-checkpoint)"`
	Key    string `json:"key,omitempty" doc:"The verifier key that this auditor signs with: get it from elsewhere to believe it"`
}

type checkpointOutput struct {
	Body struct {
		Decisions CheckpointOf `json:"decisions"`
		Outcomes  CheckpointOf `json:"outcomes"`
		Sequence  uint64       `json:"sequence" doc:"The ledger address up to which both account for every event"`
	}
}

func (s *Server) checkpoint(ctx context.Context, _ *struct{}) (*checkpointOutput, error) {
	c := gate.CallerOf(ctx)
	if _, err := s.permit(ctx, c, about(wholeLog, c.Tenant, ""), actionVerify); err != nil {
		return nil, err
	}
	signed, err := s.Audit.Checkpoints(ctx)
	if err != nil {
		return nil, err
	}
	out := &checkpointOutput{}
	out.Body.Sequence = signed.Sequence
	for l, to := range map[audit.Log]*CheckpointOf{audit.Decisions: &out.Body.Decisions, audit.Outcomes: &out.Body.Outcomes} {
		if *to, err = s.checkpointOf(signed, l); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *Server) checkpointOf(signed audit.Signed, l audit.Log) (CheckpointOf, error) {
	c, err := readCheckpoint(signed, l)
	if err != nil {
		return CheckpointOf{}, err
	}
	out := CheckpointOf{Origin: c.Origin, Size: c.Tree.N, Root: c.Tree.Hash.String(), Note: string(c.Note)}
	if !s.Key.IsZero() {
		out.Key = s.Key.VKey(l)
	}
	return out, nil
}

func readCheckpoint(signed audit.Signed, l audit.Log) (audit.Checkpoint, error) {
	c, err := audit.ParseCheckpoint(signed.Of(l))
	if err != nil {
		return c, fmt.Errorf("%w: checkpoint of %s: %w", audit.ErrDamaged, l, err)
	}
	return c, nil
}

type consistencyInput struct {
	From int64  `query:"from" minimum:"1" required:"true" doc:"The size of the earlier tree"`
	Log  string `query:"log" enum:"decisions,outcomes" default:"decisions"`
}

type consistencyOutput struct {
	Body struct {
		From       int64        `json:"from"`
		Hashes     []string     `json:"hashes" doc:"Base64 (RFC 6962, 2.1.2)"`
		Checkpoint CheckpointOf `json:"checkpoint"`
	}
}

func (s *Server) consistency(ctx context.Context, in *consistencyInput) (*consistencyOutput, error) {
	c := gate.CallerOf(ctx)
	if _, err := s.permit(ctx, c, about(wholeLog, c.Tenant, ""), actionVerify); err != nil {
		return nil, err
	}
	l := audit.Log(in.Log)
	signed, err := s.Audit.Checkpoints(ctx)
	if err != nil {
		return nil, err
	}
	latest, err := readCheckpoint(signed, l)
	if err != nil {
		return nil, err
	}
	if in.From > latest.Tree.N {
		return nil, fault.InvalidField("query.from", "the latest checkpoint has %d leaves", latest.Tree.N)
	}
	proof, err := audit.ProveConsistency(ctx, s.Audit, l, latest.Tree, in.From)
	if err != nil {
		return nil, err
	}
	out := &consistencyOutput{}
	out.Body.From, out.Body.Hashes = in.From, make([]string, len(proof))
	for i, h := range proof {
		out.Body.Hashes[i] = h.String()
	}
	out.Body.Checkpoint, err = s.checkpointOf(signed, l)
	return out, err
}
