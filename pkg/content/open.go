package content

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/fault"
)

const (
	bucket         = "content"
	bucketStream   = "OBJ_" + bucket
	sessions       = "uploads"
	sessionsStream = "KV_" + sessions
	// sessionLife is how long a resumable upload that nobody continues is kept.
	sessionLife = 24 * time.Hour
	// maxSessions bounds the sessions, in bytes: about 15,000.
	maxSessions = 16 << 20
)

// Config says how the store is kept.
type Config struct {
	// Replicas: 1 or 3.
	Replicas int
	// MaxBytes bounds all uploads together; 0 means the server's own limit. A full
	// store refuses uploads.
	MaxBytes int64
}

// Store is the content store. It is safe for concurrent use.
type Store struct {
	js       jetstream.JetStream
	objects  jetstream.ObjectStore
	stream   jetstream.Stream
	sessions jetstream.KeyValue

	orphanAge time.Duration
}

// Open makes sure that the buckets exist; those that are as they should be are
// left alone, as ledger.Keep does it. The connection stays the caller's.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Store, error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(callTimeout))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	s := &Store{js: js, orphanAge: orphanAge}
	if s.objects, err = files(ctx, js, cfg); err != nil {
		return nil, fault.Unreachable(Dependency, fmt.Errorf("open the bucket %s: %w", bucket, err))
	}
	if s.stream, err = js.Stream(ctx, bucketStream); err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	if s.sessions, err = resumable(ctx, js, cfg); err != nil {
		return nil, fault.Unreachable(Dependency, fmt.Errorf("open the bucket %s: %w", sessions, err))
	}
	return s, nil
}

// files opens the bucket of the uploads' parts.
func files(ctx context.Context, js jetstream.JetStream, cfg Config) (jetstream.ObjectStore, error) {
	want := jetstream.ObjectStoreConfig{
		Bucket: bucket, Description: "writ: the bytes of uploads", MaxBytes: cfg.MaxBytes, Replicas: max(cfg.Replicas, 1),
	}
	if want.MaxBytes == 0 {
		want.MaxBytes = -1
	}
	so, err := isSo(ctx, js, jetstream.StreamConfig{Name: bucketStream, Description: want.Description, MaxBytes: want.MaxBytes, Replicas: want.Replicas})
	if err != nil {
		return nil, err
	}
	if so {
		return js.ObjectStore(ctx, bucket)
	}
	return js.CreateOrUpdateObjectStore(ctx, want)
}

// resumable opens the bucket of the sessions.
func resumable(ctx context.Context, js jetstream.JetStream, cfg Config) (jetstream.KeyValue, error) {
	want := jetstream.KeyValueConfig{
		Bucket: sessions, Description: "writ: how far resumable uploads have got", TTL: sessionLife, MaxBytes: maxSessions, Replicas: max(cfg.Replicas, 1),
	}
	so, err := isSo(ctx, js, jetstream.StreamConfig{
		Name: sessionsStream, Description: want.Description, MaxBytes: want.MaxBytes, Replicas: want.Replicas, MaxAge: want.TTL,
	})
	if err != nil {
		return nil, err
	}
	if so {
		return js.KeyValue(ctx, sessions)
	}
	return js.CreateOrUpdateKeyValue(ctx, want)
}

// isSo reports whether a bucket's stream is there with what this package sets of
// it. The rest is the client library's to choose.
func isSo(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (bool, error) {
	stream, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	have := stream.CachedInfo().Config
	return have.Description == want.Description && have.MaxBytes == want.MaxBytes && have.Replicas == want.Replicas && have.MaxAge == want.MaxAge, nil
}
