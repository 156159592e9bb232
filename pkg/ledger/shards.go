package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// The stream's metadata tells over how many shards the commands are spread. All
// services must agree on it, or commands on one resource would lose their order:
// so the ledger has it. Of the last change it tells where the shards begin.
const (
	metadataShards = "writ-shards"
	metadataBegin  = "writ-shards-begin"
)

// ErrShards says that a service was told another number of shards than the
// ledger has.
var ErrShards = errors.New("WRIT_LEDGER_SHARDS is not what the ledger has (how to change it: docs/runbook.md)")

// makeLedger makes the stream LEDGER, or brings it up to date, and compares its
// number of shards. It is safe to be run by several services at once.
func makeLedger(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig, shards int) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, cfg.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		cfg.Metadata = map[string]string{metadataShards: strconv.Itoa(shards)}
		stream, err = js.CreateStream(ctx, cfg)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another service was faster
			stream, err = js.Stream(ctx, cfg.Name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create stream %s: %w", cfg.Name, err)
	}
	have := stream.CachedInfo().Config.Metadata
	if n := have[metadataShards]; n != strconv.Itoa(shards) {
		return nil, fmt.Errorf("%w: %d here, %s there", ErrShards, shards, n)
	}
	cfg.Metadata = have
	return Keep(ctx, js, cfg)
}

// Shards is over how many shards the commands are spread.
func (l *Ledger) Shards() int { return l.cfg.Shards }

// Reshard changes the number of shards of a ledger of which every command is
// applied and answered, while nobody appends or applies: positions are those of
// SQL and have one for each shard as it was. It gives the position that every
// shard begins with; SQL must have those before a worker starts.
func Reshard(ctx context.Context, js jetstream.JetStream, positions map[int]events.Address, shards int) (begin events.Address, err error) {
	if shards < 1 || shards > events.MaxShards {
		return 0, fmt.Errorf("%d shards, want 1 to %d", shards, events.MaxShards)
	}
	stream, err := js.Stream(ctx, events.StreamLedger)
	if err != nil {
		return 0, fault.Unreachable(Dependency, err)
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, fault.Unreachable(Dependency, err)
	}
	before, err := strconv.Atoi(info.Config.Metadata[metadataShards])
	if err != nil {
		return 0, fmt.Errorf("the stream's metadata has no %s", metadataShards)
	}
	// SQL has no position of a shard when an earlier run was killed before SQL had
	// the new ones. Everything up to where that one let the shards begin was applied.
	begun := events.Address(0)
	if text := info.Config.Metadata[metadataBegin]; text != "" {
		if begun, err = strconv.ParseUint(text, 10, 64); err != nil {
			return 0, fmt.Errorf("the stream's metadata has %s %q", metadataBegin, text)
		}
	}
	for shard := range before {
		position, ok := positions[shard]
		if !ok {
			position = begun
		}
		if err := settled(ctx, stream, shard, position); err != nil {
			return 0, err
		}
	}
	begin = events.End(info.State.LastSeq)
	cfg := info.Config
	cfg.Metadata = maps.Clone(cfg.Metadata)
	cfg.Metadata[metadataShards] = strconv.Itoa(shards)
	cfg.Metadata[metadataBegin] = strconv.FormatUint(begin, 10)
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		return 0, fault.Unreachable(Dependency, fmt.Errorf("change the number of shards: %w", err))
	}
	return begin, nil
}

// settled reports an error unless every command of a shard is applied.
func settled(ctx context.Context, stream jetstream.Stream, shard int, position events.Address) error {
	m, err := stream.GetLastMsgForSubject(ctx, events.CommandSubject(shard))
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	all := stored(m)
	if last := all[len(all)-1].Address; position < last {
		return fmt.Errorf("shard %d has commands up to %d, of which those after %d are not applied: let a worker finish first", shard, last, position)
	}
	return nil
}
