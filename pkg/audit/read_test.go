package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

func TestReaderKnowsEveryIndex(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		r.fill(1300)
		all := map[bool][]Entry{}
		for _, backwards := range []bool{false, true} {
			span := Span{To: MaxID, Backwards: backwards, Limit: 100}
			for {
				step := need(r.read.Range(t.Context(), Decisions, span))(t)
				if len(step) == 0 {
					break
				}
				all[backwards] = append(all[backwards], step...)
				if last := step[len(step)-1].ID; backwards {
					span.To = last.Prev()
				} else {
					span.From = last.Next()
				}
			}
			if len(all[backwards]) != 780 {
				t.Fatalf("%d entries", len(all[backwards]))
			}
		}
		for i, e := range all[false] {
			other := all[true][779-i]
			if e.Index != int64(i) || e.ID != other.ID || e.Index != other.Index {
				t.Fatalf("%d: %+v, %+v", i, e, other)
			}
		}
		for _, i := range []int64{0, 255, 256, 511, 779} {
			if e := need(r.read.At(t.Context(), Decisions, i))(t); e.ID != all[false][i].ID || e.Index != i {
				t.Fatalf("%d: %+v", i, e)
			}
		}
		for i, id := range r.ids {
			e := need(r.read.Get(t.Context(), id))(t)
			if e.Index != int64(i) || decision(t, e).ID != id {
				t.Fatalf("%s: %+v", id, e)
			}
			if same := need(r.read.ByAddress(t.Context(), Decisions, e.ID.Sequence))(t); same.ID != e.ID || same.Index != e.Index {
				t.Fatalf("%+v", same)
			}
		}
		for _, id := range []string{"", "x", "019d0000-0000-7000-8000-000000000001", strings.ToUpper(r.ids[0])} {
			if _, err := r.read.Get(t.Context(), id); !fault.Is(err, fault.NotFound) {
				t.Errorf("%q: %v", id, err)
			}
		}
		if _, err := r.read.ByAddress(t.Context(), Decisions, address(10)); !fault.Is(err, fault.NotFound) {
			t.Error(err)
		}
	})
}

func TestEvidenceIsCheckedOffline(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		r.fill(700)
		// A command whose decision had gone stale: decided again, and rejected by that.
		first := decision(t, need(r.read.ByAddress(t.Context(), Decisions, address(691)))(t))
		stale, again := first, first
		stale.ID, stale.Command = "019d0000-0000-7000-8000-0000000000a8", &events.CommandRef{ID: "stale", SHA256: events.Digest(nil)}
		again.ID, again.Command, again.Stage, again.Effect = "019d0000-0000-7000-8000-0000000000a9", stale.Command, events.StageApply, events.Deny
		o := events.Outcome{ID: "stale.outcome", CommandID: "stale", Kind: "contact", ResourceID: "c", Action: "update", Tenant: "default",
			Status: events.StatusRejected, DecisionID: again.ID, Sequence: address(701)}
		r.append(Batch{Sequence: address(703), Items: []Item{
			{Entry: Entry{Log: Decisions, ID: ID{r.ms, address(701)}, Record: need(events.EncodeDecision(&stale))(t), Seal: "k.m"}, DecisionID: stale.ID},
			{Entry: Entry{Log: Decisions, ID: ID{r.ms, address(702)}, Record: need(events.EncodeDecision(&again))(t), Seal: "k.m"}, DecisionID: again.ID},
			{Entry: Entry{Log: Outcomes, ID: ID{r.ms, address(703)}, Record: need(events.EncodeOutcome(&o))(t), Seal: "k.m"}, DecisionID: again.ID, Command: address(701)},
		}})
		r.n = 703
		if _, err := r.read.Evidence(t.Context(), r.ids[0]); !errors.Is(err, ErrNoCheckpoint) {
			t.Fatal(err)
		}
		r.sign()
		for name, c := range map[string]struct {
			id        string
			decisions int
			outcome   bool
		}{
			"a read":            {r.ids[1], 1, false},
			"a command":         {first.ID, 1, true},
			"a stale decision":  {stale.ID, 2, true},
			"a second decision": {again.ID, 2, true},
		} {
			ev := need(r.read.Evidence(t.Context(), c.id))(t)
			file := need(json.MarshalIndent(ev, "", "  "))(t)
			var read Evidence
			must(t, json.Unmarshal(file, &read))
			got := need(read.Check(r.key.PublicKey))(t)
			if len(read.Decisions) != c.decisions || (got.Outcome != nil) != c.outcome || got.Again != nil != (c.decisions == 2) {
				t.Errorf("%s: %s", name, file)
			}
			if _, err := read.Check(need(GenerateKey("test"))(t).PublicKey); !errors.Is(err, ErrSignature) {
				t.Errorf("%s: another key: %v", name, err)
			}
			for what, change := range map[string]func(*Evidence){
				"format":   func(e *Evidence) { e.Format = "" },
				"record":   func(e *Evidence) { e.Decisions[0].Record += " " },
				"effect":   func(e *Evidence) { e.Decisions[0].Record = strings.Replace(e.Decisions[0].Record, "allow", "deny", 1) },
				"index":    func(e *Evidence) { e.Decisions[0].Proof.Index++ },
				"proof":    func(e *Evidence) { e.Decisions[0].Proof.Hashes = e.Decisions[0].Proof.Hashes[1:] },
				"sequence": func(e *Evidence) { e.Decisions[0].ID = "1-1" },
				"none":     func(e *Evidence) { e.Decisions = nil },
				"outcome":  func(e *Evidence) { e.Outcome = &e.Decisions[0] },
			} {
				var changed Evidence
				must(t, json.Unmarshal(file, &changed))
				change(&changed)
				if what == "sequence" && !c.outcome {
					continue // nothing else tells it
				}
				if _, err := changed.Check(r.key.PublicKey); err == nil {
					t.Errorf("%s: checked with another %s", name, what)
				}
			}
		}
		r.fill(8)
		if _, err := r.read.Evidence(t.Context(), r.ids[len(r.ids)-1]); !errors.Is(err, ErrNotYet) {
			t.Error(err)
		}
	})
}

