package telemetry

import (
	"context"
	"net/textproto"
	"strings"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"
)

// propagator is W3C Trace Context (traceparent, tracestate) and W3C Baggage.
var propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})

// Inject writes the span of ctx into a message's header, sampled or not. It does nothing when header is nil.
func Inject(ctx context.Context, header nats.Header) {
	if header != nil {
		propagator.Inject(ctx, carrier(header))
	}
}

// Extract returns ctx with the remote span that a message's header names, or ctx itself if it names none or is not
// well formed.
func Extract(ctx context.Context, header nats.Header) context.Context {
	return propagator.Extract(ctx, carrier(header))
}

// Sampled tells whether a message's header names a span that somebody will see: without
// reading more of it (W3C Trace Context, 3.2.2.5.1).
func Sampled(header nats.Header) bool {
	v := carrier(header).Get("traceparent")
	return len(v) >= traceparent && strings.IndexByte("13579bdf", v[traceparent-1]) >= 0
}

// traceparent is the length of version, trace-id, parent-id and trace-flags.
const traceparent = 55

// carrier writes names as the specification spells them, in lower case: NATS headers are case-sensitive. Reading also
// accepts the spelling of publishers that treat them as HTTP headers.
type carrier nats.Header

func (c carrier) Get(key string) string {
	if values := c[key]; len(values) > 0 {
		return values[0]
	}
	if values := c[textproto.CanonicalMIMEHeaderKey(key)]; len(values) > 0 {
		return values[0]
	}
	return ""
}

func (c carrier) Set(key, value string) { c[key] = []string{value} }

func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for key := range c {
		keys = append(keys, key)
	}
	return keys
}

// TraceParent is the W3C traceparent of the span of ctx, "" for none.
func TraceParent(ctx context.Context) string {
	header := nats.Header{}
	propagation.TraceContext{}.Inject(ctx, carrier(header))
	return carrier(header).Get("traceparent")
}

// FromTraceParent returns ctx with the remote span that a traceparent names, or
// ctx itself if it names none or is not well formed.
func FromTraceParent(ctx context.Context, traceparent string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, carrier{"traceparent": {traceparent}})
}

// SampledParent tells whether a traceparent names a span that somebody will see
// (W3C Trace Context, 3.2.2.5.1).
func SampledParent(v string) bool {
	return len(v) >= traceparent && strings.IndexByte("13579bdf", v[traceparent-1]) >= 0
}
