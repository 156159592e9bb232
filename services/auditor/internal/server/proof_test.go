package server

import (
	"context"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind/user"
)

// odd are decisions whose bytes are easily changed on the way.
func odd(i int) *events.Decision {
	return made(func(d *events.Decision) {
		d.Resource.ID = []string{"=cmd|' /C calc'!A0", "+1", "-1", "@x", "<a>&amp;", "line\u2028end", "ß漢😀", "a\tb\r\nc", `"quoted", and`, "plain"}[i%10]
		d.Policy.Reason = d.Resource.ID
		if i%3 == 0 {
			d.Effect, d.Action = events.Deny, []string{"create", "update", "delete", "approve"}[i%4]
		}
	})
}

func TestEvidenceIsCheckedOffline(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(700, odd)
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	d := r.list(token, "limit=200").Items[123]
	a := r.get("/v1/decisions/"+d.decision(t).ID+"/proof", token)
	var ev audit.Evidence
	must(t, json.Unmarshal(a.body, &ev))
	checked, err := ev.Check(r.key.PublicKey)
	if a.status != 200 || err != nil || checked.Decision.ID != d.decision(t).ID {
		t.Fatalf("%v %.300s", err, a.body)
	}
	ev.Decisions[0].Record = strings.Replace(ev.Decisions[0].Record, "sam", "rim", 1)
	if _, err := ev.Check(r.key.PublicKey); err == nil {
		t.Fatal("a changed record was proven")
	}
}

func TestConsistencyIsProven(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(1000, odd)
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	var last struct{ Decisions CheckpointOf }
	must(t, json.Unmarshal(r.get("/v1/checkpoint", token).body, &last))
	latest := need(r.key.Open(audit.Decisions, []byte(last.Decisions.Note)))(t)
	if latest.Tree.N != 1000 || last.Decisions.Size != 1000 || last.Decisions.Root != latest.Tree.Hash.String() || last.Decisions.Key != r.key.VKey(audit.Decisions) {
		t.Fatalf("%+v", last)
	}
	for _, n := range []int64{1, 255, 256, 257, 999, 1000} {
		a := r.get(fmt.Sprintf("/v1/consistency?from=%d", n), token)
		var got struct{ Hashes tlog.TreeProof }
		must(t, json.Unmarshal(a.body, &got))
		old := need(audit.RootAt(t.Context(), r.server.Audit, audit.Decisions, n))(t)
		if err := tlog.CheckTree(got.Hashes, latest.Tree.N, latest.Tree.Hash, n, old.Hash); err != nil {
			t.Errorf("from %d: %v %s", n, err, a.body)
		}
	}
	for _, n := range []string{"0", "-1", "1001", "x"} {
		if a := r.get("/v1/consistency?from="+n, token); a.status != http.StatusUnprocessableEntity {
			t.Errorf("from %s: %d", n, a.status)
		}
	}
}

// tileClient reads a log as any client of C2SP tlog-tiles does.
type tileClient struct {
	r             *rig
	prefix, token string
}

func (c tileClient) Height() int { return audit.TileHeight }

func (c tileClient) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, tile := range tiles {
		a := c.r.get(c.prefix+"/"+audit.TilePath(tile), c.token)
		if a.status != 200 || a.header.Get("Content-Type") != "application/octet-stream" || !strings.Contains(a.header.Get("Cache-Control"), "immutable") {
			return nil, fmt.Errorf("%s: %d %s", audit.TilePath(tile), a.status, a.body)
		}
		out[i] = a.body
	}
	return out, nil
}

func (c tileClient) SaveTiles([]tlog.Tile, [][]byte) {}

