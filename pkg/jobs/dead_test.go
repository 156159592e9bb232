package jobs_test

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/jobs"
)

type natsConn = nats.Conn

// dead counts the dead letters.
func (r *rig) dead() uint64 {
	r.t.Helper()
	js, err := jetstream.New(r.connect())
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := js.Stream(r.t.Context(), events.StreamDead)
	if err != nil {
		r.t.Fatal(err)
	}
	info, err := s.Info(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return info.State.Msgs
}

func TestForeignMessageIsADeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	done := make(chan struct{})
	jobs.Handle(c, queue("odd"), func(context.Context, jobs.Job, string) error { close(done); return nil })
	nc := r.connect()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), events.JobSubject("odd", "x"), []byte("no job")); err != nil {
		t.Fatal(err)
	}
	r.run(c)
	r.enqueue(c, jobs.Spec{Queue: "odd", Payload: ""})
	<-done // the queue goes on
	if n := r.dead(); n != 1 {
		t.Errorf("%d dead letters, want 1", n)
	}
	if _, _, err := c.Enqueue(t.Context(), jobs.Spec{Queue: "a.b"}); err == nil {
		t.Error("a queue whose name is no token was accepted")
	}
	if _, _, err := c.Enqueue(t.Context(), jobs.Spec{Queue: "odd", Payload: make([]byte, jobs.MaxPayload)}); err == nil {
		t.Error("a payload larger than the limit was accepted")
	}
	if !errors.Is(jobs.Cancel(errors.ErrUnsupported), errors.ErrUnsupported) {
		t.Error("Cancel hides its cause")
	}
}
