package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
)

// Log formats. An empty one is text on a terminal, else JSON.
const (
	FormatJSON = "json"
	FormatText = "text"
)

// Logger writes to w, one record a line, each with the service's name and, inside a span, its trace_id and span_id.
// format is [FormatJSON], [FormatText] or empty; anything else counts as empty.
func (t *Telemetry) Logger(w io.Writer, level slog.Leveler, format string) *slog.Logger {
	return NewLogger(t.service, w, level, format)
}

// NewLogger is [Telemetry.Logger] for a program that has no telemetry.
func NewLogger(service string, w io.Writer, level slog.Leveler, format string) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format != FormatJSON && format != FormatText {
		format = FormatJSON
		if terminal(w) {
			format = FormatText
		}
	}
	var handler slog.Handler = slog.NewJSONHandler(w, options)
	if format == FormatText {
		handler = slog.NewTextHandler(w, options)
	}
	return slog.New(&traceHandler{root: handler.WithAttrs([]slog.Attr{slog.String("service", service)})})
}

func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// traceHandler adds the span's ids to records, at the top level even inside groups: root has no group open, and
// inner, once a group was opened, is applied after the ids.
type traceHandler struct {
	root  slog.Handler
	inner []func(slog.Handler) slog.Handler
}

func (h *traceHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.root.Enabled(ctx, level)
}

func (h *traceHandler) Handle(ctx context.Context, record slog.Record) error {
	handler := h.root
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		ids := []slog.Attr{
			slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()),
		}
		if len(h.inner) == 0 {
			record = record.Clone()
			record.AddAttrs(ids...)
		} else {
			handler = handler.WithAttrs(ids)
		}
	}
	for _, apply := range h.inner {
		handler = apply(handler)
	}
	return handler.Handle(ctx, record)
}

func (h *traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(h.inner) == 0 {
		return &traceHandler{root: h.root.WithAttrs(attrs)}
	}
	return h.with(func(handler slog.Handler) slog.Handler { return handler.WithAttrs(attrs) })
}

func (h *traceHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.with(func(handler slog.Handler) slog.Handler { return handler.WithGroup(name) })
}

func (h *traceHandler) with(apply func(slog.Handler) slog.Handler) slog.Handler {
	inner := append(h.inner[:len(h.inner):len(h.inner)], apply)
	return &traceHandler{root: h.root, inner: inner}
}

// LoggerFromEnv is [NewLogger] on standard error, set by WRIT_LOG_LEVEL (debug, info, warn, error; info if empty) and
// WRIT_LOG_FORMAT (json, text). An error names the one that is neither.
func LoggerFromEnv(service string) (*slog.Logger, error) {
	level, format := slog.LevelInfo, os.Getenv("WRIT_LOG_FORMAT")
	if text := os.Getenv("WRIT_LOG_LEVEL"); text != "" && level.UnmarshalText([]byte(text)) != nil {
		return nil, errors.New("WRIT_LOG_LEVEL: want debug, info, warn or error")
	}
	if format != "" && format != FormatJSON && format != FormatText {
		return nil, errors.New("WRIT_LOG_FORMAT: want json or text")
	}
	return NewLogger(service, os.Stderr, level, format), nil
}

// Default makes log the process' own: what libraries log by themselves, OpenTelemetry's errors too, goes there.
func Default(log *slog.Logger) {
	slog.SetDefault(log)
	otel.SetLogger(logr.FromSlogHandler(log.Handler()))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("OpenTelemetry", "error", err) }))
}