func TestClientsOfTransparencyLogsReadIt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const n = 70_000 // three levels of tiles
	r.fill(n, func(i int) *events.Decision { return made(nil) })
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	for _, prefix := range []string{"", "/decisions"} {
		signed := r.get(prefix+"/checkpoint", "")
		cp, err := r.key.Open(audit.Decisions, signed.body)
		if err != nil || cp.Tree.N != n || signed.header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Fatalf("%v %d %s", err, signed.status, signed.body)
		}
		hashes := tlog.TileHashReader(cp.Tree, tileClient{r, prefix, ""}) // hashes take no session
		for _, bundle := range []int64{0, 131, n / audit.BundleSize} {
			width := min(int64(audit.BundleSize), n-bundle*audit.BundleSize)
			path := audit.TilePath(tlog.Tile{H: audit.TileHeight, L: -1, N: bundle, W: int(width)})
			a := r.get(prefix+"/"+path, token)
			records, err := audit.DecodeBundle(a.body)
			if a.status != 200 || err != nil || int64(len(records)) != width || !strings.Contains(a.header.Get("Cache-Control"), "private") {
				t.Fatalf("%s: %d %v %d", path, a.status, err, len(records))
			}
			tag := a.header.Get("ETag")
			if cache, vary := a.header.Get("Cache-Control"), a.header.Get("Vary"); cache != "private, no-cache" || !strings.Contains(vary, "Authorization") || !strings.Contains(vary, gate.TenantHeader) || tag == "" {
				t.Errorf("%s: records of all tenants stay with whoever asks next: Cache-Control: %s, Vary: %s", path, cache, vary)
			}
			if again := r.get(prefix+"/"+path, token, "If-None-Match", tag); again.status != 304 {
				t.Errorf("%s, once more: %d, want 304", path, again.status)
			}
			if other := r.get(prefix+"/"+path, "", "If-None-Match", tag); other.status != 401 {
				t.Errorf("%s, as nobody: %d, want 401", path, other.status)
			}
			for i, record := range records {
				index := bundle*audit.BundleSize + int64(i)
				if i%97 != 0 {
					continue
				}
				proof, err := tlog.ProveRecord(cp.Tree.N, index, hashes)
				if err == nil {
					err = tlog.CheckRecord(proof, cp.Tree.N, cp.Tree.Hash, index, tlog.RecordHash(record))
				}
				if err != nil {
					t.Fatalf("%d: %v", index, err)
				}
			}
		}
	}
	if cp, err := r.key.Open(audit.Outcomes, r.get("/outcomes/checkpoint", "").body); err != nil || cp.Tree.N != 0 {
		t.Errorf("outcomes: %v %+v", err, cp)
	}
	for _, path := range []string{
		"/tile/0/274", "/tile/0/x999/999", "/tile/3/000", "/tile/64/000", "/tile/8/0/000", "/tile/0/273.p/113", "/tile/0/00", "/tile/data/000", "/tile/", "/tile/x",
		"/tile/0/x000/x000/x000/x000/x000/x000/000", "/outcomes/tile/0/000", "/tile/0/..%2f..", "/tile/9/x999/x999/x999/x999/x999/999",
	} {
		if a := r.get(path, token); a.status != http.StatusNotFound {
			t.Errorf("%s: %d %.100s", path, a.status, a.body)
		}
	}
	if a := r.get("/tile/entries/274", token); a.status != http.StatusNotFound {
		t.Errorf("a bundle that is not there: %d", a.status)
	}
}

