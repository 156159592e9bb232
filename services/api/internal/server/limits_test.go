package server

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/limit"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestWhileTheBacklogIsFullNoCommandIsTaken: reads go on.
func TestWhileTheBacklogIsFullNoCommandIsTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	waiting := make(chan uint64, 1)
	r.backlog = limit.NewBacklog(10, func(ctx context.Context) (uint64, error) {
		select {
		case n := <-waiting:
			return n, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.backlog.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	api := r.api()
	sam, token := r.person("sam", "user")
	mine := r.contact(sam)

	waiting <- 11
	testkit.Eventually(t, soon, func() error {
		if err := r.backlog.Check(); err == nil {
			return context.DeadlineExceeded
		}
		return nil
	})
	before := need(r.ledger.Last(t.Context()))(t)
	for _, a := range []answer{
		r.do("POST", api+"/v1/contacts", token, `{"first_name":"a"}`),
		r.do("PATCH", api+"/v1/contacts/"+mine, token, `{"notes":"a"}`),
		r.do("DELETE", api+"/v1/contacts/"+mine, token, ""),
	} {
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "backlog-full") {
			t.Errorf("%d %v %s", a.status, a.header, a.body)
		}
	}
	if now := need(r.ledger.Last(t.Context()))(t); now != before {
		t.Errorf("%d messages for commands that were refused", now-before)
	}
	if a := r.do("GET", api+"/v1/contacts/"+mine, token, ""); a.status != http.StatusOK {
		t.Errorf("a read: %d %s", a.status, a.body)
	}
	waiting <- 10
	testkit.Eventually(t, 10*time.Second, r.backlog.Check)
	if a := r.do("POST", api+"/v1/contacts", token, `{"first_name":"a"}`); a.status != http.StatusAccepted {
		t.Errorf("with room again: %d %s", a.status, a.body)
	}
}

// TestWhileTheQueueForStytchIsFullNoCommandForItIsTaken: everybody else's commands are.
func TestWhileTheQueueForStytchIsFullNoCommandForItIsTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.queue = limit.NewBacklog(2, r.store.Waiting)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.queue.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	api := r.api()
	_, boss := r.person("boss", "admin")
	zoe, token := r.person("zoe", "user")
	must(t, r.store.Update(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return tx.Enqueue(ctx, []store.Queued{{Sequence: 1, CommandID: "a", Lane: "u1"}, {Sequence: 2, CommandID: "b", Lane: "u1"}, {Sequence: 3, CommandID: "c", Lane: "u2"}})
	}))
	testkit.Eventually(t, soon, func() error {
		if err := r.queue.Check(); err == nil {
			return context.DeadlineExceeded
		}
		return nil
	})
	before := need(r.ledger.Last(t.Context()))(t)
	for _, a := range []answer{
		r.do("PUT", api+"/v1/users/"+zoe+"/roles", boss, `{"roles":["manager"]}`),
		r.do("POST", api+"/v1/users", boss, `{"email":"new@example.com"}`),
		r.do("DELETE", api+"/v1/users/"+zoe, boss, ""),
	} {
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "backlog-full") {
			t.Errorf("%d %v %s", a.status, a.header, a.body)
		}
	}
	if now := need(r.ledger.Last(t.Context()))(t); now != before {
		t.Errorf("%d messages for commands that were refused", now-before)
	}
	if a := r.do("POST", api+"/v1/contacts", token, `{"first_name":"a"}`); a.status != http.StatusAccepted {
		t.Errorf("a contact: %d %s", a.status, a.body)
	}
	must(t, r.store.Update(t.Context(), func(ctx context.Context, tx *store.Tx) error { return tx.Dequeue(ctx, 2) }))
	testkit.Eventually(t, soon, r.queue.Check)
	if a := r.do("PUT", api+"/v1/users/"+zoe+"/roles", boss, `{"roles":["manager"]}`); a.status != http.StatusAccepted {
		t.Errorf("with room again: %d %s", a.status, a.body)
	}
}
