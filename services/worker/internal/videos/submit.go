package videos

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kind/video"
)

// writLife is how long a command of the system's may wait to be applied.
const writLife = 24 * time.Hour

// submit puts a command of the system's on the ledger with the decision that
// permits it, as the api does for people: no act without a decision. The command's id
// follows from the job's message and the status, so one that is submitted again is
// recognized. A denial is recorded and cancels the job.
func (v *Videos) submit(ctx context.Context, j jobs.Job, at *video.Video, p video.Progress) error {
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	row := kind.Row{Meta: &at.Meta, Value: at}
	now := time.Now().UTC()
	info := events.RequestInfo{ID: j.ID, Route: events.RouteJob + j.Queue}
	var nobody *user.User
	who := nobody.Principal(user.System, at.Tenant, info, now)
	res := events.Resource{Kind: video.Kind.Name, ID: at.ID, Version: at.Version, Attr: video.Kind.Attrs(row)}
	answer, err := v.Authz.Check(ctx, authz.Request{
		Principal: who, Resource: res, Actions: []string{video.ActionProcess}, Tenant: at.Tenant, Scope: authz.TenantScope(at.Tenant),
	})
	if err != nil {
		return fmt.Errorf("authorize %s of video %s: %w", video.ActionProcess, at.ID, err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	result := answer.For(video.ActionProcess)
	d := &events.Decision{
		ID: id.String(), Stage: events.StageRequest, Tenant: at.Tenant, Principal: who, Resource: res, Action: video.ActionProcess,
		Effect: result.Effect, Policy: result.Policy, CallID: answer.CallID, EvaluatedAt: answer.EvaluatedAt.UTC(),
		TookMicros: answer.Took.Microseconds(), Request: info,
	}
	if result.Effect != events.Allow {
		if err := v.record(ctx, d); err != nil {
			return err
		}
		e := fault.New(fault.Denied, "denied", "the policy does not let the system process this video")
		e.DecisionID = d.ID
		return jobs.Cancel(e)
	}
	c := events.Command{
		ID: commandID(j, p.Status), Kind: video.Kind.Name, ResourceID: at.ID, Action: video.ActionProcess, Tenant: at.Tenant,
		PrincipalID: who.ID, Body: body, Fingerprint: fingerprint(p), IssuedAt: now,
	}
	m, err := events.NewWrit(v.Keys, events.SourceWorker, d, &c, now.Add(writLife))
	if err != nil {
		return err
	}
	if _, err := v.Ledger.Append(ctx, m); err != nil {
		return fmt.Errorf("submit %s of video %s: %w", p.Status, at.ID, err)
	}
	return nil
}

func (v *Videos) record(ctx context.Context, d *events.Decision) error {
	m, err := events.NewDecision(v.Keys, events.SourceWorker, d)
	if err != nil {
		return err
	}
	if _, err := v.Ledger.Append(ctx, m); err != nil {
		return fmt.Errorf("record decision %s: %w", d.ID, err)
	}
	return nil
}

// commandID derives the id of a job's command: a UUIDv8 (RFC 9562, 5.8) over SHA-256.
func commandID(j jobs.Job, status string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "writ job command\x00%s\x00%d\x00%s", j.ID, j.Sequence, status))
	var id uuid.UUID
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

// fingerprint is the same for every attempt of a job: that the facts were found
// out twice makes no other command.
func fingerprint(p video.Progress) string {
	sum := sha256.Sum256([]byte(p.ContentID + "\x00" + p.Status))
	return hex.EncodeToString(sum[:])
}
