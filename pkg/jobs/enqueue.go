package jobs

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/telemetry"
)

// Spec is a job to be enqueued.
type Spec struct {
	Queue string
	// Key makes the job unique: while a job of this key waits or runs, no second
	// one is made. "" makes every job its own.
	Key string
	// Tenant is whose job it is: who may see and cancel it.
	Tenant string
	// Payload is encoded as JSON, at most MaxPayload bytes.
	Payload any
	// NotBefore is when the job may run; the zero time means at once.
	NotBefore time.Time
}

// message is a job as it stands on JOBS.
type message struct {
	ID         string          `json:"id"`
	Queue      string          `json:"queue"`
	Key        string          `json:"key,omitempty"`
	Tenant     string          `json:"tenant,omitempty"`
	Payload    json.RawMessage `json:"payload"`
	NotBefore  time.Time       `json:"not_before,omitzero"`
	EnqueuedAt time.Time       `json:"enqueued_at"`
}

// Enqueue puts a job on its queue and returns when the stream has it. added is
// false when a job of that key waits or runs already: that one's id is given.
// fault.Unavailable: it is not known whether the job is there, or (code jobs-full)
// there is no room for it; with a key it is safe to try again.
func (c *Client) Enqueue(ctx context.Context, s Spec) (id string, added bool, err error) {
	if !queueName.MatchString(s.Queue) {
		return "", false, fmt.Errorf("jobs: no queue can be called %q", s.Queue)
	}
	payload, err := json.Marshal(s.Payload)
	if err != nil {
		return "", false, fmt.Errorf("encode the payload of a job on %s: %w", s.Queue, err)
	}
	if len(payload) > MaxPayload {
		return "", false, fault.New(fault.TooLarge, "job-too-large", "the payload of a job is at most %d bytes, not %d", MaxPayload, len(payload))
	}
	m := message{Queue: s.Queue, Key: s.Key, Tenant: s.Tenant, Payload: payload, NotBefore: s.NotBefore.UTC(), EnqueuedAt: now()}
	if m.ID, err = jobID(s.Queue, s.Key); err != nil {
		return "", false, err
	}
	_, added, err = c.publish(ctx, m, 0)
	if err == nil && added {
		c.metrics.enqueued(ctx, s.Queue)
	}
	return m.ID, added, err
}

// jobID derives the id of a job with a key (a UUIDv8 over SHA-256), or makes one.
func jobID(queue, key string) (string, error) {
	if key == "" {
		id, err := uuid.NewV7()
		return id.String(), err
	}
	sum := sha256.Sum256([]byte("writ job\x00" + queue + "\x00" + key))
	var id uuid.UUID
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id.String(), nil
}

// publish puts the message on JOBS unless one of its subject is there, other than
// the one that is to be replaced (0: none).
func (c *Client) publish(ctx context.Context, m message, replaced uint64) (sequence uint64, added bool, err error) {
	data, err := json.Marshal(m)
	if err != nil {
		return 0, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	msg := c.cfg.seal(events.JobSubject(m.Queue, m.ID), data)
	telemetry.Inject(ctx, msg.Header)
	ack, err := c.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(replaced))
	switch {
	case wrongLast(err):
		return 0, false, nil
	case isFull(err):
		f := fault.New(fault.Unavailable, "jobs-full", "too many jobs wait")
		f.RetryAfter, f.Err = fullRetry, err
		return 0, false, f
	case err != nil:
		return 0, false, fault.Unreachable(Dependency, fmt.Errorf("enqueue on %s: %w", m.Queue, err))
	}
	return ack.Sequence, true, nil
}

// fullRetry is after how long a job that found no room may be tried again.
const fullRetry = 10 * time.Second

// isFull reports whether the stream has no room, in jobs or in bytes. The server
// has one code for all that its store refuses.
func isFull(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && strings.HasPrefix(api.Description, "maximum ")
}

// job is the record of a message that no worker has seen yet.
func (m message) job(sequence uint64) *Job {
	return &Job{
		ID: m.ID, Queue: m.Queue, Key: m.Key, Tenant: m.Tenant, Status: Queued, Payload: m.Payload,
		Sequence: sequence, NotBefore: m.NotBefore, EnqueuedAt: m.EnqueuedAt,
	}
}

// parse reads a message of JOBS. An error says that it is no job: events.ErrSeal,
// that it is not believed.
func (c *Client) parse(subject string, header nats.Header, data []byte) (message, error) {
	return parse(c.cfg.Keys, subject, header, data)
}

func parse(keys *events.Keyring, subject string, header nats.Header, data []byte) (m message, err error) {
	if err := verify(keys, subject, header, data); err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("read a job: %w", err)
	}
	if subject != events.JobSubject(m.Queue, m.ID) {
		return m, fmt.Errorf("read a job: it is job %s of queue %s", m.ID, m.Queue)
	}
	return m, nil
}
