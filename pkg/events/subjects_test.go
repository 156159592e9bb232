package events_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/events"
)

// TestShardsNeverMove: a resource that moved to another shard would lose the
// order of its commands.
func TestShardsNeverMove(t *testing.T) {
	ids := []string{"", "a", "b", "user-test-1", "user-live-32fc5024-9c09-4da3-bd2e-c9ce4da9375f", "Zoë"}
	for i := range 32 {
		ids = append(ids, fmt.Sprintf("019d0000-0000-7000-8000-%012x", i*0x9e3779b9))
	}
	table := map[string]map[string]int{}
	for _, shards := range []int{1, 2, 4, 16, events.MaxShards} {
		of, used := map[string]int{}, map[int]bool{}
		for _, id := range ids {
			of[id] = events.Shard(id, shards)
			used[of[id]] = true
			if of[id] < 0 || of[id] >= shards {
				t.Errorf("%q is in shard %d of %d", id, of[id], shards)
			}
		}
		if len(used) < min(shards, 16)/2 {
			t.Errorf("%d ids use %d of %d shards only", len(ids), len(used), shards)
		}
		table[fmt.Sprint(shards)] = of
	}
	have, err := json.MarshalIndent(table, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "shards.json", append(have, '\n'))
}

func TestSubjects(t *testing.T) {
	for have, want := range map[string]string{
		events.CommandSubject(0):           "writ.cmd.0",
		events.CommandSubject(15):          "writ.cmd.15",
		events.OutcomeSubject(3):           "writ.outcome.3",
		events.SubjectDecisions:            "writ.decision",
		events.SubjectStytchOutcomes:       "writ.outcome.stytch",
		events.CheckpointSubject("0a1b2c"): "writ.checkpoint.0a1b2c",
		events.DeadSubject("worker", events.StreamLedger, 18446744073709551): "writ.dead.worker.LEDGER.18446744073709551",
		events.WaitSubject("api-1"): "writ.wait.api-1",
		events.OutcomeID("c1"):      "c1.outcome",
	} {
		if have != want {
			t.Errorf("%s, want %s", have, want)
		}
	}
}

func TestTheFeedTellsWhatAnEventIsAbout(t *testing.T) {
	for name, want := range map[string]string{
		"writ": "writ.feed.decision.contact.update.allow", "decision": "writ.feed.decision.contact.view:approver.deny",
		"outcome": "writ.feed.outcome.contact.update.applied", "checkpoint": "",
	} {
		if have := parse(t, examples(t)[name].Data).FeedSubject(); have != want {
			t.Errorf("of the %s: %q, want %q", name, have, want)
		}
	}
	d := denial()
	d.Action = "a.b *>"
	m, err := events.NewDecision(ring(t, key1), events.SourceAPI, d)
	if err != nil {
		t.Fatal(err)
	}
	if have, want := parse(t, m.Data).FeedSubject(), "writ.feed.decision.contact.a_b___.deny"; have != want {
		t.Errorf("%q, want %q: an action is one token", have, want)
	}
}

func TestTokensAreOneTokenOfASubject(t *testing.T) {
	for action, want := range map[string]string{
		"update": "update", "view:approver": "view:approver", "a-b_c9Z": "a-b_c9Z",
		"a.b": "a_b", "a b": "a_b", "*": "_", ">": "_", "a\r\nb": "a__b", "é": "_", "\xff": "_", "a\x00": "a_",
	} {
		if have := events.Token(action); have != want {
			t.Errorf("%q became %q, want %q", action, have, want)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add("view:approver")
	f.Add("a.*.> \r\n\x00\xff")
	f.Fuzz(func(t *testing.T, action string) {
		if token := events.Token(action); strings.ContainsAny(token, ".*> \t\r\n\x00") || events.Token(token) != token {
			t.Fatalf("%q became %q", action, token)
		}
	})
}
