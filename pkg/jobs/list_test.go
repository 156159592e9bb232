package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/testkit"
)

// pages reads a list to its end and gives the ids in order.
func pages(t *testing.T, c *jobs.Client, f jobs.Filter) (ids []string) {
	t.Helper()
	for range 1000 {
		found, next, err := c.List(t.Context(), f)
		if err != nil || len(found) > f.Limit {
			t.Fatalf("a page of %d, %v", len(found), err)
		}
		for _, j := range found {
			if slices.Contains(ids, j.ID) {
				t.Errorf("job %s is listed twice", j.ID)
			}
			if f.Tenant != "" && j.Tenant != f.Tenant || f.Status != "" && j.Status != f.Status || f.Queue != "" && j.Queue != f.Queue {
				t.Errorf("%+v is none of %+v", j, f)
			}
			ids = append(ids, j.ID)
		}
		if next == "" {
			return ids
		}
		f.Cursor = next
	}
	t.Fatal("the list has no end")
	return nil
}

// TestListsPageByPage: every job is on one page, where it stands, however large the pages are.
func TestListsPageByPage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	q := queue("worked")
	q.Attempts = 1
	jobs.Handle(c, q, func(_ context.Context, _ jobs.Job, what string) error {
		if what == "fail" {
			return errors.New("no luck")
		}
		return nil
	})
	stop := r.run(c)
	var done, dead, waiting []string
	for n := range 12 {
		id := r.enqueue(c, jobs.Spec{Queue: "worked", Key: fmt.Sprint(n), Tenant: "acme", Payload: ""})
		r.until(c, id, jobs.Done)
		done = append(done, id)
	}
	for range 3 {
		id := r.enqueue(c, jobs.Spec{Queue: "worked", Tenant: "acme", Payload: "fail"})
		r.until(c, id, jobs.Dead)
		dead = append(dead, id)
	}
	foreign := r.enqueue(c, jobs.Spec{Queue: "worked", Tenant: "globex", Payload: ""})
	r.until(c, foreign, jobs.Done)
	testkit.Eventually(t, soon, func() error { // the message goes right after the record
		if n, err := c.Waiting(t.Context(), "worked"); err != nil || n != 0 {
			return fmt.Errorf("%d wait, %w", n, errors.Join(err))
		}
		return nil
	})
	stop()
	// Two that are done come again, under their old ids, and others are new.
	again := done[3:5]
	for n := 3; n < 5; n++ {
		waiting = append(waiting, r.enqueue(c, jobs.Spec{Queue: "worked", Key: fmt.Sprint(n), Tenant: "acme", Payload: ""}))
	}
	if !slices.Equal(waiting, again) {
		t.Fatalf("%v, not %v", waiting, again)
	}
	for n := range 9 {
		waiting = append(waiting, r.enqueue(c, jobs.Spec{Queue: "idle", Key: fmt.Sprint(n), Tenant: "acme", Payload: ""}))
		r.enqueue(c, jobs.Spec{Queue: "idle", Tenant: "globex", Payload: ""})
	}
	done = slices.DeleteFunc(done, func(id string) bool { return slices.Contains(again, id) })
	newest := func(lists ...[]string) []string {
		all := slices.Concat(lists...)
		slices.Reverse(all)
		return all
	}
	for _, limit := range []int{1, 2, 7, 100} {
		for _, one := range []struct {
			f    jobs.Filter
			want []string
		}{
			{jobs.Filter{Tenant: "acme"}, append(newest(waiting), newest(done, dead)...)},
			{jobs.Filter{Tenant: "acme", Status: jobs.Done}, newest(done)},
			{jobs.Filter{Tenant: "acme", Status: jobs.Dead, Queue: "worked"}, newest(dead)},
			{jobs.Filter{Tenant: "acme", Status: jobs.Queued}, newest(waiting)},
			{jobs.Filter{Tenant: "acme", Queue: "idle"}, newest(waiting[2:])},
			{jobs.Filter{Tenant: "globex", Status: jobs.Done}, []string{foreign}},
			{jobs.Filter{Tenant: "nobody"}, nil},
			{jobs.Filter{Tenant: "acme", Status: jobs.Paused}, nil},
		} {
			f := one.f
			f.Limit = limit
			if got := pages(t, c, f); !slices.Equal(got, one.want) {
				t.Errorf("%+v: %v, want %v", f, got, one.want)
			}
		}
	}
	for _, cursor := range []string{"w", "s", "x1", "s0", "w-1", "1", "s99999999999999999999"} {
		if _, _, err := c.List(t.Context(), jobs.Filter{Cursor: cursor}); !errors.Is(err, jobs.ErrCursor) {
			t.Errorf("cursor %s: %v", cursor, err)
		}
	}
}

// TestAPageReadsWhatItNeeds: of many jobs, and of a stream that is mostly holes.
func TestAPageReadsWhatItNeeds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	nc := r.connect()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	const all = 6000
	record := func(n int, status jobs.Status, tenant string) {
		t.Helper()
		id := fmt.Sprintf("00000000-0000-7000-8000-%012d", n)
		data, err := json.Marshal(jobs.Job{ID: id, Queue: "q", Tenant: tenant, Status: status, Sequence: uint64(n), EnqueuedAt: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.PublishMsgAsync(sealed("writ.jobstate.q."+id, data)); err != nil {
			t.Fatal(err)
		}
	}
	settled := func() {
		t.Helper()
		select {
		case <-js.PublishAsyncComplete():
		case <-time.After(soon):
			t.Fatal("the records are not stored")
		}
	}
	for n := range all {
		tenant := "acme"
		if n < 10 {
			tenant = "globex"
		}
		record(n+1, jobs.Running, tenant)
	}
	settled()
	client := r.connect()
	c, err = jobs.Open(t.Context(), client, jobs.Config{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	costs := func(f jobs.Filter, most uint64) (found []jobs.Job, next string) {
		t.Helper()
		before := client.Stats().InMsgs
		found, next, err := c.List(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		if n := client.Stats().InMsgs - before; n > most {
			t.Errorf("%+v read %d messages", f, n)
		}
		return found, next
	}
	found, next := costs(jobs.Filter{Tenant: "acme", Limit: 5}, 600)
	if len(found) != 5 || next == "" || found[0].Sequence != all {
		t.Errorf("%d, %q", len(found), next)
	}
	found, _ = costs(jobs.Filter{Tenant: "acme", Limit: 5, Cursor: next}, 600)
	if len(found) != 5 || found[0].Sequence != all-5 {
		t.Errorf("%+v", found)
	}
	// A tenant whose jobs are the oldest: page after page, none too long.
	var theirs []string
	for f, n := (jobs.Filter{Tenant: "globex"}), 0; ; n++ {
		found, next := costs(f, 24*512+500)
		for _, j := range found {
			theirs = append(theirs, j.ID)
		}
		if f.Cursor = next; next == "" {
			break
		}
		if n > 20 {
			t.Fatal("no end")
		}
	}
	if len(theirs) != 10 {
		t.Errorf("%d of 10", len(theirs))
	}
	// One job is changed again and again: all of the others are far below.
	for range all {
		record(all, jobs.Running, "acme")
	}
	settled()
	found, _ = costs(jobs.Filter{Tenant: "acme", Limit: 20}, 2500)
	if len(found) != 20 || found[0].Sequence != all || found[1].Sequence != all-1 {
		t.Errorf("%+v", found)
	}
}
