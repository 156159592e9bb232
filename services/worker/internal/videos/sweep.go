package videos

import (
	"context"
	"fmt"
	"time"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/store"
)

// When files are put away.
const (
	sweepFirst = time.Minute
	sweepEvery = 6 * time.Hour
	// abandoned is after how long without a new part an upload that no command
	// refers to is given up: longer than a session and then a writ live.
	abandoned = 50 * time.Hour
)

// putAway removes what nobody refers to: of one video, or (the sweep, which
// comes back for ever) of all.
func (v *Videos) putAway(ctx context.Context, _ jobs.Job, s subject) error {
	behind, err := v.Ledger.Lacks(ctx, v.Store.Positions)
	if err != nil {
		return err
	}
	if behind { // rows may be missing that are on the ledger
		return jobs.Snooze(time.Minute)
	}
	removed, err := v.Content.Sweep(ctx, func(ctx context.Context, k content.Kept) (bool, error) {
		if s.Video != "" && k.Resource != s.Video {
			return false, nil
		}
		return gone(ctx, v.Store, k, s.Video != "")
	})
	if removed > 0 {
		v.Log.InfoContext(ctx, "files were put away", "files", removed, "video", s.Video)
	}
	if err == nil && s.Video == "" {
		return jobs.Snooze(sweepEvery)
	}
	return err
}

// rows is what is asked whether an upload is referred to.
type rows interface {
	Get(ctx context.Context, k *kind.Definition, id string) (kind.Row, error)
	Command(ctx context.Context, id string) (store.Command, error)
}

// gone reports whether nobody refers to an upload, or will. asked tells that an
// outcome about its video is the cause.
//
// The command is read before the video: one that is over by then has done to the video
// what it does. The other way round it might be applied in between, and what it has just
// referred to would be taken for replaced.
func gone(ctx context.Context, v rows, k content.Kept, asked bool) (bool, error) {
	old := time.Since(k.Changed) > abandoned
	command, commandErr := v.Command(ctx, k.Command)
	row, err := v.Get(ctx, video.Kind, k.Resource)
	switch {
	case fault.Is(err, fault.NotFound):
		return asked || old, nil
	case err != nil:
		return false, fmt.Errorf("look for the video of upload %s: %w", k.Upload, err)
	}
	if at := row.Value.(*video.Video); at.ContentID != nil && *at.ContentID == k.Upload {
		return false, nil
	}
	switch {
	case fault.Is(commandErr, fault.NotFound): // on its way, or it was never sent
		return old, nil
	case commandErr != nil:
		return false, fmt.Errorf("look for the command of upload %s: %w", k.Upload, commandErr)
	}
	return command.Status.Final(), nil // replaced or refused
}
