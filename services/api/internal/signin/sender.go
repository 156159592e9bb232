package signin

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
)

const (
	maxMailings  = 256              // that wait; then 503
	mailers      = 8                // at once
	mailAttempts = 3                // of a link while Stytch does not take it
	mailTime     = 30 * time.Second // for all attempts
	closeTime    = time.Second      // for what is queued when the service stops
)

// mailing is a link to be sent.
type mailing struct{ email, challenge string }

// sender has Stytch mail links after their requests were answered, so that the
// answer's time tells nothing of the address. A link that is lost with the
// process is asked for again: nothing was promised but that one is on its way.
type sender struct {
	send   func(context.Context, mailing) error
	log    *slog.Logger
	links  metric.Int64Counter
	waits  chan mailing
	stop   context.CancelFunc
	closed chan struct{}
	once   sync.Once
	done   sync.WaitGroup
	pause  time.Duration // after the first attempt
}

func newSender(meter metric.Meter, log *slog.Logger, send func(context.Context, mailing) error) (*sender, error) {
	ctx, stop := context.WithCancel(context.Background())
	s := &sender{send: send, log: log, waits: make(chan mailing, maxMailings), stop: stop, closed: make(chan struct{}), pause: time.Second}
	var err error
	if s.links, err = meter.Int64Counter("writ.signin.links", metric.WithUnit("{link}"),
		metric.WithDescription("Sign-in links by result: sent, refused by Stytch, or lost")); err != nil {
		stop()
		return nil, err
	}
	for range mailers {
		s.done.Go(func() { s.work(ctx) })
	}
	return s, nil
}

// queue takes a mailing. The error is fault.Unavailable.
func (s *sender) queue(m mailing) error {
	select {
	case <-s.closed:
		return fault.Unreachable("stytch", errors.New("the service stops"))
	default:
	}
	select {
	case s.waits <- m:
		return nil
	default:
		return fault.Unreachable("stytch", errors.New("too many sign-in links wait to be sent"))
	}
}

func (s *sender) work(ctx context.Context) {
	for {
		select {
		case m := <-s.waits:
			s.mail(ctx, m)
			continue
		default:
		}
		select {
		case m := <-s.waits:
			s.mail(ctx, m)
		case <-s.closed: // and nothing waits
			return
		case <-ctx.Done():
			return
		}
	}
}

// mail sends a link. Stytch may have mailed it all the same when it does not
// answer: then it is mailed twice, and both work.
func (s *sender) mail(ctx context.Context, m mailing) {
	ctx, cancel := context.WithTimeout(ctx, mailTime)
	defer cancel()
	pause := s.pause
	for attempt := 1; ; attempt++ {
		err := s.send(ctx, m)
		if err == nil {
			s.count(ctx, "sent")
			return
		}
		if !identity.Temporary(err) {
			s.count(ctx, "refused")
			s.log.WarnContext(ctx, "sign-in link refused", "error", err)
			return
		}
		if f, ok := errors.AsType[*fault.Error](err); ok {
			pause = max(pause, f.RetryAfter)
		}
		if attempt == mailAttempts || !sleep(ctx, pause) {
			s.count(ctx, "lost")
			s.log.WarnContext(ctx, "sign-in link not sent", "attempts", attempt, "error", err)
			return
		}
		pause *= 4
	}
}

func (s *sender) count(ctx context.Context, result string) {
	s.links.Add(ctx, 1, metric.WithAttributes(attribute.String("result", result)))
}

// sleep reports whether the time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// close waits until what is queued was sent, but no longer than closeTime.
func (s *sender) close() {
	s.once.Do(func() {
		close(s.closed)
		t := time.AfterFunc(closeTime, s.stop)
		s.done.Wait()
		t.Stop()
		s.stop()
	})
}
