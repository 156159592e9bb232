package e2e

import (
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	metricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // what the exporters may send
	"google.golang.org/protobuf/proto"

	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// receiver is an OTLP receiver, over HTTP and gRPC, that keeps the names of what arrived.
type receiver struct {
	tracepb.UnimplementedTraceServiceServer
	http, grpc string // URLs

	mu      sync.Mutex
	metrics map[string][]string // names, by service
	spans   map[string]int      // by service
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{metrics: map[string][]string{}, spans: map[string]int{}}
	web := httptest.NewServer(http.HandlerFunc(r.receive))
	t.Cleanup(func() {
		web.CloseClientConnections()
		web.Close()
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	tracepb.RegisterTraceServiceServer(server, r)
	metricspb.RegisterMetricsServiceServer(server, metricsReceiver{r: r})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) }) // it ends with Stop
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	r.http, r.grpc = web.URL, "http://"+listener.Addr().String()
	return r
}

func (r *receiver) receive(w http.ResponseWriter, request *http.Request) {
	body := io.Reader(request.Body)
	if request.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unzipped
	}
	raw, err := io.ReadAll(body)
	if err == nil && request.URL.Path == "/v1/traces" {
		var in tracepb.ExportTraceServiceRequest
		if err = proto.Unmarshal(raw, &in); err == nil {
			_, err = r.Export(request.Context(), &in)
		}
	} else if err == nil {
		var in metricspb.ExportMetricsServiceRequest
		if err = proto.Unmarshal(raw, &in); err == nil {
			_, err = metricsReceiver{r: r}.Export(request.Context(), &in)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf") // an empty answer is a full success
}

func serviceOf(r *resourcepb.Resource) string {
	for _, a := range r.GetAttributes() {
		if a.GetKey() == "service.name" {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

// Export takes spans.
func (r *receiver) Export(_ context.Context, in *tracepb.ExportTraceServiceRequest) (*tracepb.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range in.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			r.spans[serviceOf(resource.GetResource())] += len(scope.GetSpans())
		}
	}
	return &tracepb.ExportTraceServiceResponse{}, nil
}

type metricsReceiver struct {
	metricspb.UnimplementedMetricsServiceServer
	r *receiver
}

// Export takes metrics.
func (m metricsReceiver) Export(_ context.Context, in *metricspb.ExportMetricsServiceRequest) (*metricspb.ExportMetricsServiceResponse, error) {
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	for _, resource := range in.GetResourceMetrics() {
		service := serviceOf(resource.GetResource())
		for _, scope := range resource.GetScopeMetrics() {
			for _, metric := range scope.GetMetrics() {
				m.r.metrics[service] = append(m.r.metrics[service], metric.GetName())
			}
		}
	}
	return &metricspb.ExportMetricsServiceResponse{}, nil
}

// everything makes a service export all that it can, at its end and not before.
func everything(protocol, endpoint string) []string {
	return []string{
		"OTEL_TRACES_EXPORTER=otlp", "OTEL_METRICS_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_ENDPOINT=" + endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol,
		"OTEL_METRIC_EXPORT_INTERVAL=3600000", "OTEL_BSP_SCHEDULE_DELAY=3600000",
	}
}

// sentAtTheEnd checks that what each service counted, observed and traced has arrived.
func (r *receiver) sentAtTheEnd(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for service, names := range map[string][]string{
		"writ-api":     {"writ.decisions", "http.server.request.duration"},
		"writ-worker":  {"writ.apply.commands", "writ.apply.lag", "writ.roles.waiting", "writ.roles.lag"},
		"writ-auditor": {"writ.audit.entries", "writ.audit.lag", "writ.audit.contradiction", "writ.audit.streams"},
	} {
		for _, name := range names {
			if !slices.Contains(r.metrics[service], name) {
				t.Errorf("%s sent these metrics at its end, want %s among them: %v", service, name, r.metrics[service])
			}
		}
		if r.spans[service] == 0 {
			t.Errorf("%s sent no spans at its end, want those that it had", service)
		}
	}
}

func TestEveryProcessEndsWellAndSendsItsLastTelemetry(t *testing.T) {
	for _, protocol := range []string{"http/protobuf", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			r := newReceiver(t)
			endpoint := map[string]string{"http/protobuf": r.http, "grpc": r.grpc}[protocol]
			s := outside.StartServices(t, "e2e-1", everything(protocol, endpoint)...)
			outside.NewClient(t, s.API, s.SignIn(t, "counted@example.com")).
				Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"Counted"}`, "Prefer", wait)
			outside.Settled(t, &s.Stack, settle)
			for name, process := range map[string]*testkit.Process{"api": s.APIProc, "worker": s.WorkerProc, "auditor": s.AuditorProc} {
				if code := process.Stop(t, 10*time.Second); code != 0 {
					t.Errorf("SIGTERM ends %s with %d, want 0:\n%s", name, code, process.Output())
				}
			}
			r.sentAtTheEnd(t)
		})
	}
}

func TestLocalStackEndsWellAndSendsItsLastTelemetry(t *testing.T) {
	r := newReceiver(t)
	dev := outside.StartDev(t, t.TempDir(), nil, everything("http/protobuf", r.http))
	outside.NewClient(t, dev.API, dev.SignIn(t, "counted@example.com")).
		Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"Counted"}`, "Prefer", wait)
	outside.Settled(t, &dev.Stack, settle)
	if code := dev.Process.Stop(t, 10*time.Second); code != 0 {
		t.Errorf("SIGTERM ends writ dev with %d, want 0:\n%s", code, dev.Process.Output())
	}
	r.sentAtTheEnd(t)
}

// A collector that is away costs telemetry, and nothing else.
func TestCollectorThatIsAwayFailsNoProcess(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), nil, everything("http/protobuf", "http://127.0.0.1:1"))
	outside.NewClient(t, dev.API, dev.SignIn(t, "counted@example.com")).
		Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"Counted"}`, "Prefer", wait)
	if code := dev.Process.Stop(t, 10*time.Second); code != 0 {
		t.Errorf("SIGTERM ends writ dev with %d, want 0:\n%s", code, dev.Process.Output())
	}
}
