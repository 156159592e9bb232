package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func setup(t testing.TB, service string, options ...telemetry.Option) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Setup(t.Context(), service, "1.2.3", options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return tel
}

func TestWithoutExporterSpansHaveIdsAndRecordNothing(t *testing.T) {
	tel := setup(t, "api")
	ctx, span := tel.Tracer().Start(t.Context(), "request")
	defer span.End()
	if !span.SpanContext().IsValid() || span.IsRecording() {
		t.Fatalf("valid %t, recording %t", span.SpanContext().IsValid(), span.IsRecording())
	}
	header := nats.Header{}
	telemetry.Inject(ctx, header)
	remote := trace.SpanContextFromContext(telemetry.Extract(context.Background(), header))
	if remote.TraceID() != span.SpanContext().TraceID() || !remote.IsRemote() {
		t.Fatalf("header %v carries trace %s", header, remote.TraceID())
	}
}

func TestOneTraceCrossesTheLedger(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	api := setup(t, "api", telemetry.WithSpanExporter(exporter))
	worker := setup(t, "worker", telemetry.WithSpanExporter(exporter))

	ctx, request := api.Tracer().Start(t.Context(), "request")
	header := nats.Header{}
	telemetry.Inject(ctx, header)
	request.End()
	_, apply := worker.Tracer().Start(telemetry.Extract(context.Background(), header), "apply")
	apply.End()

	spans := exporter.GetSpans()
	if len(spans) != 2 {
		t.Fatalf("%d spans, want 2", len(spans))
	}
	if spans[1].Parent.SpanID() != spans[0].SpanContext.SpanID() {
		t.Fatal("apply is not a child of request")
	}
	for i, service := range []string{"api", "worker"} {
		if name, ok := spans[i].Resource.Set().Value("service.name"); !ok || name.AsString() != service {
			t.Errorf("span %d belongs to %q, want %q", i, name.AsString(), service)
		}
	}
}

func TestExtractToleratesWhatOthersWrite(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for name, header := range map[string]nats.Header{
		"specification": {"traceparent": {parent}},
		"canonical":     {"Traceparent": {parent}},
	} {
		if !trace.SpanContextFromContext(telemetry.Extract(t.Context(), header)).IsValid() {
			t.Errorf("%s: not read", name)
		}
	}
	for name, header := range map[string]nats.Header{"nil": nil, "malformed": {"traceparent": {"00-zz"}}, "empty": {"traceparent": nil}} {
		if trace.SpanContextFromContext(telemetry.Extract(t.Context(), header)).IsValid() {
			t.Errorf("%s: gave a span", name)
		}
	}
	telemetry.Inject(t.Context(), nil)
}

