package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind/video"
)

// keepAlive is how often a stream that is silent says that it is there.
const keepAlive = 15 * time.Second

// How a watcher is served.
const (
	watchEvery = time.Second      // the row is looked at
	watchMost  = 30 * time.Minute // then the client connects anew
	// watchAgain is how often it is decided again whether one may go on watching
	// or downloading, where the Config says nothing.
	watchAgain = 30 * time.Second
)

// progress is what is told, without a record, while bytes move.
type progress = content.Progress

const phaseUpload = content.PhaseUpload

// tell tells the watchers of a video.
func (c *contents) tell(id string, p progress) {
	if data, err := json.Marshal(p); err == nil {
		_ = c.Ledger.Notify(content.ProgressSubject(id), data) // nobody may be there
	}
}

// videoStatus is the event status.
type videoStatus struct {
	Status     string  `json:"status"`
	Version    int64   `json:"version"`
	ContentID  *string `json:"content_id,omitempty"`
	Size       *int64  `json:"size,omitempty"`
	DurationMS *int64  `json:"duration_ms,omitempty"`
	Width      *int64  `json:"width,omitempty"`
	Height     *int64  `json:"height,omitempty"`
	Codecs     *string `json:"codecs,omitempty"`
	Failure    *string `json:"failure,omitempty"`
}

func statusOf(v *video.Video) videoStatus {
	return videoStatus{v.Status, v.Version, v.ContentID, v.Size, v.DurationMS, v.Width, v.Height, v.Codecs, v.Failure}
}

// watch tells what becomes of a video's file as server-sent events, until it is
// processed or has failed.
func (c *contents) watch(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	release, err := c.watchers.take(gate.CallerOf(r.Context()).ID)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := brief(r.Context())
	defer cancel()
	who := gate.CallerOf(ctx)
	v, err := c.readable(ctx, who, id)
	if err != nil {
		return err
	}
	moves := make(chan progress, 16)
	unlisten, err := c.Ledger.Listen(content.ProgressSubject(id), func(data []byte) {
		var p progress
		if json.Unmarshal(data, &p) == nil {
			select {
			case moves <- p:
			default: // a slow watcher misses some
			}
		}
	})
	if err != nil {
		return err
	}
	defer unlisten()
	cancel()
	st := newStream(w, false, c.Stopping, streamStop) // it ends by itself, if what it says can be sent
	defer st.close()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // a proxy that gathers would hold the events back
	w.WriteHeader(http.StatusOK)
	c.follow(r.Context(), &eventStream{w: w, stream: st}, who, v, moves)
	return nil
}

// follow sends until the end; an error of the connection is the client's leave.
func (c *contents) follow(ctx context.Context, out *eventStream, who *gate.Caller, v *video.Video, moves <-chan progress) {
	ctx, cancel := within(ctx, watchMost)
	defer cancel()
	look, beat, again := time.NewTicker(watchEvery), time.NewTicker(keepAlive), time.NewTicker(c.again())
	defer look.Stop()
	defer beat.Stop()
	defer again.Stop()
	out.send("status", v.Version, statusOf(v))
	for id := v.ID; out.err == nil; {
		if v.ContentID != nil && !v.Waits() {
			out.send("end", v.Version, map[string]string{"reason": "final"})
			return
		}
		var err error
		seen := v.Version
		select {
		case p := <-moves:
			out.send("progress", 0, p)
			continue
		case <-beat.C:
			out.beat()
			continue
		case <-look.C:
			one, done := brief(ctx)
			row, getErr := c.load(one, who, id)
			done()
			if err = getErr; err == nil {
				v = row.Value.(*video.Video)
			}
		case <-again.C:
			if v, who, err = c.still(ctx, who, id, v); fault.Is(err, fault.Unavailable) { // not known is not allowed
				out.send("end", 0, map[string]string{"reason": "unavailable"})
				return
			}
		case <-c.Stopping:
			out.send("end", 0, map[string]string{"reason": "stopping"})
			return
		case <-ctx.Done():
			out.send("end", 0, map[string]string{"reason": "long"})
			return
		}
		switch {
		case fault.Is(err, fault.Unavailable) && v != nil: // look again
		case err != nil:
			out.send("end", 0, map[string]string{"reason": "gone"})
			return
		case v.Version != seen:
			out.send("status", v.Version, statusOf(v))
		}
	}
}

// again is how often it is decided again about a stream.
func (c *contents) again() time.Duration { return cmp.Or(c.StreamCheck, watchAgain) }

// still decides again whether the watcher may read, as they and the video are now.
func (c *contents) still(ctx context.Context, who *gate.Caller, id string, before *video.Video) (*video.Video, *gate.Caller, error) {
	ctx, cancel := brief(ctx)
	defer cancel()
	now, err := c.gate.Again(ctx, who)
	if err != nil {
		return before, who, err
	}
	v, err := c.readable(ctx, now, id)
	if err != nil {
		return before, now, err
	}
	return v, now, nil
}

// eventStream writes server-sent events (HTML, 9.2).
type eventStream struct {
	w      http.ResponseWriter
	stream *stream
	err    error
}

// send writes one; id 0 means none.
func (e *eventStream) send(name string, id int64, data any) {
	text, err := json.Marshal(data)
	if err != nil {
		e.err = err
		return
	}
	line := ""
	if id > 0 {
		line = fmt.Sprintf("id: %d\n", id)
	}
	e.write(fmt.Sprintf("%sevent: %s\ndata: %s\n\n", line, name, text))
}

// beat keeps the connection.
func (e *eventStream) beat() { e.write(": beat\n\n") }

func (e *eventStream) write(text string) {
	if e.err != nil {
		return
	}
	e.stream.alive()
	if _, e.err = e.w.Write([]byte(text)); e.err == nil {
		e.err = e.stream.rc.Flush()
	}
}