func TestExportCanBeVerified(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const n = 1500
	r.fill(n, odd)
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	root := func(leaves []tlog.Hash) tlog.Hash {
		tree := &audit.Tree{}
		tree.Append(leaves...)
		return tree.Tree().Hash
	}

	t.Run("jsonl", func(t *testing.T) {
		a := r.get("/v1/decisions/export", token)
		cp := need(r.key.Open(audit.Decisions, need(base64.StdEncoding.DecodeString(a.header.Get(checkpointHeader)))(t)))(t)
		lines := strings.Split(strings.TrimSuffix(string(a.body), "\n"), "\n")
		var leaves []tlog.Hash
		for i, line := range lines[:len(lines)-1] {
			var it item
			must(t, json.Unmarshal([]byte(line), &it))
			h := tlog.RecordHash(it.Decision)
			if it.Index != int64(i) || it.LeafHash != leafHash(h) || it.Sequence != uint64(i+1) {
				t.Fatalf("%d: %s", i, line)
			}
			leaves = append(leaves, h)
		}
		var end exportEnd
		must(t, json.Unmarshal([]byte(lines[len(lines)-1]), &end))
		if end.Entries != n || end.Checkpoint != string(cp.Note) || root(leaves) != cp.Tree.Hash {
			t.Fatalf("%+v %d", end, len(leaves))
		}
	})
	t.Run("csv", func(t *testing.T) {
		a := r.get("/v1/decisions/export?format=csv", token)
		rows := need(csv.NewReader(strings.NewReader(string(a.body))).ReadAll())(t)
		var leaves []tlog.Hash
		column := map[string]int{}
		for i, name := range rows[0] {
			column[name] = i
		}
		for i, row := range rows[1:] {
			for _, cell := range row {
				if cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r\n") {
					t.Fatalf("a spreadsheet would run %q", cell)
				}
			}
			h := tlog.RecordHash([]byte(row[column["decision"]]))
			if row[column["leaf_hash"]] != leafHash(h) || row[column["index"]] != fmt.Sprint(i) || row[column["sequence"]] != fmt.Sprint(i+1) {
				t.Fatalf("%d: %v", i, row)
			}
			leaves = append(leaves, h)
		}
		cp := need(r.key.Open(audit.Decisions, []byte(rows[1][column["checkpoint"]])))(t)
		if len(leaves) != n || root(leaves) != cp.Tree.Hash {
			t.Fatalf("%d rows, not the checkpoint's", len(leaves))
		}
	})
	t.Run("ocsf", func(t *testing.T) {
		a := r.get("/v1/decisions/export?format=ocsf", token)
		var leaves []tlog.Hash
		var cp audit.Checkpoint
		for line := range strings.SplitSeq(strings.TrimSuffix(string(a.body), "\n"), "\n") {
			var e ocsfEvent
			must(t, json.Unmarshal([]byte(line), &e))
			var d events.Decision
			must(t, json.Unmarshal([]byte(e.RawData), &d))
			h := tlog.RecordHash([]byte(e.RawData))
			if e.Unmapped.LeafHash != leafHash(h) || e.Unmapped.Index != int64(len(leaves)) || e.Metadata.Sequence != uint64(len(leaves)+1) {
				t.Fatalf("%s", line)
			}
			if len(leaves) == 0 {
				cp = need(r.key.Open(audit.Decisions, []byte(e.Unmapped.Checkpoint.Note)))(t)
			}
			leaves = append(leaves, h)
			conforms(t, []byte(line), d)
		}
		if len(leaves) != n || root(leaves) != cp.Tree.Hash {
			t.Fatalf("%d events, not the checkpoint's", len(leaves))
		}
	})
	t.Run("a part of it", func(t *testing.T) {
		a := r.get("/v1/decisions/export?effect=deny", token)
		if lines := strings.Count(string(a.body), "\n"); lines != n/3+1 {
			t.Errorf("%d lines", lines)
		}
	})
}

// conforms checks what OCSF 1.8 requires of the class and of the objects in it.
func conforms(t *testing.T, line []byte, d events.Decision) {
	t.Helper()
	var e map[string]any
	must(t, json.Unmarshal(line, &e))
	at := func(path string) any {
		var v any = e
		for name := range strings.SplitSeq(path, ".") {
			m, _ := v.(map[string]any)
			v = m[name]
		}
		return v
	}
	for _, path := range []string{
		"activity_id", "category_uid", "class_uid", "type_uid", "severity_id", "time", "metadata.version", "metadata.product.name", "api.operation",
		"actor.user.uid", "actor.authorizations", "src_endpoint.ip", "disposition_id", "action_id", "status_id",
	} {
		if at(path) == nil || at(path) == "" {
			t.Fatalf("%s is missing: %s", path, line)
		}
	}
	activity := map[string]float64{"read": 2, "create": 1, "update": 3, "delete": 4, "approve": 99}[d.Action]
	if d.Action != "read" && d.Command == nil && d.Effect == events.Allow {
		activity = 99 // it permitted no command, so nothing was done
	}
	disposition, decision := 1.0, "allowed"
	if d.Effect == events.Deny {
		disposition, decision = 2, "denied"
	}
	if d.IsQuestion() {
		activity, disposition = 99, 17
	}
	authorization := at("actor.authorizations").([]any)[0].(map[string]any)
	if at("class_uid") != 6003.0 || at("category_uid") != 6.0 || at("activity_id") != activity || at("type_uid") != 600300+activity ||
		at("disposition_id") != disposition || authorization["decision"] != decision || at("metadata.version") != "1.8.0" {
		t.Fatalf("%s", line)
	}
}

