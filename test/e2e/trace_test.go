package e2e

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// collector is an OTLP/HTTP receiver that keeps the spans of the traces that it is told to keep.
type collector struct {
	url string

	mu   sync.Mutex
	keep string
	all  map[string]span // by span id
}

type span struct{ service, name, id, parent string }

func newCollector(t *testing.T) *collector {
	c := &collector{all: map[string]span{}}
	server := httptest.NewServer(http.HandlerFunc(c.receive))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	c.url = server.URL
	return c
}

// settings make a service send its spans here at once.
func (c *collector) settings() []string {
	return []string{
		"OTEL_TRACES_EXPORTER=otlp", "OTEL_METRICS_EXPORTER=none", "OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url,
		"OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_BSP_SCHEDULE_DELAY=50",
	}
}

func (c *collector) receive(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unzipped
	}
	raw, err := io.ReadAll(body)
	var request collectorpb.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(raw, &request)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		service := ""
		for _, attribute := range resource.GetResource().GetAttributes() {
			if attribute.GetKey() == "service.name" {
				service = attribute.GetValue().GetStringValue()
			}
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				if hex.EncodeToString(s.GetTraceId()) == c.keep {
					id := hex.EncodeToString(s.GetSpanId())
					c.all[id] = span{service, s.GetName(), id, hex.EncodeToString(s.GetParentSpanId())}
				}
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf") // an empty answer is a full success
}

// oneTrace follows one create from the client's own span to Redis.
func oneTrace(t *testing.T, s *outside.Stack, c *collector) {
	const trace, client = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	c.mu.Lock()
	c.keep = trace
	c.mu.Unlock()
	tracer := outside.NewClient(t, s.API, s.SignIn(t, "tracer@example.com"))
	created := tracer.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"Traced"}`,
		"Prefer", wait, "traceparent", "00-"+trace+"-"+client+"-01")

	wants := []struct{ service, name, below string }{
		{"writ-api", "POST /v1/contacts", client},
		{"writ-worker", "process LEDGER", "POST /v1/contacts"},
		{"writ-worker", "transaction", "process LEDGER"},
		{"writ-auditor", "append writ:decisions", "POST /v1/contacts"},
		{"writ-auditor", "append writ:outcomes", "process LEDGER"},
	}
	var story string
	testkit.Eventually(t, 15*time.Second, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		var lines []string
		for _, want := range wants {
			found := false
			for _, have := range c.all {
				if have.service == want.service && have.name == want.name && c.isBelow(have, want.below) {
					found = true
					lines = append(lines, fmt.Sprintf("%s %s below %s", have.service, have.name, want.below))
				}
			}
			if !found {
				return fmt.Errorf("no span %q of %s below %q among %v", want.name, want.service, want.below, c.all)
			}
		}
		story = strings.Join(lines, "\n")
		return nil
	})
	t.Logf("trace %s:\n%s", trace, story)

	outside.Settled(t, s, settle)
	decided, ended := false, false
	for _, r := range outside.Audit(t, s).Ledger {
		switch e := r.Event; {
		case e.Type == events.TypeWrit && e.Command.ID == created.CommandID():
			decided = e.Decision.TraceID == trace
		case e.Type == events.TypeOutcome && e.Outcome.CommandID == created.CommandID():
			ended = e.Outcome.TraceID == trace
		}
	}
	if !decided || !ended {
		t.Errorf("the trace is in the decision: %t, in the outcome: %t", decided, ended)
	}
}

// isBelow reports whether a span of the given name or id is among the ancestors of s. The caller holds mu.
func (c *collector) isBelow(s span, ancestor string) bool {
	for range len(c.all) + 1 {
		if s.parent == ancestor {
			return true
		}
		parent, ok := c.all[s.parent]
		if !ok {
			return false
		}
		if parent.name == ancestor {
			return true
		}
		s = parent
	}
	return false
}
