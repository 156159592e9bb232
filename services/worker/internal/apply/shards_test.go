package apply

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/testkit"
)

func sharded(t testing.TB, shards int) *rig {
	return newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "writ.db"), shards)
}

// Two workers hold a shard each; the commands on one resource keep their order;
// when one is killed the other takes its shard over.
func TestWorkersShareTheShards(t *testing.T) {
	t.Parallel()
	r := newRig(t, testkit.Postgres(t), 2)
	sam := r.person("sam", "user")
	holds := make(chan held, 64)
	var all [2]*process
	for i := range all {
		all[i] = r.prepare(nil, func(l *Loop) {
			h := l.handlers["contact"]
			apply := h.Apply
			h.Apply = func(row *kind.Row, c *events.Command) (*kind.Row, error) {
				select {
				case holds <- held{i, events.Shard(c.ResourceID, 2)}:
				default: // more than the test looks at
				}
				return apply(row, c)
			}
			l.handlers["contact"] = h
		})
		all[i].begin()
	}
	// One command after the other, until each has applied one: they share evenly.
	ids, versions := [2]string{r.inShard(0), r.inShard(1)}, [2]int{}
	var commands []string
	next := func(shard int) {
		action, body, attrs := kind.ActionUpdate, fmt.Sprintf(`{"notes":"%d"}`, versions[shard]), owned
		if versions[shard] == 0 {
			action, body, attrs = kind.ActionCreate, `{"first_name":"x"}`, nil
		}
		m, c := r.writ(sam, action, ids[shard], int64(versions[shard]), attrs, body)
		r.append(m)
		versions[shard]++
		commands = append(commands, c.ID)
	}
	by := [2]int{}
	testkit.Eventually(t, soon, func() error {
		for shard := range 2 {
			next(shard)
			r.outcomes(commands[len(commands)-1])
			by[shard] = (<-holds).worker
		}
		if by[0] == by[1] {
			return fmt.Errorf("worker %d holds both shards", by[0])
		}
		return nil
	})
	victim := all[by[0]]
	victim.nc.Close() // as if it was killed
	for range 20 {
		next(0)
		next(1)
	}
	outcomes := r.outcomes(commands...)
	victim.end()
	seen := map[string]int64{}
	for _, e := range r.ledgerEvents() { // in order, in each resource
		if e.Type == events.TypeOutcome && outcomes[e.Outcome.CommandID].Version > 0 {
			o := &e.Outcome
			if o.Status != events.StatusApplied || o.Version != seen[o.ResourceID]+1 {
				t.Fatalf("after version %d: %+v", seen[o.ResourceID], o)
			}
			seen[o.ResourceID] = o.Version
		}
	}
	for shard, id := range ids {
		if row := need(r.contact(id))(t); row.Version != int64(versions[shard]) || row.Notes != fmt.Sprint(versions[shard]-1) {
			t.Errorf("shard %d: %+v, want version %d", shard, row, versions[shard])
		}
	}
	r.idle()
}

// held is a worker that applied a command of a shard.
type held struct{ worker, shard int }
