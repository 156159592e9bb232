package server

import (
	"context"
	"io"
	"net/http"
	"strconv"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind/video"
)

// putRange takes a piece of a file. What has come stays for a day.
func (c *contents) putRange(w http.ResponseWriter, r *http.Request, in *putRequest, body io.Reader) error {
	ctx := context.WithoutCancel(r.Context())
	u, err := c.session(ctx, in)
	if err != nil {
		return err
	}
	if !in.span.asks {
		if in.span.first != u.Size {
			return c.offset(w, u, http.StatusConflict)
		}
		if err := c.receiveRange(ctx, in, u, body); err != nil {
			return err
		}
	}
	if u.Size < u.Total {
		return c.offset(w, u, http.StatusNoContent)
	}
	return c.completeRange(ctx, w, in, u)
}

// session finds the upload that a piece belongs to. A piece that starts at 0
// begins a new one.
func (c *contents) session(ctx context.Context, in *putRequest) (*content.Session, error) {
	who := in.order.caller
	u, err := c.Content.Find(ctx, who.Tenant, who.ID, in.id)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	if err != nil || !in.span.asks && in.span.first == 0 {
		if in.span.asks || in.span.first > 0 {
			return nil, fault.Conflict("no-upload", "no upload of this video is under way: begin at 0")
		}
		id, err := uuid.NewV7()
		if err != nil {
			return nil, err
		}
		return c.Content.Begin(ctx, who.Tenant, who.ID, content.Session{
			Ref: content.Ref{Resource: in.id, Upload: id.String()}, Command: in.order.commandID,
			ContentType: in.contentType, Total: in.span.total, SHA256: in.sha256,
		})
	}
	if u.Total != in.span.total {
		return nil, fault.Conflict("other-upload", "the upload that is under way has %d bytes, not %d: begin at 0", u.Total, in.span.total)
	}
	if in.order.key != "" && in.order.commandID != u.Command {
		return nil, fault.InvalidField("header.Idempotency-Key", "the upload was begun with another key, or with none")
	}
	in.order.commandID = u.Command
	return u, nil
}

// receiveRange takes the bytes of a piece. Whatever ends it, what has come is kept.
func (c *contents) receiveRange(ctx context.Context, in *putRequest, u *content.Session, body io.Reader) error {
	out, err := u.Resume(ctx, func(size int64) {
		c.tell(in.id, progress{Phase: phaseUpload, Done: size, Total: u.Total})
	})
	if err != nil {
		return err
	}
	err = c.receive(out, io.LimitReader(body, in.span.length()))
	flushed := out.Flush()
	if released := u.Release(ctx); flushed == nil {
		flushed = released
	}
	if err == nil {
		err = flushed
	}
	if err == nil && u.Size != in.span.last+1 {
		err = fault.New(fault.Malformed, "cut-short", "the body did not come to its end")
	}
	return err
}

// offset tells how far an upload has got.
func (c *contents) offset(w http.ResponseWriter, u *content.Session, status int) error {
	w.Header().Set("Upload-Offset", strconv.FormatInt(u.Size, 10))
	w.Header().Set("Upload-Complete", "?0")
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return nil
	}
	return fault.Conflict("upload-offset", "the upload has %d bytes: go on there", u.Size)
}

// completeRange submits a file that is complete.
func (c *contents) completeRange(ctx context.Context, w http.ResponseWriter, in *putRequest, u *content.Session) error {
	submitted := u.Submitted // by an earlier request, whose answer may have been lost
	if submitted {
		if done, err := c.submitted(ctx, in, u); done != nil || err != nil {
			return c.answerPut(ctx, w, in, done, err)
		}
	}
	sum, err := u.Digest()
	if err != nil {
		return err
	}
	var done *command
	for _, want := range []string{u.SHA256, in.sha256} {
		if want != "" && want != sum {
			err = fault.New(fault.Invalid, "digest-mismatch", "the file's SHA-256 is %s", sum)
		}
	}
	if err == nil {
		if err := u.Submit(ctx); err != nil {
			return err
		}
		done, err = c.complete(ctx, in, video.Upload{ContentID: u.Ref.Upload, ContentType: u.ContentType, Size: u.Total, SHA256: sum})
	}
	// This request is refused, an earlier one may have been taken; or the session of who
	// sends it has ended meanwhile, and with another it goes on.
	if refused(err) && (submitted || fault.Is(err, fault.Unauthenticated)) {
		return c.answerPut(ctx, w, in, nil, err)
	}
	if refused(err) {
		c.discard(ctx, u.Ref)
	}
	if err == nil || refused(err) {
		if endErr := u.End(ctx); endErr != nil { // it ends by itself after a day
			c.Log.WarnContext(ctx, "an upload's session stays", "upload", u.Ref.Upload, "error", endErr)
		}
	}
	return c.answerPut(ctx, w, in, done, err)
}

// submitted finds what became of an upload that was submitted before; nil if
// that is not known.
func (c *contents) submitted(ctx context.Context, in *putRequest, u *content.Session) (*command, error) {
	ctx, cancel := within(ctx, requestTimeout+in.order.wait)
	defer cancel()
	row, err := c.Store.Command(ctx, u.Command)
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := u.End(ctx); err != nil {
		c.Log.WarnContext(ctx, "an upload's session stays", "upload", u.Ref.Upload, "error", err)
	}
	// The session is this principal's, and so is its command: it need not be the same request.
	return c.same(ctx, in.order, fromRow(row))
}
