package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/request"
)

// putRequest is a PUT of a video's file.
type putRequest struct {
	id          string
	contentType string
	sha256      string // hex, "" for not given
	length      int64  // of the body, -1 for unknown
	ranged      bool
	span        contentRange
	conditions  request.Conditions
	order       *order
}

// readPut reads the headers and refuses what cannot become an upload.
func (c *contents) readPut(r *http.Request) (*putRequest, error) {
	in := &putRequest{length: r.ContentLength}
	var err error
	if in.id, err = pathID(r); err != nil {
		return nil, err
	}
	if in.contentType, err = mediaType(r.Header.Get("Content-Type")); err != nil {
		return nil, err
	}
	if in.sha256, err = sha256Digest("Repr-Digest", request.FieldLines(r.Context(), "Repr-Digest")); err != nil {
		return nil, err
	}
	part, err := sha256Digest("Content-Digest", request.FieldLines(r.Context(), "Content-Digest"))
	if err != nil {
		return nil, err
	}
	total := strconv.FormatInt(in.length, 10)
	if v := r.Header.Get("Content-Range"); v != "" {
		in.ranged = true
		if in.span, err = parseContentRange(v); err != nil {
			return nil, err
		}
		if part != "" {
			return nil, fault.InvalidField("header.Content-Digest", "with Content-Range send Repr-Digest, of the whole file")
		}
		if in.length >= 0 && in.length != in.span.length() {
			return nil, fault.InvalidField("header.Content-Range", "it names %d bytes, the body has %d", in.span.length(), in.length)
		}
		total = strconv.FormatInt(in.span.total, 10)
	} else if part != "" { // the message is the whole file
		if in.sha256 != "" && in.sha256 != part {
			return nil, fault.InvalidField("header.Content-Digest", "it is not Repr-Digest's")
		}
		in.sha256 = part
	}
	if max(in.length, in.span.total) > c.MaxUpload {
		return nil, c.tooLarge()
	}
	if in.conditions, err = request.ReadConditions(r.Header); err != nil {
		return nil, err
	}
	in.order, err = newOrder(r.Context(), MutationHeaders{SubmitHeaders: SubmitHeaders{
		Prefer: r.Header.Get("Prefer"), IdempotencyKey: r.Header.Get("Idempotency-Key"),
	}}, video.ActionUpload, c.def.Name, in.id, total)
	return in, err
}

func (c *contents) tooLarge() error {
	return fault.New(fault.TooLarge, "too-large", "a file has at most %d bytes (WRIT_MAX_UPLOAD)", c.MaxUpload)
}

// put takes a video's file, whole or (Content-Range) in pieces that can be
// sent on later.
//
// Nothing is read from the body before the policy has allowed it and the ledger
// has that decision. When the file is complete it is decided again, as things
// stand then, and that decision goes on the ledger with the command.
func (c *contents) put(w http.ResponseWriter, r *http.Request) error {
	in, err := c.readPut(r)
	if err != nil {
		return err
	}
	release, err := c.uploads.take(in.order.caller.ID)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := brief(r.Context())
	defer cancel()
	if done, err := c.earlier(ctx, in.order); done != nil || err != nil {
		return c.answerPut(ctx, w, in, done, err)
	}
	if err := c.mayUpload(ctx, in); err != nil {
		return err
	}
	cancel()
	st := newStream(w, true, c.Stopping, 0)
	defer st.close()
	st.alive()
	body := &paced{stream: st, r: r.Body}
	take := c.putWhole
	if in.ranged {
		take = c.putRange
	}
	err = take(w, r, in, body)
	if st.stopped.Load() && fault.Is(err, fault.Malformed) { // it was cut here, not by the client
		err = fault.Unreachable("api", err)
	}
	return err
}

