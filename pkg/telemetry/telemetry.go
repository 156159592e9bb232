// Package telemetry sets up OpenTelemetry for one service: traces, metrics and logs that carry trace ids.
//
// Nothing mandatory is global, so that several services can live in one process, each with a [Telemetry] of its own.
// Exporters are configured by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER,
// OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES …; see
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Without them spans still have
// valid ids, which go into logs, decisions and message headers, but nothing is recorded or sent.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// scope names the instrumentation in spans and metrics.
const scope = "github.com/writ-project/writ"

// shutdownWithin bounds Shutdown when its context has no earlier deadline.
const shutdownWithin = 5 * time.Second

// Telemetry is one service's tracer, meter and registry. It is safe for concurrent use.
type Telemetry struct {
	service  string
	version  string
	traces   *sdktrace.TracerProvider
	metrics  *sdkmetric.MeterProvider
	registry *prometheus.Registry

	observing   atomic.Int32 // observes, observesLast or observesNoMore
	shutdown    sync.Once
	shutdownErr error
}

// Option changes how [Setup] works.
type Option func(*config)

type config struct {
	exporter sdktrace.SpanExporter
	readers  []sdkmetric.Reader
}

// WithSpanExporter sends every span to exporter as soon as it ends, whatever the environment says. For tests.
func WithSpanExporter(exporter sdktrace.SpanExporter) Option {
	return func(c *config) { c.exporter = exporter }
}

// WithMetricReader adds a reader beside the one that serves [Telemetry.Handler]. For tests.
func WithMetricReader(reader sdkmetric.Reader) Option {
	return func(c *config) { c.readers = append(c.readers, reader) }
}

// Setup builds the telemetry of a service; call Shutdown when the service has ended. An error names the OTEL_ variable
// or the exporter at fault; no connection is made here, and a collector that is away later costs spans, never requests.
func Setup(ctx context.Context, service, version string, options ...Option) (*Telemetry, error) {
	var c config
	for _, option := range options {
		option(&c)
	}
	if err := checkEnvironment(); err != nil {
		return nil, err
	}
	described, err := describe(ctx, service, version)
	if err != nil {
		return nil, fmt.Errorf("telemetry resource: %w", err)
	}
	t := &Telemetry{service: service, version: version, registry: prometheus.NewRegistry()}
	if t.traces, err = newTracerProvider(ctx, c, described); err != nil {
		return nil, fmt.Errorf("trace exporter: %w", err)
	}
	if t.metrics, err = newMeterProvider(ctx, c, described, t.registry); err != nil {
		return nil, errors.Join(fmt.Errorf("metrics: %w", err), t.traces.Shutdown(ctx))
	}
	// The one global: the same value for every service, and what libraries fall back to.
	otel.SetTextMapPropagator(propagator)
	return t, nil
}

// checkEnvironment finds what the SDK would log and leave at its default: numbers (of milliseconds, or of spans) and booleans.
func checkEnvironment() error {
	for _, name := range []string{
		"OTEL_METRIC_EXPORT_INTERVAL", "OTEL_METRIC_EXPORT_TIMEOUT", "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT", "OTEL_BSP_MAX_QUEUE_SIZE",
		"OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
	} {
		if text := os.Getenv(name); text != "" {
			if _, err := strconv.ParseUint(text, 10, 31); err != nil {
				return fmt.Errorf("%s: want a whole number, 0 or more", name)
			}
		}
	}
	if text := os.Getenv("OTEL_SDK_DISABLED"); text != "" && !strings.EqualFold(text, "true") && !strings.EqualFold(text, "false") {
		return errors.New("OTEL_SDK_DISABLED: want true or false")
	}
	return nil
}

// describe is the resource: what the environment says, with this service's name and version over it, because three
// services may share one environment.
func describe(ctx context.Context, service, version string) (*resource.Resource, error) {
	return resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithFromEnv(),
		resource.WithAttributes(
			attribute.String("service.namespace", "writ"),
			attribute.String("service.name", service),
			attribute.String("service.version", version),
		),
	)
}

func newTracerProvider(ctx context.Context, c config, described *resource.Resource) (*sdktrace.TracerProvider, error) {
	switch {
	case c.exporter != nil:
		return sdktrace.NewTracerProvider(
			sdktrace.WithResource(described),
			sdktrace.WithSampler(sdktrace.AlwaysSample()),
			sdktrace.WithSyncer(c.exporter),
		), nil
	case !exporting("TRACES"):
		return sdktrace.NewTracerProvider(
			sdktrace.WithResource(described),
			sdktrace.WithSampler(sdktrace.NeverSample()),
		), nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER=%q: %w", os.Getenv("OTEL_TRACES_EXPORTER"), err)
	}
	// The sampler is OTEL_TRACES_SAMPLER's; a full queue drops spans instead of holding requests up.
	return sdktrace.NewTracerProvider(sdktrace.WithResource(described), sdktrace.WithBatcher(exporter)), nil
}

