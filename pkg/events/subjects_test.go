package events_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/events"
)

// TestPartitionsNeverMove: a resource that moved to another partition would
// lose the order of its commands.
func TestPartitionsNeverMove(t *testing.T) {
	ids := []string{"", "a", "b", "user-test-1", "user-live-32fc5024-9c09-4da3-bd2e-c9ce4da9375f", "Zoë"}
	for i := range 32 {
		ids = append(ids, fmt.Sprintf("019d0000-0000-7000-8000-%012x", i*0x9e3779b9))
	}
	table := map[string]int{}
	used := map[int]bool{}
	for _, id := range ids {
		table[id] = events.Partition(id)
		used[table[id]] = true
	}
	have, err := json.MarshalIndent(table, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "partitions.json", append(have, '\n'))
	if len(used) < events.Partitions/2 {
		t.Errorf("%d ids use %d partitions only", len(ids), len(used))
	}
	if events.Partitions != 16 {
		t.Error("the number of partitions is part of the wire contract")
	}
}

func TestSubjects(t *testing.T) {
	for have, want := range map[string]string{
		events.CommandSubject("contact", 7, "update"):                        "writ.cmd.contact.07.update",
		events.CommandSubject("contact", 15, "create"):                       "writ.cmd.contact.15.create",
		events.PartitionFilter(0):                                            "writ.cmd.*.00.*",
		events.DecisionSubject("contact", "view:approver", events.Deny):      "writ.decision.contact.view:approver.deny",
		events.DecisionSubject("contact", "a.b *>", events.Allow):            "writ.decision.contact.a_b___.allow",
		events.OutcomeSubject("contact", "update", events.StatusApplied):     "writ.outcome.contact.update.applied",
		events.DeadSubject("worker", events.StreamLedger, 18446744073709551): "writ.dead.worker.LEDGER.18446744073709551",
		events.WaitSubject("api-1"):                                          "writ.wait.api-1",
		events.OutcomeID("c1"):                                               "c1.outcome",
	} {
		if have != want {
			t.Errorf("%s, want %s", have, want)
		}
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
