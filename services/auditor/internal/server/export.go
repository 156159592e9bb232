package server

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/request"
)

// checkpointHeader carries an export's checkpoint: base64 of the signed note.
const checkpointHeader = "Writ-Checkpoint"

// formats are what an export can be written as.
var formats = map[string]struct {
	media, suffix string
	writer        func(*sink, *export) format
}{
	"jsonl": {"application/x-ndjson", "jsonl", newJSONL},
	"csv":   {"text/csv; charset=utf-8", "csv", newCSV},
	"ocsf":  {"application/x-ndjson", "ocsf.jsonl", newOCSF},
}

// format writes entries one by one.
type format interface {
	begin() error
	entry(found) error
	// end writes what only the end of a complete export has.
	end() error
}

func (s *Server) registerExport() {
	text := &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	must := func(description string) *huma.Header {
		return &huma.Header{Description: description, Required: true, Schema: &huma.Schema{Type: huma.TypeString}}
	}
	registerStreamed(s, huma.Operation{
		OperationID: "export-decisions", Path: "/v1/decisions/export", Summary: "Export decisions, oldest first",
		Description: "Roles auditor and admin. Everything that the latest checkpoint covers, as JSON lines, CSV or OCSF 1.8 events (API Activity, 6003). " +
			"Each entry has its address on the ledger (sequence), its leaf's index and hash, and its exact bytes; the export has its checkpoint. " +
			"An export that ends without the end of the answer (RFC 9112, 7.1) is not complete; one as JSON lines has a last line that says so.",
		Errors: []int{http.StatusForbidden, http.StatusTooManyRequests},
		Responses: map[string]*huma.Response{"200": {
			Description: "Line after line", Content: map[string]*huma.MediaType{"application/x-ndjson": text, "text/csv": text},
			Headers: map[string]*huma.Header{
				"Cache-Control": must(""), "Content-Disposition": must("A file name"), checkpointHeader: must("Base64 of the signed note that covers the export"),
			},
		}},
	}, s.export)
}

type exportInput struct {
	Filter
	Format string `query:"format" enum:"jsonl,csv,ocsf" default:"jsonl"`
}

// export is one export on its way.
type export struct {
	*Server
	search
	checkpoint audit.Checkpoint
	caller     *gate.Caller
	seen       *events.Decision
	written    int
}

func (s *Server) export(ctx context.Context, in *exportInput) (*huma.StreamResponse, error) {
	c := gate.CallerOf(ctx)
	leave, err := s.exports.take(c.ID)
	if err != nil {
		return nil, err
	}
	x := &export{Server: s, caller: c}
	x.search = search{filter: &in.Filter, tenant: c.Tenant, span: in.span(), waits: true, whole: true, index: -1}
	if err := x.open(ctx, in); err != nil {
		leave()
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer leave()
		r, w := humachi.Unwrap(hc)
		f := formats[in.Format]
		h := w.Header()
		h.Set("Content-Type", f.media)
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Disposition", `attachment; filename="decisions.`+f.suffix+`"`)
		h.Set(checkpointHeader, base64.StdEncoding.EncodeToString(x.checkpoint.Note))
		w.WriteHeader(http.StatusOK)
		if r.Method == http.MethodHead {
			return
		}
		out := newSink(w, s.limits.write)
		if err := x.write(r.Context(), out, f.writer(out, x)); err != nil {
			s.Log.WarnContext(r.Context(), "an export was cut off", "error", err, "request_id", request.Info(r.Context()).ID)
			panic(http.ErrAbortHandler) // so that the client does not take it for complete
		}
	}}, nil
}

// open decides about the export, records the decision and fixes what is exported.
func (x *export) open(ctx context.Context, in *exportInput) (err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if in.Tenant != "" && in.Tenant != x.caller.Tenant {
		return x.ofAnotherTenant(ctx, x.caller, actionExport)
	}
	if x.seen, err = x.permit(ctx, x.caller, about(wholeLog, x.caller.Tenant, in.Principal), actionExport); err != nil {
		return err
	}
	signed, err := x.Audit.Checkpoints(ctx)
	if err != nil {
		return err
	}
	x.checkpoint, err = readCheckpoint(signed, audit.Decisions)
	return err
}

// errCovered ends an export at its checkpoint.
var errCovered = errors.New("the checkpoint covers no more")

// write writes all of it. Who asked is asked about again from time to time, as
// for a stream.
func (x *export) write(ctx context.Context, out *sink, f format) error {
	if err := f.begin(); err != nil {
		return err
	}
	asked := time.Now()
	for !x.ended {
		x.entries, x.looked = audit.MaxRange, 0 // one step
		err := x.run(ctx, &x.search, func(e found) (bool, error) {
			if e.Index >= x.checkpoint.Tree.N {
				return false, errCovered
			}
			x.written++
			return false, f.entry(e)
		})
		if errors.Is(err, errCovered) {
			break
		}
		if err == nil && x.ended {
			err = x.nothingLeft(ctx)
		}
		if err != nil {
			return err
		}
		if time.Since(asked) > x.limits.recheck {
			if x.caller, x.seen, err = x.again(ctx, x.caller, x.seen); err != nil {
				return err
			}
			asked = time.Now()
		}
		select {
		case <-x.Stopping:
			return context.Canceled
		default:
		}
	}
	if err := f.end(); err != nil {
		return err
	}
	return out.flush()
}

// errMissing cuts an export off that is not all that its checkpoint covers.
var errMissing = errors.New("entries that the checkpoint covers were not there to be exported")

// nothingLeft makes sure that an export which found no more entries found all of
// them: the log may just have been lost, or be filled anew. The entry after the
// last one is behind the span, or the checkpoint does not cover it.
func (x *export) nothingLeft(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	next := x.index + 1
	if x.index < 0 { // none was found: then the last one is not meant, or none is kept
		next = x.checkpoint.Tree.N - 1
	}
	if next < 0 || next >= x.checkpoint.Tree.N {
		return nil
	}
	e, err := x.Audit.At(ctx, audit.Decisions, next)
	switch {
	case errors.Is(err, audit.ErrTrimmed) && x.index < 0:
		return nil
	case err != nil:
		return err
	case !e.ID.Less(x.span.From) && !x.span.To.Less(e.ID):
		return errMissing
	}
	return nil
}

func newJSONL(s *sink, x *export) format { return &jsonl{s, x} }

// jsonl writes entries as the list has them, one a line, and a last line.
type jsonl struct {
	*sink
	export *export
}

func (j *jsonl) begin() error { return nil }

// end says that this is all, and what it can be verified with.
func (j *jsonl) end() error {
	return j.line(exportEnd{string(j.export.checkpoint.Note), j.export.written, j.export.unreadable})
}

type exportEnd struct {
	Checkpoint string `json:"checkpoint"`
	Entries    int    `json:"entries"`
	Unreadable int    `json:"unreadable"`
}

func (j *jsonl) entry(e found) error { return j.line(entryOf(e.Entry)) }

func (j *jsonl) line(v any) error {
	b, err := encode(v)
	if err != nil {
		return err
	}
	_, err = j.Write(append(b, '\n'))
	return err
}
