package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/testkit"
)

// BenchmarkPatch is a PATCH of an own contact, 32 at a time, without sockets:
// session, directory row, resource row, check, append, answer. cpu-µs/op is the
// processor time of the whole process: api, policy engine and the ledger's
// client; on PostgreSQL the database's own is not in it.
func BenchmarkPatch(b *testing.B) {
	for name, url := range map[string]func() string{
		"sqlite":   func() string { return "sqlite:" + filepath.Join(b.TempDir(), "writ.db") },
		"postgres": func() string { return testkit.Postgres(b) },
	} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, func(r *rig) { r.t = b; r.open(url()) })
			sam, token := r.person("sam", "user")
			var mine [64]string
			for i := range mine {
				mine[i] = r.contact(sam)
			}
			h := r.handler()
			b.SetParallelism(16)
			b.ReportAllocs()
			var n atomic.Int64
			before := used()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := n.Add(1)
					req := httptest.NewRequest(http.MethodPatch, "/v1/contacts/"+mine[i%64], strings.NewReader(fmt.Sprintf(`{"notes":"note %d"}`, i)))
					req.Header.Set("Content-Type", "application/json")
					req.Header.Set("Authorization", "Bearer "+token)
					w := httptest.NewRecorder()
					h.ServeHTTP(w, req)
					if w.Code != http.StatusAccepted {
						b.Errorf("answered %d %s, want 202", w.Code, w.Body)
						return
					}
				}
			})
			b.StopTimer()
			b.ReportMetric(float64((used()-before).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// used is the processor time of this process.
func used() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
