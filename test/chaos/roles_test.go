package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// person is a user whose roles are changed.
type person struct {
	id, token string
	roles     []string // as the last accepted command has them
	region    string
	commands  []string // accepted, in the order in which they were sent
}

// directory is a user as the API shows them.
type directory struct {
	RolesCommand string `json:"roles_command"`
	Tenants      map[string]struct {
		Roles []string       `json:"roles"`
		Attr  map[string]any `json:"attr"`
	} `json:"tenants"`
}

// TestRolesThroughEveryFault changes roles while Stytch has every fault in turn and then all at random, and the worker
// is killed (kill -9). In the end Stytch and the directory agree with the last accepted command of each user, and each
// command has one final outcome.
func TestRolesThroughEveryFault(t *testing.T) {
	people, changes, kills := 10, 60, 2
	if os.Getenv("WRIT_CHAOS") == "full" {
		people, changes, kills = 50, 500, 10
	}
	seed := seed(t)
	random := rand.New(rand.NewPCG(seed, 8))
	s := outside.StartServices(t, "roles-1")
	_, second := s.Another(t, "api")
	admin := outside.NewClient(t, s.API, s.SessionToken(t, "admin@example.com", "admin"))
	all := make([]*person, people)
	for i := range all {
		all[i] = &person{token: s.SignIn(t, fmt.Sprintf("p%d@example.com", i), "user"), roles: []string{"user"}}
		all[i].id = admin.With(all[i].token).Me(t).Principal.ID
	}

	emulator := outside.NewClient(t, s.Stytch, "")
	phases := []func(){}
	for _, kind := range stytchFaults {
		phases = append(phases, func() { order(t, emulator, kind, 0.4, seed) })
	}
	phases = append(phases, func() {
		for _, kind := range stytchFaults {
			order(t, emulator, kind, 0.12, random.Uint64())
		}
	})
	began := time.Now()
	killed, sent, waiting := 0, 0, 0
	for i, phase := range phases {
		emulator.Want(t, http.StatusNoContent, nil, http.MethodDelete, "/faults", "")
		phase()
		share := changes*(i+1)/len(phases) - sent
		kill := kills*(i+1)/len(phases) - killed
		sent, killed = sent+share, killed+kill
		changeRoles(t, s, admin, all, share, kill, random)
		testkit.Eventually(t, 2*time.Minute, func() error { // the fault stays until most of them have met it
			states := map[events.Status]int{}
			for _, p := range all {
				for _, c := range p.commands {
					states[commandOf(t, admin, c).Status]++
				}
			}
			waiting = max(waiting, states[events.StatusRetrying])
			if states[events.StatusApplied] < sent-share/4 {
				return fmt.Errorf("%v of %d", states, sent)
			}
			return nil
		})
	}
	emulator.Want(t, http.StatusNoContent, nil, http.MethodDelete, "/faults", "")
	outcomes := outside.Settled(t, &s.Stack, 2*time.Minute)

	report := &table{}
	report.row("seed", seed)
	report.row("role changes", sent)
	report.row("kills of the worker", killed)
	report.row("of them shown as retrying at a time", waiting)
	tries := 0
	for _, p := range all {
		for _, c := range p.commands {
			o, ok := outcomes[c]
			if !ok || o.Status != events.StatusApplied {
				t.Errorf("command %s of %s: %+v", c, p.id, o)
			}
			if now := commandOf(t, admin, c); now.Status != events.StatusApplied {
				t.Errorf("command %s of %s is %+v", c, p.id, now)
			}
			tries += o.Attempts
		}
		checkPerson(t, s, admin, p)
	}
	report.row("tries that they took", tries)
	report.row("took", time.Since(began).Round(time.Second))
	t.Logf("\n%s", report)
	if tries <= sent || waiting == 0 {
		t.Errorf("%d commands took %d tries, %d were seen waiting: the faults were none", sent, tries, waiting)
	}
	outside.Audit(t, &s.Stack)
	checkTakenAway(t, s, admin, second, all[0])
}

// stytchFaults are the emulator's.
var stytchFaults = []string{"429", "500", "502", "hang", "slow", "lost"}

func order(t *testing.T, emulator *outside.Client, kind string, probability float64, seed uint64) {
	t.Helper()
	emulator.Want(t, http.StatusNoContent, nil, http.MethodPost, "/faults",
		fmt.Sprintf(`{"kind":%q,"path":"/v1/users/user-","probability":%g,"seed":%d,"retry_after":"1s","delay":"700ms"}`, kind, probability, seed))
}

