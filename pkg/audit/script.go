package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/fault"
)

// scriptItems is how many entries one script appends. A batch goes to Redis as a
// pipeline of scripts, so that it appends the first while the others are on their way,
// and whoever else asks Redis waits for one script at most: below a millisecond.
const scriptItems = 128

// parts splits a batch into what one script appends.
func (b Batch) parts() []Batch {
	out := make([]Batch, 0, len(b.Items)/scriptItems+1)
	for len(b.Items) > scriptItems {
		p := Batch{Items: b.Items[:scriptItems], Sequence: b.Items[scriptItems-1].ID.Sequence, Start: b.Start}
		n := 0
		// A range lies between entries. Those up to the next part's first entry belong
		// to this part, so that it ends where an event or a whole message does.
		for next := b.Items[scriptItems].ID.Sequence; n < len(b.Explained) && b.Explained[n].Last < next; n++ {
			p.Sequence = max(p.Sequence, b.Explained[n].Last)
		}
		p.Explained, b.Explained, b.Items = b.Explained[:n], b.Explained[n:], b.Items[scriptItems:]
		out = append(out, p)
	}
	return append(out, b)
}

// script gives the arguments that append a part at head, and the head then.
func (a *Appender) script(head Head, trees Trees, b Batch) (args []any, after Head) {
	next := head.State
	next.Sequence = b.Sequence
	if head.Empty() {
		next.Start = b.Start
	}
	args = make([]any, 9, 10+3*len(b.Items)+64)
	var tiles, bundles []any
	for i, l := range Logs {
		p := next.Of(l)
		n := 0
		for j := range b.Items {
			item := &b.Items[j]
			if item.Log != l {
				continue
			}
			args = append(args, item.ID.String(), item.Record, item.Seal)
			if (p.Size+int64(n))%BundleSize == 0 {
				bundles = append(bundles, l.bundlesKey(), strconv.FormatUint(item.ID.Sequence, 10), member((p.Size+int64(n))/BundleSize, item.ID))
			}
			p.Last = item.ID
			n++
		}
		for _, w := range trees.Of(l).Append(b.Leaves(l)...) {
			data := make([]byte, 0, len(w.Hashes)*tlog.HashSize)
			for _, h := range w.Hashes {
				data = append(data, h[:]...)
			}
			tiles = append(tiles, l.tileKey(w.Level, w.N), w.Offset*tlog.HashSize, data)
		}
		p.Size += int64(n)
		next.set(l, p)
		args[7+i] = n
	}
	args[0] = head.token
	for i, v := range next.marks() {
		args[1+i] = v
	}
	for _, part := range [][]any{tiles, bundles, a.index(b)} {
		args = append(append(args, len(part)/3), part...)
	}
	return args, Head{State: next, through: next.Sequence, token: strings.Join(append([]string{next.Decisions.Last.String(), next.Outcomes.Last.String()}, next.marks()...), " ")}
}

// pipeline runs the append script with each of these arguments, in one go. Where one
// finds the logs elsewhere than it expects, so do those after it, unless another auditor
// has just done what it was to do: then they go on from there, and ErrMoved is told all
// the same.
func (a *Appender) pipeline(ctx context.Context, scripts [][]any) error {
	send := func() ([]redis.Cmder, error) {
		return a.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, args := range scripts {
				appendLua.EvalSha(ctx, p, scriptKeys, args...)
			}
			return nil
		})
	}
	done, err := send()
	if errors.Is(err, redis.ErrNoScript) || redis.HasErrorPrefix(err, "NOSCRIPT") { // a Redis that was just started
		if err = appendLua.Load(ctx, a.rdb).Err(); err == nil {
			done, err = send()
		}
	}
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	for _, c := range done {
		if ok, _, err := answer(c.(*redis.Cmd).Slice()); err != nil || !ok {
			return cmp.Or(err, ErrMoved)
		}
	}
	return nil
}

func (a *Appender) run(ctx context.Context, script *redis.Script, args []any) (ok bool, token string, err error) {
	return answer(script.Run(ctx, a.rdb, scriptKeys, args...).Slice())
}

// answer reads what a script says: whether the logs stood where it was told, and where
// they stand.
func answer(res []any, err error) (ok bool, token string, _ error) {
	if err != nil {
		return false, "", fault.Unreachable(Dependency, err)
	}
	if len(res) != 2 {
		return false, "", fault.Unreachable(Dependency, fmt.Errorf("unexpected answer of the script: %v", res))
	}
	done, _ := res[0].(int64)
	token, _ = res[1].(string)
	return done == 1, token, nil
}
