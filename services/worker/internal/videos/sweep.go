package videos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind/video"
)

// When files are put away.
const (
	sweepFirst = time.Minute
	sweepEvery = 6 * time.Hour
	// abandoned is after how long without a new part an upload that no command
	// refers to is given up: longer than a session and than a writ live.
	abandoned = 25 * time.Hour
)

// putAway removes what nobody refers to: of one video, or (the sweep, which
// comes back for ever) of all.
func (v *Videos) putAway(ctx context.Context, _ jobs.Job, s subject) error {
	behind, err := v.behind(ctx)
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
		return v.gone(ctx, k, s.Video != "")
	})
	if removed > 0 {
		v.Log.InfoContext(ctx, "files were put away", "files", removed, "video", s.Video)
	}
	if err == nil && s.Video == "" {
		return jobs.Snooze(sweepEvery)
	}
	return err
}

// gone reports whether nobody refers to an upload, or will. asked tells that an
// outcome about its video is the cause.
func (v *Videos) gone(ctx context.Context, k content.Kept, asked bool) (bool, error) {
	old := time.Since(k.Changed) > abandoned
	row, err := v.Store.Get(ctx, video.Kind, k.Resource)
	switch {
	case fault.Is(err, fault.NotFound):
		return asked || old, nil
	case err != nil:
		return false, fmt.Errorf("look for the video of upload %s: %w", k.Upload, err)
	}
	if at := row.Value.(*video.Video); at.ContentID != nil && *at.ContentID == k.Upload {
		return false, nil
	}
	command, err := v.Store.Command(ctx, k.Command)
	switch {
	case fault.Is(err, fault.NotFound): // on its way, or it was never sent
		return old, nil
	case err != nil:
		return false, fmt.Errorf("look for the command of upload %s: %w", k.Upload, err)
	}
	return command.Status.Final(), nil // replaced or refused
}

// behind reports whether the database lacks what was applied before: it was
// restored from an older state and catches up.
func (v *Videos) behind(ctx context.Context) (bool, error) {
	positions, err := v.Store.Positions(ctx)
	if err != nil {
		return false, err
	}
	progress, err := v.Ledger.Progress(ctx)
	if err != nil {
		return false, err
	}
	if len(progress) == 0 {
		return false, errors.New("the ledger has no partitions")
	}
	for p, at := range progress {
		if positions[p] < at.Settled {
			return true, nil
		}
	}
	return false, nil
}
