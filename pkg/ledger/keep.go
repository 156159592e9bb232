package ledger

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/nats-io/nats.go/jetstream"
)

// Keep makes sure that a stream exists as cfg says: made if new, brought up to
// date if it is another, and left alone if it is so already. Every service does
// this at its start, while others use the stream. A field of cfg that is zero is
// the server's to choose. Errors are NATS' own.
func Keep(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, cfg.Name)
	if err == nil && is(stream.CachedInfo().Config, cfg) {
		return stream, nil
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("look at stream %s: %w", cfg.Name, err)
	}
	if stream, err = js.CreateOrUpdateStream(ctx, cfg); err != nil {
		return nil, fmt.Errorf("create stream %s: %w", cfg.Name, err)
	}
	return stream, nil
}

// KeepConsumer is Keep for a durable consumer of a stream.
func KeepConsumer(ctx context.Context, stream jetstream.Stream, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	c, err := stream.Consumer(ctx, cfg.Durable)
	if err == nil && is(c.CachedInfo().Config, cfg) {
		return c, nil
	}
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, fmt.Errorf("look at consumer %s: %w", cfg.Durable, err)
	}
	if c, err = stream.CreateOrUpdateConsumer(ctx, cfg); err != nil {
		return nil, fmt.Errorf("create consumer %s: %w", cfg.Durable, err)
	}
	return c, nil
}

// is reports whether have is what want says where it says anything.
func is[T jetstream.StreamConfig | jetstream.ConsumerConfig](have, want T) bool {
	h, w := reflect.ValueOf(have), reflect.ValueOf(want)
	for i := range w.NumField() {
		if f := w.Field(i); !f.IsZero() && !reflect.DeepEqual(f.Interface(), h.Field(i).Interface()) {
			return false
		}
	}
	return true
}