func TestExportThatIsCutOffIsNotTakenForComplete(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(20_000, odd)
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	res := need(http.DefaultClient.Do(r.request(ctx, "/v1/decisions/export", token)))(t)
	defer res.Body.Close()
	close(r.stopping)
	var err error
	buffer := make([]byte, 1<<20)
	for err == nil {
		_, err = res.Body.Read(buffer)
	}
	if err.Error() != "unexpected EOF" {
		t.Fatalf("the export ended with %v", err)
	}
}

// between does something once, between two steps of the log that are read.
type between struct {
	counter
	once sync.Once
	do   func()
}

func (b *between) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	counted := b.counter.ProcessHook(next)
	return func(ctx context.Context, cmd redis.Cmder) error {
		if b.steps.Load() == 2 && cmd.Name() == "xrange" {
			b.once.Do(b.do)
		}
		return counted(ctx, cmd)
	}
}

// TestExportThatMissesEntriesIsNotTakenForComplete takes entries away while
// they are exported: by retention, and by the loss of all of Redis.
func TestExportThatMissesEntriesIsNotTakenForComplete(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(ctx context.Context, rdb *redis.Client) error{
		"trimmed": func(ctx context.Context, rdb *redis.Client) error {
			_, _, err := audit.NewAppender(rdb, 0).Trim(ctx, audit.Decisions, time.Now())
			return err
		},
		"lost": func(ctx context.Context, rdb *redis.Client) error { return rdb.FlushAll(ctx).Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.fill(5000, odd)
			_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
			other := redis.NewClient(need(redis.ParseURL(r.redis))(t))
			defer other.Close()
			var failed error
			r.rdb.AddHook(&between{do: func() { failed = take(t.Context(), other) }})
			res := need(http.DefaultClient.Do(r.request(t.Context(), "/v1/decisions/export?format=csv", token)))(t)
			defer res.Body.Close()
			n, err := io.Copy(io.Discard, res.Body)
			if failed != nil || n == 0 || err == nil || err.Error() != "unexpected EOF" {
				t.Fatalf("the export ended with %v after %d bytes; %v", err, n, failed)
			}
		})
	}
}

func TestCountsPerMinute(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.limits.entries = 1024 })
	const n = 5000 // one a millisecond
	r.fill(n, odd)
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	total := map[string]int{}
	for cursor, pages := "", 0; ; pages++ {
		a := r.get("/v1/stats?kind=contact"+cursor, token)
		var got struct {
			Counts []Count
			Searched
		}
		must(t, json.Unmarshal(a.body, &got))
		for _, c := range got.Counts {
			total[c.Action+" "+string(c.Effect)] += c.Count
			if c.Minute.Second() != 0 || time.Since(c.Minute) > 5*time.Minute {
				t.Errorf("%+v", c)
			}
		}
		if got.NextCursor == "" {
			if pages < 4 {
				t.Errorf("%d answers", pages)
			}
			break
		}
		cursor = "&cursor=" + got.NextCursor
	}
	sum := 0
	for _, c := range total {
		sum += c
	}
	if sum != n || total["read allow"] != n-(n+2)/3 {
		t.Errorf("%v", total)
	}
}
