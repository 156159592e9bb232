// Package videos is what the worker does about the files of videos, in jobs: it
// looks at a file that was uploaded, and puts away what nobody refers to.
//
//	LEDGER writ.outcome.> ──▶ follow ──▶ JOBS probe ──▶ content store, Probe
//	                                  │           └──▶ LEDGER: process, by the system
//	                                  └──────▶ JOBS content ──▶ content store: removed
//
// A job is put on its queue for an outcome on the ledger, by a durable consumer: an
// outcome is there once the upload is in SQL, and stays until its job is on the
// queue. So whatever is killed in between, the job comes.
package videos

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/services/worker/internal/probe"
)

// The queues.
const (
	QueueProbe   = "probe"   // looks at files
	QueueContent = "content" // puts files away
)

// consumer is the durable consumer on the ledger.
const consumer = "worker-videos"

// Config is what Videos works with.
type Config struct {
	Ledger  *ledger.Ledger
	Store   *store.Store
	Authz   authz.Authorizer
	Keys    *events.Keyring
	Content *content.Store
	Jobs    *jobs.Client
	Prober  probe.Prober
	Log     *slog.Logger
}

// Videos looks after the files of videos.
type Videos struct{ Config }

// subject is the payload of the jobs.
type subject struct {
	Video string `json:"video"`
	// Content is the upload; "" for a job about all of the video's.
	Content string `json:"content,omitempty"`
}

// New registers the jobs' handlers.
func New(cfg Config) *Videos {
	v := &Videos{cfg}
	jobs.Handle(cfg.Jobs, jobs.Queue{
		Name: QueueProbe, Attempts: 10, Timeout: 10 * time.Minute, Concurrency: 2,
		Backoff: time.Second, MaxBackoff: 2 * time.Minute, Exhausted: v.giveUp,
	}, v.probe)
	// One at a time and no more than one a second: each reads the list of all files.
	jobs.Handle(cfg.Jobs, jobs.Queue{Name: QueueContent, Attempts: 20, Timeout: 10 * time.Minute, MaxBackoff: 10 * time.Minute, Rate: 1, Burst: 10}, v.putAway)
	return v
}

// Run turns outcomes into jobs until ctx ends.
func (v *Videos) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return v.Ledger.Consume(ctx, consumer, []string{events.AllOutcomes}, v.follow)
	})
	g.Go(func() error { return v.begin(ctx) })
	return g.Wait()
}

// begin makes sure that the recurring sweep is there, now and then: its job may
// be cancelled, or be refused when the key that it was sealed with is gone.
func (v *Videos) begin(ctx context.Context) error {
	for wait := time.Second; ctx.Err() == nil; {
		_, _, err := v.Jobs.Enqueue(ctx, jobs.Spec{
			Queue: QueueContent, Key: "sweep", Tenant: user.DefaultTenant, Payload: subject{}, NotBefore: time.Now().Add(sweepFirst),
		})
		pause := sweepEvery
		if err != nil {
			pause, wait = wait, min(2*wait, time.Minute)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil
}

// concerns reports whether files may have changed hands: a video's upload that
// ended, or a video that was deleted.
func concerns(o *events.Outcome) bool {
	return o.Kind == video.Kind.Name && (o.Action == video.ActionUpload || o.Action == kind.ActionDelete && o.Status == events.StatusApplied)
}

// follow puts the jobs of one outcome on their queues.
func (v *Videos) follow(ctx context.Context, r ledger.Record) error {
	var e events.Event
	if err := events.Skim(&e, r.Data); err != nil || !concerns(&e.Outcome) {
		return nil // others' outcomes are most of them; the auditor makes a dead letter of what cannot be read
	}
	if err := e.Verify(v.Keys, r.Subject); err != nil {
		v.Log.WarnContext(ctx, "an outcome is not believed", "address", r.Address, "error", err)
		return nil // the auditor makes a dead letter of it
	}
	o := &e.Outcome
	if o.Action == video.ActionUpload && o.Status == events.StatusApplied {
		row, err := v.Store.Get(ctx, video.Kind, o.ResourceID)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		if err == nil {
			if err := v.enqueueProbe(ctx, row.Value.(*video.Video)); err != nil {
				return err
			}
		}
	}
	// What was there before, or was refused, or belonged to what is deleted.
	return v.enqueuePutAway(ctx, o)
}

// enqueuePutAway puts the job on the queue that removes a video's files that
// nobody refers to: one for all outcomes that come before it begins. One that has
// begun may have looked before this outcome, so then there is another.
func (v *Videos) enqueuePutAway(ctx context.Context, o *events.Outcome) error {
	spec := jobs.Spec{Queue: QueueContent, Key: "video/" + o.ResourceID, Tenant: o.Tenant, Payload: subject{Video: o.ResourceID}}
	id, added, err := v.Jobs.Enqueue(ctx, spec)
	if err == nil && !added {
		var at jobs.Job
		at, err = v.Jobs.Show(ctx, id)
		switch {
		case err == nil && (at.Status == jobs.Running || at.Status.Final()), fault.Is(err, fault.NotFound):
			spec.Key += "/" + o.CommandID
			_, _, err = v.Jobs.Enqueue(ctx, spec)
		}
	}
	if err != nil {
		return fmt.Errorf("enqueue the putting away of files of video %s: %w", o.ResourceID, err)
	}
	return nil
}

// enqueueProbe puts the probe of a file that waits for it on the queue: one for
// each upload.
func (v *Videos) enqueueProbe(ctx context.Context, at *video.Video) error {
	if !at.Waits() {
		return nil // an outcome that is told again
	}
	_, _, err := v.Jobs.Enqueue(ctx, jobs.Spec{
		Queue: QueueProbe, Key: *at.ContentID, Tenant: at.Tenant, Payload: subject{Video: at.ID, Content: *at.ContentID},
	})
	if err != nil {
		return fmt.Errorf("enqueue the probe of video %s: %w", at.ID, err)
	}
	return nil
}
