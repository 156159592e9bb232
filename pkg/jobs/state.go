package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/fault"
)

// states are the jobs' records: one message for each subject, changed by
// compare and set.
type states struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	cfg    *Config
}

// errChanged means that the record is no longer the one that was read.
var errChanged = errors.New("the job's record has changed meanwhile")

func stateSubject(queue, id string) string { return prefixState + queue + "." + id }

// get reads a record; nil when there is none. One that is not believed is as none:
// a job without a status, and with the revision that is to be written over.
func (s states) get(ctx context.Context, queue, id string) (*Job, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m, err := s.stream.GetLastMsgForSubject(ctx, stateSubject(queue, id))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	return s.decode(stored{m.Subject, m.Header, m.Data, m.Sequence}), nil
}

// decode reads a record.
func (s states) decode(m stored) *Job {
	j := &Job{}
	if s.cfg.verify(m.subject, m.header, m.data) != nil || json.Unmarshal(m.data, j) != nil {
		j = &Job{}
	}
	j.revision = m.sequence
	return j
}

// put writes j over the record that it was read from and makes j the one that
// is there now; errChanged if another was faster.
func (s states) put(ctx context.Context, j *Job) error {
	data, err := json.Marshal(j)
	if err != nil {
		return err
	}
	var opts []jetstream.PublishOpt
	switch j.Status {
	case Done, Cancelled:
		opts = append(opts, jetstream.WithMsgTTL(keepDone))
	case Dead:
		opts = append(opts, jetstream.WithMsgTTL(keepDead))
	}
	revision, err := s.set(ctx, stateSubject(j.Queue, j.ID), data, j.revision, opts...)
	if err == nil {
		j.revision = revision
	}
	return err
}

// set publishes data on a subject whose last message must be revision (0: none).
func (s states) set(ctx context.Context, subject string, data []byte, revision uint64, opts ...jetstream.PublishOpt) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	opts = append(opts, jetstream.WithExpectLastSequencePerSubject(revision))
	ack, err := s.js.PublishMsg(ctx, s.cfg.seal(subject, data), opts...)
	if wrongLast(err) {
		return 0, errChanged
	}
	if err != nil {
		return 0, fault.Unreachable(Dependency, err)
	}
	return ack.Sequence, nil
}

// wrongLast reports whether another message was there already; replicated
// streams say it in another way.
func wrongLast(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// now is whole milliseconds: what a person reads.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
