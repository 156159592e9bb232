package videos

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/services/worker/internal/probe"
)

// tellEvery is after how many bytes the watchers are told.
const tellEvery = 16 << 20

// probe looks at a file and moves the video's status. It may run twice: its
// commands' ids follow from the job, so the second ones change nothing.
func (v *Videos) probe(ctx context.Context, j jobs.Job, s subject) error {
	at, err := v.current(ctx, s)
	if err != nil {
		return err
	}
	if err := v.submit(ctx, j, at, video.Progress{ContentID: s.Content, Status: video.Processing}); err != nil {
		return err
	}
	facts, err := v.look(ctx, at)
	if wrong := (*probe.Broken)(nil); errors.As(err, &wrong) {
		return v.submit(ctx, j, at, failed(s, wrong.Reason))
	}
	if err != nil {
		return err
	}
	return v.submit(ctx, j, at, video.Progress{ContentID: s.Content, Status: video.Processed, Facts: facts})
}

// giveUp says of a video whose probe could not be done that it failed, so that
// nobody waits for ever. The job can be retried by hand.
func (v *Videos) giveUp(ctx context.Context, j jobs.Job, cause error) error {
	var s subject
	if err := json.Unmarshal(j.Payload, &s); err != nil {
		return nil // it never was one of ours
	}
	at, err := v.current(ctx, s)
	if err != nil {
		if fault.Is(err, fault.Unavailable) {
			return err
		}
		return nil // gone or replaced: nobody waits
	}
	v.Log.ErrorContext(ctx, "a video could not be looked at", "video", s.Video, "job", j.ID, "error", cause)
	err = v.submit(ctx, j, at, failed(s, fmt.Sprintf("the file could not be looked at in %d attempts", j.Attempt)))
	if fault.Is(err, fault.Denied) { // the policy does not let the system: that is recorded, and asking again would not help
		return nil
	}
	return err
}

func failed(s subject, reason string) video.Progress {
	if len(reason) > video.MaxFailure {
		reason = reason[:video.MaxFailure]
	}
	reason = strings.ReplaceAll(strings.ToValidUTF8(reason, "?"), "\x00", "")
	return video.Progress{ContentID: s.Content, Status: video.Failed, Failure: reason}
}

// current loads the video if the file is still the one that the job is about.
func (v *Videos) current(ctx context.Context, s subject) (*video.Video, error) {
	row, err := v.Store.Get(ctx, video.Kind, s.Video)
	if fault.Is(err, fault.NotFound) {
		return nil, jobs.Cancel(err)
	}
	if err != nil {
		return nil, err
	}
	at := row.Value.(*video.Video)
	if at.ContentID == nil || *at.ContentID != s.Content {
		return nil, jobs.Cancel(errors.New("the video has another file by now"))
	}
	return at, nil
}

// look reads the whole file once, for its digest, and then what it needs of it.
func (v *Videos) look(ctx context.Context, at *video.Video) (video.Facts, error) {
	size := *at.Size
	file, err := v.Content.Open(ctx, content.Ref{Resource: at.ID, Upload: *at.ContentID}, size)
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Internal) {
		return video.Facts{}, &probe.Broken{Reason: "the file's bytes are not all there"}
	}
	if err != nil {
		return video.Facts{}, err
	}
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, &counted{Videos: v, video: at.ID, file: file}, make([]byte, 256<<10)); err != nil {
		if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Internal) {
			err = &probe.Broken{Reason: "the file's bytes are not all there"}
		}
		return video.Facts{}, err
	}
	if hex.EncodeToString(sum.Sum(nil)) != *at.SHA256 {
		return video.Facts{}, &probe.Broken{Reason: "the bytes that are kept are not the ones that were uploaded"}
	}
	return v.Prober.Probe(ctx, file, size)
}

// counted tells the watchers how far the reading has got.
type counted struct {
	*Videos
	video      string
	file       *content.Reader
	done, told int64
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.file.Read(p)
	if c.done += int64(n); c.done-c.told >= tellEvery || c.done == c.file.Size() && n > 0 {
		c.told = c.done
		if data, err := json.Marshal(content.Progress{Phase: content.PhaseProbe, Done: c.done, Total: c.file.Size()}); err == nil {
			_ = c.Ledger.Notify(content.ProgressSubject(c.video), data) // nobody may be there
		}
	}
	return n, err
}
