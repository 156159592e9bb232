package content

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/fault"
)

// leaseTime is how long a request that stores nothing holds a session; then
// another may go on with it. It is longer than the writing of a part may take, and is
// renewed before each: whoever lost it writes no part over another's.
const leaseTime = callTimeout + 10*time.Second

// Session is a resumable upload: one for each resource and principal.
type Session struct {
	Ref         Ref       `json:"ref"`
	Command     string    `json:"command"` // that is to refer to it
	ContentType string    `json:"content_type"`
	Total       int64     `json:"total"` // bytes, when it is complete
	Size        int64     `json:"size"`  // bytes that are stored
	SHA256      string    `json:"sha256,omitempty"`
	Hash        []byte    `json:"hash,omitempty"` // state over what is stored
	Holder      string    `json:"holder,omitempty"`
	Until       time.Time `json:"until,omitzero"` // of the lease
	// Submitted says that the command may be on the ledger: the parts are its.
	Submitted bool `json:"submitted,omitempty"`

	store    *Store
	key      string
	revision uint64
	taken    bool // by this request
}

func sessionKey(tenant, principal, resource string) string {
	sum := sha256.Sum256([]byte(tenant + "\x00" + principal + "\x00" + resource))
	return hex.EncodeToString(sum[:])
}

// errTaken means that another request goes on with the upload.
func errTaken() error {
	e := fault.Conflict("upload-in-progress", "another request is sending this upload")
	e.RetryAfter = leaseTime
	return e
}

// Find gives the session of a principal for a resource; fault.NotFound if there is none.
func (s *Store) Find(ctx context.Context, tenant, principal, resource string) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key := sessionKey(tenant, principal, resource)
	e, err := s.sessions.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, fault.New(fault.NotFound, "no-upload", "no upload is under way")
	}
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	u := &Session{store: s, key: key, revision: e.Revision()}
	if err := json.Unmarshal(e.Value(), u); err != nil {
		return nil, fault.New(fault.Internal, "upload", "read an upload's session: %v", err)
	}
	return u, nil
}

// Begin begins a session in the place of the one before, whose parts are
// removed, and takes it.
func (s *Store) Begin(ctx context.Context, tenant, principal string, u Session) (*Session, error) {
	before, err := s.Find(ctx, tenant, principal, u.Ref.Resource)
	u.store, u.key, u.revision = s, sessionKey(tenant, principal, u.Ref.Resource), 0
	switch {
	case err == nil:
		if before.held() {
			return nil, errTaken()
		}
		u.revision = before.revision
	case !fault.Is(err, fault.NotFound):
		return nil, err
	}
	if err := u.take(ctx); err != nil {
		return nil, err
	}
	if before != nil && !before.Submitted && before.Size < before.Total { // else they may be the command's
		_ = s.Remove(context.WithoutCancel(ctx), before.Ref) // else Sweep does it
	}
	return &u, nil
}

// Resume takes the session, so that no other request writes to it, and gives a
// writer that goes on where it is.
func (u *Session) Resume(ctx context.Context, stored func(size int64)) (*Writer, error) {
	if !u.taken {
		if u.held() {
			return nil, errTaken()
		}
		if err := u.take(ctx); err != nil {
			return nil, err
		}
	}
	var w *Writer
	w, err := u.store.resume(ctx, u.Ref, u.Command, u.Size, u.Hash, func(size int64) error {
		state, err := w.state()
		if err != nil {
			return err
		}
		u.Size, u.Hash, u.Until = size, state, time.Now().Add(leaseTime)
		if err := u.save(ctx); err != nil {
			return err
		}
		stored(size)
		return nil
	})
	if err == nil {
		w.before = func() error {
			u.Until = time.Now().Add(leaseTime)
			return u.save(ctx)
		}
	}
	return w, err
}

// Submit says that the command is now put on the ledger: from here on nobody
// else than Sweep removes the parts. A conflict if another request was faster.
func (u *Session) Submit(ctx context.Context) error {
	u.Submitted = true
	return u.save(ctx)
}

// Release lets another request go on with the session.
func (u *Session) Release(ctx context.Context) error {
	u.Holder, u.Until = "", time.Time{}
	return u.save(ctx)
}

// End forgets the session; its parts stay.
func (u *Session) End(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := u.store.sessions.Purge(ctx, u.key, jetstream.LastRevision(u.revision)); err != nil && !changed(err) {
		return fault.Unreachable(Dependency, err)
	}
	return nil
}

func (u *Session) held() bool { return u.Holder != "" && time.Now().Before(u.Until) }

func (u *Session) take(ctx context.Context) error {
	u.Holder, u.Until = uuid.NewString(), time.Now().Add(leaseTime)
	if err := u.save(ctx); err != nil {
		return err
	}
	u.taken = true
	return nil
}

// save writes the session over the one that was read; a conflict if another
// request was faster.
func (u *Session) save(ctx context.Context) error {
	data, err := json.Marshal(u)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var revision uint64
	if u.revision == 0 {
		revision, err = u.store.sessions.Create(ctx, u.key, data)
	} else {
		revision, err = u.store.sessions.Update(ctx, u.key, data, u.revision)
	}
	if changed(err) {
		return errTaken()
	}
	if err != nil {
		return storing(err)
	}
	u.revision = revision
	return nil
}

func changed(err error) bool {
	if errors.Is(err, jetstream.ErrKeyExists) {
		return true
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// Digest is the SHA-256 of what is stored, in hex.
func (u *Session) Digest() (string, error) {
	h := sha256.New()
	if u.Size > 0 {
		if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(u.Hash); err != nil {
			return "", fault.New(fault.Internal, "upload", "read the state of upload %s: %v", u.Ref.Upload, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
