package content

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"fmt"
	"hash"
)

// Writer receives an upload. It holds one part. It is for one goroutine.
type Writer struct {
	store   *Store
	ctx     context.Context
	ref     Ref
	command string
	// stored is called after each part that was stored, with the size so far.
	stored func(size int64) error
	// before, if there is one, is called before each part; with an error the part is not stored.
	before func() error

	hash hash.Hash // over what is stored
	size int64     // what is stored, in bytes
	part []byte    // the part that is being filled; its first kept bytes are stored
	kept int
}

// Create begins an upload. command is the id of the command that will refer to
// it. stored may be nil; with an error of its own the upload ends.
func (s *Store) Create(ctx context.Context, ref Ref, command string, stored func(size int64) error) *Writer {
	if stored == nil {
		stored = func(int64) error { return nil }
	}
	return &Writer{store: s, ctx: ctx, ref: ref, command: command, stored: stored, hash: sha256.New(), part: make([]byte, 0, PartSize)}
}

// resume goes on with an upload of which size bytes are stored.
func (s *Store) resume(ctx context.Context, ref Ref, command string, size int64, state []byte, stored func(int64) error) (*Writer, error) {
	w := s.Create(ctx, ref, command, stored)
	if size == 0 {
		return w, nil
	}
	if err := w.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		return nil, fmt.Errorf("read the state of upload %s: %w", ref.Upload, err)
	}
	w.size = size
	if rest := int(size % PartSize); rest > 0 {
		data, err := s.get(ctx, ref, int(size/PartSize), w.part[:PartSize])
		if err != nil {
			return nil, err
		}
		if len(data) < rest {
			return nil, fmt.Errorf("upload %s: its last part has %d bytes, not %d", ref.Upload, len(data), rest)
		}
		w.part, w.kept = data[:rest], rest
	}
	return w, nil
}

// Write takes bytes. An error is the store's, and the upload may be resumed
// from Size.
func (w *Writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		room := min(len(p), PartSize-len(w.part))
		w.part = append(w.part, p[:room]...)
		p = p[room:]
		n += room
		if len(w.part) == PartSize {
			if err := w.Flush(); err != nil {
				return n, err
			}
			w.part, w.kept = w.part[:0], 0
		}
	}
	return n, nil
}

// Flush stores what was written so far.
func (w *Writer) Flush() error {
	if len(w.part) == w.kept {
		return nil
	}
	if w.before != nil {
		if err := w.before(); err != nil {
			return err
		}
	}
	number := int((w.size - int64(w.kept)) / PartSize)
	if err := w.store.put(w.ctx, w.ref, number, w.command, w.part); err != nil {
		return err
	}
	fresh := w.part[w.kept:]
	w.hash.Write(fresh)
	w.size += int64(len(fresh))
	w.kept = len(w.part)
	return w.stored(w.size)
}

// Size is how much is stored, in bytes.
func (w *Writer) Size() int64 { return w.size }

// SHA256 is the digest of what is stored, in hex.
func (w *Writer) SHA256() string { return hex.EncodeToString(w.hash.Sum(nil)) }

func (w *Writer) state() ([]byte, error) { return w.hash.(encoding.BinaryMarshaler).MarshalBinary() }
