package kinds_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kinds"
)

func TestKindsCanBeServed(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range kinds.All {
		if found, ok := kinds.ByName(d.Name); !ok || found != d {
			t.Errorf("%s is not found", d.Name)
		}
		for _, name := range []string{d.Name, d.Plural} {
			if seen[name] || name == "" || events.Token(name) != name {
				t.Errorf("the name %q is taken, or no token of a subject", name)
			}
			seen[name] = true
		}
		if !slices.Contains(d.AttrNames(), "owner_id") || !slices.Contains(d.AttrNames(), "tenant") {
			t.Errorf("policies do not see whose a %s is", d.Name)
		}
		if _, err := d.Create("id", "acme", "u1", json.RawMessage(`{}`), time.Now()); err != nil {
			t.Errorf("%s: %v", d.Name, err)
		}
	}
	if _, ok := kinds.ByName("unknown"); ok {
		t.Error("a kind that is not there was found")
	}
}
