package authz

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/writ-project/writ/pkg/kinds"
)

// brokenEdit is the state of a folder that could not be put in force.
type brokenEdit struct {
	revision string // of the broken files; empty when they could not be read
	err      error
}

// How long until a folder is looked at again without an event. One that was
// removed sends none when it comes back; one behind a symbolic link that is
// pointed elsewhere, or on some network file systems, sends none at all.
const (
	retryBroken = time.Second
	lookAgain   = 30 * time.Second
)

// watch starts the goroutine that follows the folder until ctx ends.
func (e *Engine) watch(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", e.dir, err)
	}
	if err := watchTree(w, e.dir); err != nil {
		return errors.Join(err, w.Close())
	}
	e.closed.Go(func() {
		defer func() { _ = w.Close() }() // nothing was written
		e.follow(ctx, w)
	})
	return nil
}

func (e *Engine) follow(ctx context.Context, w *fsnotify.Watcher) {
	// What changed between compiling and watching is found by the first round.
	timer := time.NewTimer(e.options.debounce)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-w.Events:
			if !ok {
				return
			}
			timer.Reset(e.options.debounce) // an editor's save is several events
		case err, ok := <-w.Errors:
			if !ok {
				return
			}
			// Events may be lost (the kernel's queue is bounded): look at everything.
			e.options.log.WarnContext(ctx, "watching policies", slog.String("dir", e.dir), slog.Any("error", err))
			timer.Reset(e.options.debounce)
		case <-timer.C:
			timer.Reset(e.reload(ctx, w))
		}
	}
}

// reload puts the folder's policies in force if they differ and compile. It
// says after how long to look again without an event.
func (e *Engine) reload(ctx context.Context, w *fsnotify.Watcher) time.Duration {
	errWatch := watchTree(w, e.dir) // new folders; known ones are known
	revision, err := Revision(e.dir)
	if err = errors.Join(errWatch, err); err != nil {
		e.fail(ctx, brokenEdit{err: err})
		return retryBroken
	}
	broken := e.broken.Load()
	switch {
	case revision == e.Revision():
		if e.broken.Swap(nil) != nil {
			e.options.log.InfoContext(ctx, "policies are as before", slog.String("revision", revision))
			e.options.onReload(revision, nil)
		}
		return lookAgain
	case broken != nil && broken.revision == revision:
		return lookAgain
	}
	s, err := compileDir(ctx, e.dir)
	if ctx.Err() != nil {
		return lookAgain
	}
	if err != nil {
		e.fail(ctx, brokenEdit{revision: revision, err: err})
		return lookAgain
	}
	before := e.current.Swap(s)
	e.broken.Store(nil)
	e.warn(ctx, s)
	e.options.log.InfoContext(ctx, "policies reloaded", slog.String("revision", s.revision), slog.String("before", before.revision))
	e.options.onReload(s.revision, nil)
	return lookAgain
}

// warn names the kinds whose lists the policies in force cannot filter.
func (e *Engine) warn(ctx context.Context, s *snapshot) {
	for _, f := range s.unlistable(ctx, kinds.All) {
		e.options.log.WarnContext(ctx, "lists of a kind will be answered with an error: its policy cannot become an SQL condition",
			slog.String("kind", f.Where), slog.String("revision", s.revision), slog.String("why", f.Message))
	}
}

// fail keeps the last good policies and says so, once per broken state.
func (e *Engine) fail(ctx context.Context, b brokenEdit) {
	if before := e.broken.Swap(&b); before != nil && before.revision == b.revision && before.err.Error() == b.err.Error() {
		return
	}
	e.options.log.WarnContext(ctx, "policies are broken, the last good ones stay in force",
		slog.String("dir", e.dir), slog.String("revision", e.Revision()), slog.Any("error", b.err))
	e.options.onReload(e.Revision(), b.err)
}

// watchTree watches a folder and all below it: inotify sees one level only.
func watchTree(w *fsnotify.Watcher, dir string) error {
	dir, err := filepath.EvalSymlinks(dir) // WalkDir does not follow one
	if err != nil {
		return fmt.Errorf("watch policies: %w", err)
	}
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if path != dir && errors.Is(err, fs.ErrNotExist) {
				return nil // removed while we looked; that is an event too
			}
			return fmt.Errorf("watch policies: %w", err)
		}
		if !entry.IsDir() {
			return nil
		}
		if err := w.Add(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("watch policies in %s: %w", path, err)
		}
		return nil
	})
}