func TestEachServiceServesItsOwnMetrics(t *testing.T) {
	api, worker := setup(t, "api"), setup(t, "worker")
	counter, err := api.Meter().Int64Counter("writ.decisions")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 3)
	took, err := api.Meter().Float64Histogram("writ.check.duration", metric.WithUnit("s"))
	if err != nil {
		t.Fatal(err)
	}
	took.Record(t.Context(), 0.00003)

	text := scrape(t, api)
	for _, want := range []string{
		"writ_decisions_total 3\n", `writ_check_duration_seconds_bucket{le="5e-05"} 1`, "go_goroutines", "process_", `service_name="api"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(scrape(t, worker), "writ_decisions_total") {
		t.Error("the worker serves the api's counter")
	}
}

// TestRequestsAreNotToldApartByWhatClientsMakeUp: a Host of its own for each request must not fill the instrument.
func TestRequestsAreNotToldApartByWhatClientsMakeUp(t *testing.T) {
	api := setup(t, "api")
	handler := otelhttp.NewHandler(http.NotFoundHandler(), "http", otelhttp.WithMeterProvider(api.MeterProvider()))
	for i := range 3000 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = fmt.Sprintf("host-%d.example:%d", i, 1024+i)
		handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	text := scrape(t, api)
	if want := `http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="404"} 3000`; !strings.Contains(text, want) {
		t.Errorf("no %q in %d bytes", want, len(text))
	}
	if strings.Contains(text, "otel_metric_overflow") {
		t.Error("the instrument is full")
	}
}

func scrape(t *testing.T, tel *telemetry.Telemetry) string {
	t.Helper()
	recorder := httptest.NewRecorder()
	tel.Handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if recorder.Code != http.StatusOK {
		t.Fatalf("status %d: %s", recorder.Code, recorder.Body)
	}
	return recorder.Body.String()
}

func TestExporterComesFromTheEnvironment(t *testing.T) {
	arrived := make(chan string, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case arrived <- r.URL.Path:
		default:
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.URL+"/v1/traces")
	tel := setup(t, "api")
	_, span := tel.Tracer().Start(t.Context(), "request")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if path := <-arrived; path != "/v1/traces" {
		t.Fatalf("sent to %s", path)
	}
}

func TestUnknownExporterIsNamed(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "carrier-pigeon")
	if _, err := telemetry.Setup(t.Context(), "api", "1"); err == nil || !strings.Contains(err.Error(), "carrier-pigeon") {
		t.Fatalf("error %v", err)
	}
}

// Sampled is what Extract's span says.
func TestSampledAsExtractSays(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
	for _, header := range []nats.Header{
		nil, {}, {"traceparent": {""}}, {"traceparent": {parent + "00"}}, {"traceparent": {parent + "01"}}, {"traceparent": {parent + "02"}},
		{"traceparent": {parent + "03"}}, {"Traceparent": {parent + "01"}}, {"traceparent": {parent}}, {"traceparent": {parent + "0"}}, {"tracestate": {"a=b"}},
	} {
		want := trace.SpanContextFromContext(telemetry.Extract(t.Context(), header)).IsSampled()
		if got := telemetry.Sampled(header); got != want {
			t.Errorf("%v: %t, want %t", header, got, want)
		}
	}
}

func TestLogsCarryTheTraceAtTheTopLevel(t *testing.T) {
	tel := setup(t, "api")
	ctx, span := tel.Tracer().Start(t.Context(), "request")
	defer span.End()
	var out bytes.Buffer
	log := tel.Logger(&out, slog.LevelInfo, "")
	log.DebugContext(ctx, "hidden")
	for name, logger := range map[string]*slog.Logger{
		"plain":   log.With("a", 1),
		"grouped": log.With("a", 1).WithGroup("g").With("b", 2).WithGroup("h"),
	} {
		out.Reset()
		logger.InfoContext(ctx, "done", "c", 3)
		var record map[string]any
		if err := json.Unmarshal(out.Bytes(), &record); err != nil {
			t.Fatalf("%s: %v: %s", name, err, &out)
		}
		for key, want := range map[string]any{
			"trace_id": span.SpanContext().TraceID().String(), "span_id": span.SpanContext().SpanID().String(),
			"service": "api", "msg": "done", "a": 1.0,
		} {
			if record[key] != want {
				t.Errorf("%s: %s is %v, want %v", name, key, record[key], want)
			}
		}
	}
	out.Reset()
	tel.Logger(&out, slog.LevelInfo, telemetry.FormatText).Info("no span")
	if text := out.String(); strings.Contains(text, "trace_id") || !strings.Contains(text, "service=api") {
		t.Errorf("text: %s", text)
	}
}

// A span that is not recorded must stay affordable on the hot path.
func BenchmarkUnrecordedSpan(b *testing.B) {
	tel, err := telemetry.Setup(b.Context(), "api", "1")
	if err != nil {
		b.Fatal(err)
	}
	tracer := tel.Tracer()
	for b.Loop() {
		_, span := tracer.Start(b.Context(), "request")
		span.End()
	}
}
