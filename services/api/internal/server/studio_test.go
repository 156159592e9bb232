package server

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/health"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/kinds"
	"github.com/writ-project/writ/pkg/ledger"
)

// studio is a rig with an api that serves the files of videos and jobs.
type studio struct {
	*rig
	api   string
	web   *httptest.Server
	files *content.Store
	jobs  *jobs.Client
}

const studioMax = 8 << 20

func newStudio(t *testing.T, options ...option) *studio {
	r := newRig(t, options...)
	nc := need(ledger.Connect(r.direct, "test"))(t)
	t.Cleanup(nc.Close)
	s := &studio{rig: r}
	s.files = need(content.Open(t.Context(), nc, content.Config{}))(t)
	s.jobs = need(jobs.Open(t.Context(), nc, jobs.Config{Keys: r.keys}))(t)
	srv, h, err := New(Config{
		Ledger: r.connect(r.nats), Store: r.store, Authz: r.authz, Identity: r.id, Keys: r.keys, Kinds: kinds.All,
		Health: health.New(), Telemetry: r.tel, Log: slog.New(slog.DiscardHandler), Version: "test", OwnURL: "http://localhost",
		Stopping: r.stopping, Content: s.files, MaxUpload: studioMax, Jobs: s.jobs,
		StreamCheck: r.streamCheck,
	})
	must(t, err)
	web := httptest.NewServer(h)
	t.Cleanup(func() {
		web.Close()
		srv.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	s.api, s.web = web.URL, web
	return s
}

// film puts a video of an owner into the database and gives its id and path.
func (s *studio) film(owner string) (id, path string) {
	s.t.Helper()
	id = uuid.Must(uuid.NewV7()).String()
	s.put(video.Kind, need(video.Kind.Create(id, user.DefaultTenant, owner, []byte(`{"title":"x","region":"eu"}`), time.Now()))(s.t))
	return id, s.api + "/v1/videos/" + id + "/content"
}

// uploads are the bodies of the upload commands on the ledger.
func (s *studio) uploads() (all []video.Upload) {
	s.t.Helper()
	for _, e := range s.events() {
		if e.Type == events.TypeWrit && e.Command.Action == video.ActionUpload {
			var u video.Upload
			must(s.t, json.Unmarshal(e.Command.Body, &u))
			all = append(all, u)
		}
	}
	return all
}

// apply does what the worker would do with the last upload.
func (s *studio) apply(id string) {
	s.t.Helper()
	all := s.uploads()
	body := need(json.Marshal(all[len(all)-1]))(s.t)
	row := need(s.store.Get(s.t.Context(), video.Kind, id))(s.t)
	s.put(video.Kind, need(video.Kind.Act(row, video.ActionUpload, kind.By{At: time.Now(), Body: body}))(s.t))
}

func (s *studio) kept() int {
	s.t.Helper()
	return len(need(s.files.List(s.t.Context()))(s.t))
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b
}