// mayUpload decides about the bytes and records that.
func (c *contents) mayUpload(ctx context.Context, in *putRequest) error {
	who := gate.CallerOf(ctx)
	row, err := c.load(ctx, who, in.id)
	if err != nil {
		return err
	}
	all, err := c.decide(ctx, who, events.Resource{Kind: c.def.Name, ID: in.id, Version: row.Version, Attr: c.def.Attrs(row)}, video.ActionUpload, kind.ActionRead)
	if err != nil {
		return err
	}
	if err := c.record(ctx, all[0]); err != nil {
		return err
	}
	_, unmet := judgedFile(in.conditions, row)
	switch {
	case all[0].Effect == events.Allow && unmet:
		return stale(c.def, row)
	case all[0].Effect == events.Allow:
		return nil
	case all[1].Effect == events.Allow:
		return denied(all[0])
	}
	return fault.Missing(c.def.Name, in.id)
}

// putWhole takes a file that comes in one request. If it does not come to its
// end nothing of it is kept.
func (c *contents) putWhole(w http.ResponseWriter, r *http.Request, in *putRequest, body io.Reader) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	at := content.Ref{Resource: in.id, Upload: id.String()}
	ctx := context.WithoutCancel(r.Context()) // what was begun is put away when the client is gone
	out := c.Content.Create(ctx, at, in.order.commandID, func(size int64) error {
		c.tell(in.id, progress{Phase: phaseUpload, Done: size, Total: max(in.length, 0)})
		return nil
	})
	err = c.receive(out, io.LimitReader(body, c.MaxUpload+1))
	if err == nil {
		err = out.Flush()
	}
	switch {
	case err != nil:
	case out.Size() > c.MaxUpload:
		err = c.tooLarge()
	case in.sha256 != "" && in.sha256 != out.SHA256():
		err = fault.New(fault.Invalid, "digest-mismatch", "the file's SHA-256 is %s", out.SHA256())
	}
	if err != nil {
		c.discard(ctx, at)
		return err
	}
	done, err := c.complete(ctx, in, video.Upload{ContentID: at.Upload, ContentType: in.contentType, Size: out.Size(), SHA256: out.SHA256()})
	if refused(err) {
		c.discard(ctx, at)
	}
	return c.answerPut(ctx, w, in, done, err)
}

// refused reports whether a command is certainly not on the ledger. After an
// outage it may be: what it refers to stays, and is swept away if it is not.
func refused(err error) bool { return err != nil && !fault.Is(err, fault.Unavailable) }

func (c *contents) discard(ctx context.Context, at content.Ref) {
	if err := c.Content.Remove(ctx, at); err != nil {
		c.Log.WarnContext(ctx, "an upload that came to nothing stays until it is swept away", "upload", at.Upload, "error", err)
	}
}

// receive moves the body into the store. What the store reports comes as it
// is; a body that ends early is the client's.
func (c *contents) receive(out *content.Writer, body io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, err := out.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			e := fault.New(fault.Malformed, "cut-short", "the body did not come to its end, or too slowly: at least 64 KiB in 30 s")
			e.Err = err
			return e
		}
	}
}

// complete decides about the file with everything as it is now and puts the
// command on the ledger.
func (c *contents) complete(ctx context.Context, in *putRequest, u video.Upload) (*command, error) {
	body, err := json.Marshal(u)
	if err != nil {
		return nil, err
	}
	// An upload may take long. Who sends it and what they may do is looked up again.
	ctx, cancel := within(ctx, requestTimeout+in.order.wait)
	defer cancel()
	who, err := c.gate.Again(ctx, in.order.caller)
	if err != nil {
		return nil, err
	}
	in.order.caller = who
	ctx = gate.With(ctx, who)
	row, err := c.load(ctx, who, in.id)
	if err != nil {
		return nil, err
	}
	return c.resources.order(ctx, in.order, row, c.def.Attrs(row),
		events.Command{Kind: c.def.Name, ResourceID: in.id, Action: video.ActionUpload, Body: body}, in.conditions, nil)
}

func (c *contents) answerPut(ctx context.Context, w http.ResponseWriter, in *putRequest, done *command, err error) error {
	ctx, cancel := brief(ctx)
	defer cancel()
	out, err := c.answer(ctx, in.order, done, err)
	if err != nil {
		return err
	}
	writeMutation(w, out)
	return nil
}