func newMeterProvider(ctx context.Context, c config, described *resource.Resource, registry *prometheus.Registry) (*sdkmetric.MeterProvider, error) {
	for _, collector := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	served, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return nil, err
	}
	options := []sdkmetric.Option{
		sdkmetric.WithResource(described), sdkmetric.WithReader(served), sdkmetric.WithView(view),
	}
	for _, reader := range c.readers {
		options = append(options, sdkmetric.WithReader(reader))
	}
	// Prometheus is served here already: autoexport's would open a port of its own.
	if exporting("METRICS") && !strings.EqualFold(os.Getenv("OTEL_METRICS_EXPORTER"), "prometheus") {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, fmt.Errorf("OTEL_METRICS_EXPORTER=%q: %w", os.Getenv("OTEL_METRICS_EXPORTER"), err)
		}
		options = append(options, sdkmetric.WithReader(reader))
	}
	return sdkmetric.NewMeterProvider(options...), nil
}

// exporting reports whether the environment asks for a signal (TRACES, METRICS) to be exported. The specification's
// default, OTLP to localhost, counts only once an endpoint or an exporter is named.
func exporting(signal string) bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	if exporter := os.Getenv("OTEL_" + signal + "_EXPORTER"); exporter != "" {
		return !strings.EqualFold(exporter, "none")
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

// requestLabels are what requests are told apart by. The address that they were sent to is not among them: a client says
// it (Host), and 2,000 that it makes up would fill an instrument, after which statuses are told apart no longer.
var requestLabels = attribute.NewAllowKeysFilter("http.request.method", "http.response.status_code", "http.route")

// view gives every histogram in seconds the same buckets, from a check by the engine in process to a request at its
// deadline, where the SDK's defaults are meant for milliseconds; and requests [requestLabels].
func view(instrument sdkmetric.Instrument) (sdkmetric.Stream, bool) {
	stream := sdkmetric.Stream{Name: instrument.Name, Description: instrument.Description, Unit: instrument.Unit}
	matched := false
	if instrument.Kind == sdkmetric.InstrumentKindHistogram && instrument.Unit == "s" {
		stream.Aggregation = sdkmetric.AggregationExplicitBucketHistogram{Boundaries: []float64{
			0.00001, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
		}}
		matched = true
	}
	if strings.HasPrefix(instrument.Name, "http.server.") {
		stream.AttributeFilter = requestLabels
		matched = true
	}
	return stream, matched
}

// Tracer starts the service's spans.
func (t *Telemetry) Tracer() trace.Tracer {
	return t.traces.Tracer(scope, trace.WithInstrumentationVersion(t.version))
}

// TracerProvider is for libraries that bring their own instrumentation.
func (t *Telemetry) TracerProvider() trace.TracerProvider { return t.traces }

// Meter makes the service's instruments. Durations are float64 histograms with unit "s". A callback has 2 s, and one that
// fails leaves its instruments out of that collection and nothing else.
func (t *Telemetry) Meter() metric.Meter {
	return meter{t.metrics.Meter(scope, metric.WithInstrumentationVersion(t.version)), t}
}

// MeterProvider is for libraries that bring their own instrumentation.
func (t *Telemetry) MeterProvider() metric.MeterProvider { return t.metrics }

// Propagator carries W3C Trace Context and Baggage, as [Inject] and [Extract] do.
func (t *Telemetry) Propagator() propagation.TextMapPropagator { return propagator }

// Registry takes collectors that are not OpenTelemetry's.
func (t *Telemetry) Registry() prometheus.Registerer { return t.registry }

// Handler serves the service's metrics in Prometheus' format, with those of the Go runtime and the process. Four scrapes
// at a time, 10 s each; more are answered 503.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{
		Registry: t.registry, MaxRequestsInFlight: 4, Timeout: 10 * time.Second,
	})
}

// Shutdown sends what is still held, within ctx and at most 5 s, and stops. No callback is called any more: what it reads may
// be closed. Later calls return the first one's error.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	t.shutdown.Do(func() {
		t.observing.Store(observesNoMore)
		ctx, cancel := context.WithTimeout(ctx, shutdownWithin)
		defer cancel()
		t.shutdownErr = errors.Join(t.traces.Shutdown(ctx), t.metrics.Shutdown(ctx))
	})
	return t.shutdownErr
}
