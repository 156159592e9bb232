package content

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/writ-project/writ/pkg/fault"
)

// Reader reads an upload, from anywhere in it. It holds one part. It is for one
// goroutine.
type Reader struct {
	store *Store
	ctx   context.Context
	ref   Ref
	size  int64
	at    int64
	buf   []byte // of PartSize
	part  []byte // in buf
	index int    // of part, -1 for none
}

// Open gives a reader of an upload of size bytes. Its first part is read at
// once, so that one that is missing is noticed before anything is said of it:
// fault.NotFound, or fault.Unavailable where the store does not answer.
func (s *Store) Open(ctx context.Context, ref Ref, size int64) (*Reader, error) {
	r := &Reader{store: s, ctx: ctx, ref: ref, size: size, index: -1}
	if size == 0 {
		return r, nil
	}
	return r, r.load(0)
}

// Size is the size of the upload, in bytes.
func (r *Reader) Size() int64 { return r.size }

func (r *Reader) load(index int) error {
	if r.index == index {
		return nil
	}
	r.part, r.index = nil, -1
	if r.buf == nil {
		r.buf = make([]byte, min(PartSize, r.size))
	}
	part, err := r.store.get(r.ctx, r.ref, index, r.buf)
	if err != nil {
		return err
	}
	if want := min(PartSize, r.size-int64(index)*PartSize); int64(len(part)) < want {
		return fault.New(fault.Internal, "content-short", "part %d of upload %s has %d bytes, not %d", index, r.ref.Upload, len(part), want)
	}
	r.part, r.index = part, index
	return nil
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if r.at >= r.size {
		return 0, io.EOF
	}
	if err := r.load(int(r.at / PartSize)); err != nil {
		return 0, err
	}
	n := copy(p, r.part[r.at%PartSize:min(int64(len(r.part)), r.size-int64(r.index)*PartSize)])
	r.at += int64(n)
	return n, nil
}

// Seek implements io.Seeker. It reads nothing.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	case io.SeekStart:
	default:
		return 0, fmt.Errorf("seek: whence %d", whence)
	}
	if offset < 0 {
		return 0, errors.New("seek: before the start")
	}
	r.at = offset
	return offset, nil
}
