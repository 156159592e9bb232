// Package content keeps the bytes of uploads in JetStream's object store.
//
// An upload is a row of parts of PartSize bytes, the last one shorter, and each
// part is an object: <resource>/<upload>/<number>. So an upload that was cut
// goes on where it was, a range reads the parts that it touches, and nobody
// ever holds more than a part.
//
//	PUT ──▶ Writer ──▶ parts in the bucket ◀── Reader ◀── GET, probe
//	          │
//	          └──▶ Session (how far a resumable upload has got)
//
// What is not referred to any more is removed by Remove and Sweep.
package content

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/fault"
)

// Dependency is the store's name in errors.
const Dependency = "content"

const (
	// PartSize is the size of a part, in bytes: what an upload or a download holds
	// in memory.
	PartSize = 2 << 20
	// chunkSize is the size of the messages that a part is made of.
	chunkSize = 512 << 10
	// callTimeout bounds the reading or writing of one part.
	callTimeout = 20 * time.Second
)

// Ref names an upload: the resource that it is for, and its own id.
type Ref struct{ Resource, Upload string }

func (r Ref) part(n int) string { return fmt.Sprintf("%s/%s/%06d", r.Resource, r.Upload, n) }

// commandKey is the metadata of a part that names the command that is to refer to it.
const commandKey = "command"

// put stores a part, in the place of an earlier one of the same number.
func (s *Store) put(ctx context.Context, ref Ref, n int, command string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.objects.Put(ctx, jetstream.ObjectMeta{
		Name: ref.part(n), Metadata: map[string]string{commandKey: command}, Opts: &jetstream.ObjectMetaOptions{ChunkSize: chunkSize},
	}, &reader{data})
	if err != nil {
		return storing(err)
	}
	return nil
}

// storing classifies an error of a write.
func storing(err error) error {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && strings.Contains(api.Description, "maximum bytes") || strings.Contains(err.Error(), "insufficient") {
		f := fault.New(fault.Unavailable, "content-full", "there is no room for more uploads")
		f.RetryAfter, f.Err = time.Minute, err
		return f
	}
	return fault.Unreachable(Dependency, err)
}

// reader is a bytes.Reader that has nothing else: Put reads chunk by chunk.
type reader struct{ rest []byte }

func (r *reader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// get reads a part into buf, which has room for one, and gives what is there;
// fault.NotFound if it is not there.
func (s *Store) get(ctx context.Context, ref Ref, n int, buf []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	object, err := s.objects.Get(ctx, ref.part(n))
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, fault.New(fault.NotFound, "content-missing", "part %d of upload %s is not there", n, ref.Upload)
	}
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	defer object.Close()
	got := 0
	for err == nil && got < len(buf) {
		var m int
		m, err = object.Read(buf[got:])
		got += m
	}
	if err == nil { // full: the end says whether the digest fits
		_, err = object.Read(make([]byte, 1))
	}
	if !errors.Is(err, io.EOF) {
		return nil, fault.Unreachable(Dependency, fmt.Errorf("read part %d of upload %s: %w", n, ref.Upload, err))
	}
	return buf[:got], nil
}

// remove deletes a part without a trace; the object store's own Delete would
// leave a marker for ever. The description goes last: what is cut short is
// found again by Sweep.
func (s *Store) remove(ctx context.Context, info *jetstream.ObjectInfo) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(chunks+info.NUID)); err != nil {
		return fault.Unreachable(Dependency, err)
	}
	if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(metas+base64.URLEncoding.EncodeToString([]byte(info.Name)))); err != nil {
		return fault.Unreachable(Dependency, err)
	}
	return nil
}

// The subjects of the object store (ADR-20 of NATS).
const (
	chunks = "$O." + bucket + ".C."
	metas  = "$O." + bucket + ".M."
)

// Remove deletes an upload. It is no error if it is not there, or only in part.
func (s *Store) Remove(ctx context.Context, ref Ref) error {
	for n := 0; ; n++ {
		info, err := s.info(ctx, ref.part(n))
		if err != nil || info == nil {
			return err
		}
		if err := s.remove(ctx, info); err != nil {
			return err
		}
	}
}

