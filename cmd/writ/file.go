package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// writeWhole writes a file, whole or not at all: a regular file, or the one that links lead to, is replaced at once when
// everything is written, and keeps its mode; a new one is its owner's alone (0600). What is no regular file, a device, a
// FIFO or this process's own output, is written through.
func writeWhole(ctx context.Context, path string, from io.Reader) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return replace(path, 0o600, from)
	case err != nil:
		return err
	}
	for _, own := range []*os.File{os.Stdout, os.Stderr} { // /dev/stdout, wherever the shell sends it
		if at, err := own.Stat(); err == nil && os.SameFile(info, at) {
			return through(path, own, from)
		}
	}
	if info.Mode().IsRegular() {
		return replace(path, info.Mode().Perm(), from)
	}
	f, err := openThrough(ctx, path)
	if err != nil {
		return err
	}
	return errors.Join(through(path, f, from), f.Close())
}

func through(path string, to io.Writer, from io.Reader) error {
	if _, err := io.Copy(to, from); err != nil {
		return fmt.Errorf("%s is not complete: %w", path, err)
	}
	return nil
}

// openThrough opens what is no regular file. A FIFO opens when somebody reads it, so it is not waited for longer than ctx.
func openThrough(ctx context.Context, path string) (*os.File, error) {
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		return o.f, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: nobody reads it: %w", path, ctx.Err())
	}
}

// replace gives a file its content at once.
func replace(path string, mode fs.FileMode, from io.Reader) (err error) {
	path, err = followed(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".writ-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // what is there is no whole file
			err = fmt.Errorf("%s is not complete and not kept: %w", path, err)
		}
	}()
	_, err = io.Copy(f, from)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// maxLinks is how many links lead to a file at most, as in Linux.
const maxLinks = 40

// followed is the file that links lead to, which need not exist yet.
func followed(path string) (string, error) {
	for range maxLinks {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, filepath.Base(path))
		link, err := os.Readlink(path)
		if err != nil { // it is none, or nothing is there
			return path, nil
		}
		if !filepath.IsAbs(link) {
			link = dir + string(filepath.Separator) + link
		}
		path = link
	}
	return "", fmt.Errorf("%s: too many links", path)
}
