package server

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/go-chi/chi/v5"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/problem"
	"github.com/writ-project/writ/pkg/request"
)

// How many streams of each kind one process serves at a time, and of one
// principal; more are refused at once. An upload holds 2 MiB and a download 2 MiB.
// Together they are far fewer than the requests that may be in flight
// (WRIT_MAX_IN_FLIGHT), so that slow ones never keep the quick ones out.
const (
	maxUploads, maxUploadsEach     = 32, 8
	maxDownloads, maxDownloadsEach = 64, 16
	maxWatchers, maxWatchersEach   = 512, 64
)

// contents serves the files of videos.
type contents struct {
	*resources
	uploads, downloads, watchers *places
}

// contentRoutes adds the routes that stream. They stand outside huma, which
// would hold bodies in memory, and have a pace instead of a deadline.
func (s *Server) contentRoutes(r chi.Router) {
	if s.Content == nil || !slices.Contains(s.Kinds, video.Kind) {
		return
	}
	c := &contents{
		resources: &resources{Server: s, def: video.Kind},
		uploads:   newPlaces(maxUploads, maxUploadsEach), downloads: newPlaces(maxDownloads, maxDownloadsEach),
		watchers: newPlaces(maxWatchers, maxWatchersEach),
	}
	r.Group(func(r chi.Router) {
		r.Use(
			otelhttp.NewMiddleware("http", otelhttp.WithTracerProvider(s.Telemetry.TracerProvider()),
				otelhttp.WithMeterProvider(s.Telemetry.MeterProvider()), otelhttp.WithPropagators(s.Telemetry.Propagator())),
			problem.Recover(s.Log), request.NameSpan, s.signin.Bearer, s.gate.HTTP, s.notTooOftenHTTP,
		)
		r.Put(pathContent, s.handler(c.put))
		r.Get(pathContent, s.handler(c.get))
		r.Get(pathEvents, s.handler(c.watch))
	})
}

// notTooOftenHTTP is notTooOften for routes outside huma.
func (s *Server) notTooOftenHTTP(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := gate.CallerOf(r.Context()); c != nil {
			if p := s.rate.Allow(w, r, c.ID); p != nil {
				problem.Write(w, r, p)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

const (
	pathContent = "/v1/videos/{id}/content"
	pathEvents  = "/v1/videos/{id}/events"
)

// pathID reads the id in the path.
func pathID(r *http.Request) (string, error) {
	id, ok := request.UUID(chi.URLParam(r, "id"))
	if !ok {
		return "", fault.InvalidField("path.id", "want a UUID, such as 0192d4e0-7b3a-7c58-9f0e-2d6a1b5c8e4f")
	}
	for name := range r.URL.Query() { // as everywhere: what is not known is not passed over
		return "", fault.InvalidField("query."+name, "unknown query parameter")
	}
	return id, nil
}

// readable loads a video, decides whether the caller may read it and records that.
func (c *contents) readable(ctx context.Context, who *gate.Caller, id string) (*video.Video, error) {
	row, err := c.load(ctx, who, id)
	if err != nil {
		return nil, err
	}
	all, err := c.decide(ctx, who, events.Resource{Kind: c.def.Name, ID: id, Version: row.Version, Attr: c.def.Attrs(row)}, kind.ActionRead)
	if err != nil {
		return nil, err
	}
	if err := c.record(ctx, all[0]); err != nil {
		return nil, err
	}
	if all[0].Effect != events.Allow {
		return nil, fault.Missing(c.def.Name, id)
	}
	return row.Value.(*video.Video), nil
}

// ref names the file of a video.
func ref(v *video.Video) content.Ref { return content.Ref{Resource: v.ID, Upload: *v.ContentID} }

// get serves a video's file: whole, or ranges of it.
func (c *contents) get(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	cond, err := request.ReadConditions(r.Header)
	if err != nil {
		return err
	}
	release, err := c.downloads.take(gate.CallerOf(r.Context()).ID)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := brief(r.Context())
	defer cancel()
	who := gate.CallerOf(ctx)
	v, err := c.readable(ctx, who, id)
	if err != nil {
		return err
	}
	if v.ContentID == nil {
		return fault.New(fault.NotFound, "no-content", "video %s has no file", id)
	}
	h := w.Header()
	h.Set("ETag", `"`+*v.SHA256+`"`)
	now := request.Validators{Exists: true, Modified: v.UpdatedAt, Is: func(opaque string, _ bool) bool { return opaque == *v.SHA256 }}
	switch cond.Judge(r.Method, now) {
	case request.NotModified:
		w.WriteHeader(http.StatusNotModified)
		return nil
	case request.Failed:
		h.Del("ETag")
		return problem.PreconditionFailed()
	}
	part := ""
	if r.Method == http.MethodGet && cond.RangeHolds(now) { // RFC 9110, 14.2: of other methods there are no ranges
		if part, err = byteRanges(r.Header.Get("Range"), *v.Size); err != nil {
			h.Del("ETag")
			return err
		}
	}
	file, err := c.Content.Open(r.Context(), ref(v), *v.Size)
	if err != nil {
		return err
	}
	h.Set("Repr-Digest", reprDigest(*v.SHA256))
	h.Set("Content-Type", served(*v.ContentType))
	h.Set("Content-Disposition", `attachment; filename="video-`+id+`"`)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	st := newStream(w, false, c.Stopping, streamStop)
	defer st.close()
	st.alive()
	http.ServeContent(&paced{stream: st, w: w}, plainGet(r, part), "", v.UpdatedAt, &whileAllowed{Reader: file, c: c, r: r, who: who, v: v, asked: time.Now()})
	return nil
}

// plainGet is the request with its preconditions judged and its ranges read:
// net/http is to send these, and to judge nothing again.
func plainGet(r *http.Request, part string) *http.Request {
	out := r.Clone(r.Context())
	for _, name := range []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range"} {
		out.Header.Del(name)
	}
	if part != "" {
		out.Header.Set("Range", part)
	}
	return out
}

// whileAllowed reads while the caller may: a slow download lasts for hours, so it is
// decided again now and then. One that ends so is cut, and a range goes on where it was.
type whileAllowed struct {
	*content.Reader
	c     *contents
	r     *http.Request
	who   *gate.Caller
	v     *video.Video
	asked time.Time
}

// Read implements io.Reader.
func (p *whileAllowed) Read(b []byte) (int, error) {
	if time.Since(p.asked) > p.c.again() {
		v, who, err := p.c.still(p.r.Context(), p.who, p.v.ID, p.v)
		if err != nil {
			return 0, err
		}
		p.v, p.who, p.asked = v, who, time.Now()
	}
	return p.Reader.Read(b)
}

// writeMutation answers as huma does for the other mutations.
func writeMutation(w http.ResponseWriter, out *mutationOutput) {
	h := w.Header()
	for name, value := range map[string]string{"Location": out.Location, "ETag": out.ETag, "Preference-Applied": out.Applied, "Writ-Command": out.Command} {
		if value != "" {
			h.Set(name, value)
		}
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(out.Status)
	_ = json.NewEncoder(w).Encode(out.Body) // the client may be gone
}