func TestCheckpointsAndKeys(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.key")
	k := need(LoadOrCreateKey(path, "host"))(t)
	again := need(LoadOrCreateKey(path, "other"))(t)
	if again.String() != k.String() || again.PublicKey.String() != k.PublicKey.String() || k.Origin(Decisions) != "writ/host/decisions" {
		t.Fatal(k.PublicKey, again.PublicKey)
	}
	if _, err := CreateKey(path, "host"); !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	tree := tlog.Tree{N: 7, Hash: tlog.RecordHash([]byte("x"))}
	c := need(k.Sign(Decisions, tree))(t)
	if same := need(k.Sign(Decisions, tree))(t); string(same.Note) != string(c.Note) {
		t.Fatal("not the same bytes")
	}
	// Any client of signed notes and of C2SP checkpoints reads it.
	n := need(note.Open(c.Note, note.VerifierList(need(note.NewVerifier(k.VKey(Decisions)))(t))))(t)
	if n.Text != fmt.Sprintf("writ/host/decisions\n7\n%s\n", tree.Hash) {
		t.Fatal(n.Text)
	}
	for _, text := range []string{k.PublicKey.String(), k.VKey(Decisions), k.VKey(Outcomes) + "\n"} {
		p := need(ParsePublicKey(text))(t)
		if got := need(p.Open(Decisions, c.Note))(t); got.Tree != tree || p.ID() != k.ID() {
			t.Fatalf("%s: %+v", text, got)
		}
		if _, err := p.Open(Outcomes, c.Note); !errors.Is(err, ErrSignature) {
			t.Fatal(err)
		}
	}
	if got := need(ParseCheckpoint(c.Note))(t); got.Tree != tree || got.Origin != c.Origin {
		t.Fatalf("%+v", got)
	}
	for i := range strings.Index(string(c.Note), "\n\n") {
		changed := []byte(string(c.Note))
		changed[i] ^= 1
		if got, err := k.Open(Decisions, changed); err == nil {
			t.Errorf("byte %d: %+v", i, got)
		}
	}
	for _, bad := range []string{"", "PRIVATE+KEY+x", k.VKey(Decisions), strings.Replace(k.String(), "host", "hose", 1)} {
		if _, err := ParseKey(bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, name := range []string{"", "a b", "a/b", "a+b"} {
		if _, err := GenerateKey(name); err == nil {
			t.Errorf("%q", name)
		}
	}
}

func TestAppendComparesWhereItStands(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		before, trees := r.head, r.trees
		r.fill(20)
		for _, old := range []Head{before, {}} {
			if _, err := r.log.Append(t.Context(), old, trees.Clone(), Batch{Sequence: address(99), Items: []Item{{Entry: Entry{Log: Decisions, ID: ID{r.ms + 9, address(99)}}}}}); !errors.Is(err, ErrMoved) {
				t.Fatal(err)
			}
			if _, err := r.log.Reset(t.Context(), old); !errors.Is(err, ErrMoved) {
				t.Fatal(err)
			}
		}
		head := need(r.log.Head(t.Context()))(t)
		if head != r.head || head.Sequence != events.End(4) || head.Decisions.Size != 12 || head.Outcomes.Size != 6 {
			t.Fatalf("%+v, want %+v", head, r.head)
		}
		// A checkpoint of more than is there, or older than the one there, is not stored.
		d, o := r.sign()
		r.fill(20)
		newer := r.head.Sequence
		d2, o2 := r.sign()
		if need(r.log.Publish(t.Context(), d, o, address(20)))(t) {
			t.Fatal("went back")
		}
		empty := need(r.log.Reset(t.Context(), r.head))(t)
		if !empty.Empty() || need(r.log.Publish(t.Context(), d2, o2, newer))(t) {
			t.Fatalf("%+v", empty)
		}
	})
}