// changeRoles sends n changes, those of one user one after the other, and kills the worker meanwhile.
func changeRoles(t *testing.T, s *outside.Services, admin *outside.Client, all []*person, n, kills int, random *rand.Rand) {
	t.Helper()
	choices := [][]string{{"user"}, {"manager"}, {"finance"}, {"auditor"}, {"finance", "user"}, {"manager", "user"}}
	type change struct {
		roles  []string
		region string
	}
	plan := map[*person][]change{}
	for range n {
		p := all[random.IntN(len(all))]
		plan[p] = append(plan[p], change{choices[random.IntN(len(choices))], fmt.Sprintf("eu-%d", random.IntN(100))})
	}
	var accepted atomic.Int64
	var senders sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for p, list := range plan {
		senders.Go(func() {
			for i, c := range list {
				body := fmt.Sprintf(`{"roles":["%s"],"attr":{"region":%q}}`, strings.Join(c.roles, `","`), c.region)
				a, err := admin.Try(ctx, http.MethodPut, "/v1/users/"+p.id+"/roles", body, "Idempotency-Key", fmt.Sprintf("%d-%d-%s", len(p.commands), i, p.id))
				if err != nil || a.Status != http.StatusAccepted {
					t.Errorf("role change: %d %s %v", a.Status, a.Body, err)
					continue
				}
				p.roles, p.region, p.commands = c.roles, c.region, append(p.commands, a.CommandID())
				accepted.Add(1)
			}
		})
	}
	for k := range kills {
		at := int64(n * (k + 1) / (kills + 1))
		testkit.Eventually(t, time.Minute, func() error {
			if have := accepted.Load(); have < at && !t.Failed() {
				return fmt.Errorf("%d of %d are accepted", have, at)
			}
			return nil
		})
		s.WorkerProc.Kill()
		s.WorkerProc.Start(t)
	}
	senders.Wait()
}

// commandState is what the API tells of a command.
type commandState struct {
	Status   events.Status `json:"status"`
	Attempts int           `json:"attempts"`
	Reason   string        `json:"reason"`
}

func commandOf(t *testing.T, c *outside.Client, id string) (state commandState) {
	t.Helper()
	c.Want(t, http.StatusOK, &state, http.MethodGet, "/v1/commands/"+id, "")
	return state
}

// checkPerson compares the last accepted command with Stytch and with the directory.
func checkPerson(t *testing.T, s *outside.Services, admin *outside.Client, p *person) {
	t.Helper()
	if len(p.commands) == 0 {
		return
	}
	last := p.commands[len(p.commands)-1]
	var row directory
	admin.Want(t, http.StatusOK, &row, http.MethodGet, "/v1/users/"+p.id, "")
	have := row.Tenants["default"]
	if !slices.Equal(have.Roles, p.roles) || have.Attr["region"] != p.region {
		t.Errorf("the directory has %s as %+v, not %v in %s", p.id, have, p.roles, p.region)
	}
	u, err := s.Identity().User(t.Context(), p.id)
	if err != nil {
		t.Fatal(err)
	}
	if m := u.Tenants["default"]; u.RolesCommand != last || !slices.Equal(m.Roles, p.roles) || m.Attr["region"] != p.region {
		t.Errorf("Stytch has %s as %+v by %s, not %v in %s by %s", p.id, m, u.RolesCommand, p.roles, p.region, last)
	}
}

// checkTakenAway: what is taken away is gone with the next request, in every instance, although the JWT lives on; and
// whoever is deleted is nobody.
func checkTakenAway(t *testing.T, s *outside.Services, admin *outside.Client, second string, p *person) {
	t.Helper()
	instances := []*outside.Client{outside.NewClient(t, s.API, ""), outside.NewClient(t, second, "")}
	token := s.SignIn(t, "taken@example.com", "manager")
	id := admin.With(token).Me(t).Principal.ID
	for _, roles := range []string{`["finance"]`, `["auditor"]`} {
		admin.Want(t, http.StatusOK, nil, http.MethodPut, "/v1/users/"+id+"/roles", `{"roles":`+roles+`}`, "Prefer", "wait=20")
		for _, api := range instances {
			if have := api.With(token).Me(t).Principal.Roles; !slices.Equal(have, []string{strings.Trim(roles, `[]"`)}) {
				t.Errorf("%s after %s", have, roles)
			}
		}
	}
	admin.Want(t, http.StatusNoContent, nil, http.MethodDelete, "/v1/users/"+id, "", "Prefer", "wait=20")
	for _, api := range instances {
		for range 2 {
			api.With(token).Want(t, http.StatusUnauthorized, nil, http.MethodGet, "/v1/me", "")
			api.With(token).Want(t, http.StatusUnauthorized, nil, http.MethodPost, "/v1/me/sync", "")
		}
	}
	admin.Want(t, http.StatusNotFound, nil, http.MethodGet, "/v1/users/"+id, "")
}
