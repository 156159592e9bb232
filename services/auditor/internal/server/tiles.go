package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/problem"
)

// registerTiles adds what clients of transparency logs read (C2SP tlog-tiles):
// the log of decisions at the root and under /decisions, that of outcomes under
// /outcomes.
//
// Checkpoints and tiles are public: they hold hashes, of records that nobody can
// guess, and a log that only its friends may watch is watched by nobody. Entry
// bundles are the records of all tenants, so they take the permission to verify
// in the default tenant, which the installation's own auditors have.
func (s *Server) registerTiles(r chi.Router) {
	for prefix, l := range map[string]audit.Log{"": audit.Decisions, "/decisions": audit.Decisions, "/outcomes": audit.Outcomes} {
		r.Get(prefix+"/checkpoint", s.bounded(func(w http.ResponseWriter, r *http.Request) error { return s.serveCheckpoint(w, r, l) }))
		r.Get(prefix+"/tile/*", s.bounded(func(w http.ResponseWriter, r *http.Request) error { return s.serveTile(w, r, l) }))
		s.describeTiles(prefix, l)
	}
}

// bounded makes a handler of one whose error is answered as a problem.
func (s *Server) bounded(handle func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		if err := handle(w, r.WithContext(ctx)); err != nil {
			problem.Write(w, r, s.problem(ctx, err))
		}
	}
}

func (s *Server) serveCheckpoint(w http.ResponseWriter, r *http.Request, l audit.Log) error {
	signed, err := s.Audit.Checkpoints(r.Context())
	if errors.Is(err, audit.ErrNoCheckpoint) {
		return fault.Missing("checkpoint", string(l))
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(signed.Of(l)) // the client may be gone
	return nil
}

func (s *Server) serveTile(w http.ResponseWriter, r *http.Request, l audit.Log) error {
	ctx := r.Context()
	t, err := audit.ParseTilePath("tile/" + chi.URLParam(r, "*"))
	if err != nil {
		return problem.New(http.StatusNotFound, "not-found", "There is no such tile: want tile/<L>/<N>[.p/<W>] or tile/entries/<N>[.p/<W>]")
	}
	entries := t.L < 0
	if entries {
		gate.Private(w.Header())
		if err := s.mayReadEntries(r); err != nil {
			return err
		}
	}
	state, err := s.Audit.State(ctx)
	if err != nil {
		return err
	}
	if end := t.N*audit.BundleSize + int64(t.W); end > state.Of(l).Size>>(audit.TileHeight*max(t.L, 0)) || t.N > state.Of(l).Size {
		return fault.Missing("tile", audit.TilePath(t))
	}
	done, err := s.room(ctx)
	if err != nil {
		return err
	}
	defer done()
	var b []byte
	if entries {
		b, err = s.bundle(ctx, l, t)
	} else {
		b, err = s.Audit.Tile(ctx, l, t)
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if !entries {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable") // a tile with these hashes never changes
	} else {
		w.Header().Add("Vary", "Accept-Encoding")
		if acceptsGzip(r.Header.Values("Accept-Encoding")) { // C2SP tlog-tiles: bundles SHOULD be
			w.Header().Set("Content-Encoding", "gzip")
			if b, err = zipped(b); err != nil {
				return err
			}
		}
		// Each look at records is a decision: it is asked again, and answered in short where they are there already.
		sum := sha256.Sum256(b)
		w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	}
	_, _ = w.Write(b) // the client may be gone
	return nil
}

func (s *Server) bundle(ctx context.Context, l audit.Log, t tlog.Tile) ([]byte, error) {
	entries, err := s.Audit.Entries(ctx, l, t.N, t.W)
	if err != nil {
		return nil, err
	}
	if len(entries) < t.W {
		return nil, errors.Join(audit.ErrDamaged, errors.New(audit.TilePath(t)+" lacks entries"))
	}
	return audit.EncodeBundle(entries[:t.W])
}

// mayReadEntries decides about a bundle and records the decision.
func (s *Server) mayReadEntries(r *http.Request) error {
	ctx := r.Context()
	c, err := s.gate.Admit(ctx, r.Header.Get("Authorization"), r.Header.Get(gate.TenantHeader))
	if err != nil {
		return err
	}
	return s.mayVerifyAll(gate.With(ctx, c))
}

// describeTiles puts the routes into the document, which huma does not serve.
func (s *Server) describeTiles(prefix string, l audit.Log) {
	id := strings.TrimPrefix(prefix+"-", "/")
	add := func(op huma.Operation, content string, schema *huma.Schema) {
		op.Method, op.Tags = http.MethodGet, []string{"transparency log"}
		op.Responses = map[string]*huma.Response{"200": {
			Description: op.Summary, Content: map[string]*huma.MediaType{content: {Schema: schema}},
			Headers: map[string]*huma.Header{"Cache-Control": {Required: true, Schema: &huma.Schema{Type: huma.TypeString}}},
		}}
		if op.Security == nil {
			op.Responses["200"].Headers["ETag"] = &huma.Header{Description: "A digest of the bundle", Schema: &huma.Schema{Type: huma.TypeString}}
			op.Responses["304"] = &huma.Response{Description: "The caller has it already", Headers: map[string]*huma.Header{"ETag": {Schema: &huma.Schema{Type: huma.TypeString}}}}
		}
		problem.Describe(s.api, &op)
		s.api.OpenAPI().AddOperation(&op)
	}
	open := []map[string][]string{}
	add(huma.Operation{
		OperationID: id + "checkpoint", Path: prefix + "/checkpoint", Summary: "The signed checkpoint of the log of " + string(l),
		Description: "C2SP tlog-checkpoint. Public.", Security: open, Errors: []int{400, 404, 500, 503},
	}, "text/plain", &huma.Schema{Type: huma.TypeString})
	tile := &huma.Param{
		Name: "tile", In: "path", Required: true, Description: "<L>/<N>[.p/<W>], with slashes", Schema: &huma.Schema{Type: huma.TypeString},
	}
	add(huma.Operation{
		OperationID: id + "tile", Path: prefix + "/tile/{tile}", Summary: "A tile of the log of " + string(l),
		Description: "C2SP tlog-tiles: hashes. Public.", Security: open, Parameters: []*huma.Param{tile}, Errors: []int{400, 404, 500, 503},
	}, "application/octet-stream", &huma.Schema{Type: huma.TypeString, Format: "binary"})
	bundle := *tile
	bundle.Name, bundle.Description = "bundle", "<N>[.p/<W>], with slashes"
	add(huma.Operation{
		OperationID: id + "entries", Path: prefix + "/tile/entries/{bundle}", Summary: "An entry bundle of the log of " + string(l),
		Description: "C2SP tlog-tiles: records of all tenants. Roles auditor and admin of the default tenant.",
		Parameters:  []*huma.Param{&bundle, tenantParam()}, Errors: []int{400, 401, 403, 404, 410, 412, 422, 500, 503},
	}, "application/octet-stream", &huma.Schema{Type: huma.TypeString, Format: "binary"})
}
