package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestLanesComeAndGo: queues of one sort beside each other, run and stopped by themselves, and taken away with all that
// waited on one.
func TestLanesComeAndGo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	ctx := t.Context()
	done := make(chan string, 8)
	run := func(queueName string) (stop func()) {
		apart := c.Apart()
		jobs.Handle(apart, queue(queueName), func(_ context.Context, j jobs.Job, what string) error {
			if what == "enough" {
				return jobs.Exhaust(errors.New("tried enough"))
			}
			done <- j.Queue + " " + what
			return nil
		})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = apart.Run(ctx) }()
		return func() { cancel(); <-ended }
	}
	put := func(q, what string) string {
		t.Helper()
		id, _, err := c.Enqueue(ctx, jobs.Spec{Queue: q, Payload: what})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	stopA, stopB := run("lane--a"), run("lane--b")
	defer stopB()
	put("lane--a", "1")
	if got := <-done; got != "lane--a 1" {
		t.Error(got)
	}
	// One attempt of three, and a dead letter.
	id := put("lane--a", "enough")
	testkit.Eventually(t, soon, func() error {
		j, err := c.Show(ctx, id)
		if err != nil || j.Status != jobs.Dead || j.Attempt != 1 {
			return fmt.Errorf("%+v %w", j, errors.Join(err))
		}
		return nil
	})
	stopA()
	put("lane--a", "2")
	put("lane--a", "3")
	if n, err := c.Waiting(ctx, "lane--a"); err != nil || n != 2 {
		t.Errorf("%d wait, %v", n, err)
	}
	if taken, all, err := c.Room(ctx); err != nil || taken != 2 || all < 1000 {
		t.Errorf("%d of %d, %v", taken, all, err)
	}
	put("lane--b", "4")
	if got := <-done; got != "lane--b 4" {
		t.Error(got)
	}
	for range 2 {
		if err := c.Drop(ctx, "lane--a"); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := c.Waiting(ctx, "lane--a"); err != nil || n != 0 {
		t.Errorf("%d wait, %v", n, err)
	}
	if found, _, err := c.List(ctx, jobs.Filter{Queue: "lane--a"}); err != nil || len(found) != 0 {
		t.Errorf("%+v %v", found, err)
	}
	if err := c.Drop(ctx, "lane.*"); err == nil {
		t.Error("a queue that cannot be")
	}
}