func (s *Store) info(ctx context.Context, name string) (*jetstream.ObjectInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := s.objects.GetInfo(ctx, name)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	return info, nil
}

// Kept is an upload as it stands in the store.
type Kept struct {
	Ref
	Command string    // the command that was to refer to it
	Size    int64     // bytes
	Parts   int       // that are there
	Changed time.Time // when a part was last written
}

// List gives the uploads in the store.
func (s *Store) List(ctx context.Context) ([]Kept, error) {
	all, _, err := s.list(ctx)
	return all, err
}

// list also gives the parts of each upload. It reads the description of every
// part, 300 bytes for 2 MiB of content.
func (s *Store) list(ctx context.Context) ([]Kept, map[Ref][]*jetstream.ObjectInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	infos, err := s.objects.List(ctx)
	if errors.Is(err, jetstream.ErrNoObjectsFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fault.Unreachable(Dependency, err)
	}
	parts := map[Ref][]*jetstream.ObjectInfo{}
	byRef := map[Ref]*Kept{}
	for _, i := range infos {
		ref, ok := refOf(i.Name)
		if !ok {
			continue // not ours
		}
		k := byRef[ref]
		if k == nil {
			k = &Kept{Ref: ref}
			byRef[ref] = k
		}
		parts[ref] = append(parts[ref], i)
		k.Command = i.Metadata[commandKey]
		k.Size += int64(i.Size)
		k.Parts++
		if i.ModTime.After(k.Changed) {
			k.Changed = i.ModTime
		}
	}
	all := make([]Kept, 0, len(byRef))
	for _, k := range byRef {
		all = append(all, *k)
	}
	slices.SortFunc(all, func(a, b Kept) int { return strings.Compare(a.Resource+a.Upload, b.Resource+b.Upload) })
	return all, parts, nil
}

func refOf(name string) (Ref, bool) {
	f := strings.Split(name, "/")
	if len(f) != 3 {
		return Ref{}, false
	}
	_, err := strconv.Atoi(f[2])
	return Ref{f[0], f[1]}, err == nil
}

// orphanAge is how old the chunks of a part must be that was never finished,
// until they count as left behind by a process that died.
const orphanAge = time.Hour

// Sweep removes the uploads that gone reports, at most those that stand there
// now, and chunks that belong to no part. It goes on after an error of gone
// about one upload and returns the errors together.
func (s *Store) Sweep(ctx context.Context, gone func(context.Context, Kept) (bool, error)) (removed int, err error) {
	orphans, err := s.orphans(ctx) // before the list: a part that is finished meanwhile is none
	if err != nil {
		return 0, err
	}
	all, parts, err := s.list(ctx)
	if err != nil {
		return 0, err
	}
	var failed []error
	for _, k := range all {
		is, err := gone(ctx, k)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		for _, i := range parts[k.Ref] {
			delete(orphans, chunks+i.NUID)
			if is {
				if err := s.remove(ctx, i); err != nil {
					return removed, errors.Join(append(failed, err)...)
				}
			}
		}
		if is {
			removed++
		}
	}
	for subject := range orphans {
		if err := s.removeOrphan(ctx, subject); err != nil {
			failed = append(failed, err)
		}
	}
	return removed, errors.Join(failed...)
}

// orphans gives the subjects of all chunks.
func (s *Store) orphans(ctx context.Context) (map[string]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(chunks+">"))
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	if info.State.Subjects == nil {
		return map[string]uint64{}, nil
	}
	return info.State.Subjects, nil
}

func (s *Store) removeOrphan(ctx context.Context, subject string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m, err := s.stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && time.Since(m.Time) < s.orphanAge {
		return nil
	}
	if err == nil {
		err = s.stream.Purge(ctx, jetstream.WithPurgeSubject(subject))
	}
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	return nil
}
