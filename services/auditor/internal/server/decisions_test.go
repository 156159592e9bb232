package server

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/testkit"
)

// routes are all that looks into the log, with the action that is decided.
func routes(id string) map[string]string {
	return map[string]string{
		"/v1/decisions": actionList, "/v1/decisions/" + id: actionRead, "/v1/decisions/" + id + "/proof": actionVerify,
		"/v1/checkpoint": actionVerify, "/v1/consistency?from=1": actionVerify, "/v1/decisions/export": actionExport, "/v1/stats": actionList,
		"/tile/entries/000.p/1": actionVerify, "/decisions/tile/entries/000.p/1": actionVerify,
	}
}

func TestWhoMayLookIntoTheLog(t *testing.T) {
	t.Parallel()
	for _, database := range []string{"sqlite", "postgres"} {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(r *rig) {
				if database == "postgres" {
					r.open(testkit.Postgres(t))
				}
			})
			r.copying()
			d := made(nil)
			r.record(d)
			r.covered()
			_, auditor := r.person("olive", in(user.DefaultTenant, "auditor"))
			_, admin := r.person("ada", in(user.DefaultTenant, "admin"))
			_, plain := r.person("sam", in(user.DefaultTenant, "user"))
			_, elsewhere := r.person("zoe", in(acme, "auditor"))
			_, stranger := r.stranger("nobody")
			for path, action := range routes(d.ID) {
				for name, c := range map[string]struct {
					token string
					may   bool
				}{
					"auditor": {auditor, true}, "admin": {admin, true}, "user": {plain, false}, "auditor of another tenant": {elsewhere, false},
					"somebody without a row": {stranger, false},
				} {
					before := len(r.looks())
					a := r.get(path, c.token)
					want := map[bool]int{true: 200, false: 403}[c.may]
					if !c.may && action == actionRead {
						want = http.StatusNotFound // as if there were none
					}
					if a.status != want {
						t.Errorf("%s %s: %d %.300s", name, path, a.status, a.body)
					}
					looks := r.looks()[before:]
					if len(looks) != 1 || looks[0].Action != action || (looks[0].Effect == events.Allow) != c.may || looks[0].Request.Route == "" {
						t.Errorf("%s %s: recorded %+v", name, path, looks)
					}
					if want == 403 && a.problem(t).DecisionID != looks[0].ID {
						t.Errorf("%s %s: %s is not %s", name, path, a.body, looks[0].ID)
					}
				}
				if a := r.get(path, ""); a.status != http.StatusUnauthorized || a.header.Get("WWW-Authenticate") == "" {
					t.Errorf("nobody %s: %d %.300s", path, a.status, a.body)
				}
			}
		})
	}
}

func TestListFindsWhatIsMeant(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.copying()
	var all []*events.Decision
	for i := range 40 {
		all = append(all, made(func(d *events.Decision) {
			switch i % 4 {
			case 1:
				d.Principal.ID, d.Action, d.TraceID = "rim", "update", "trace-2"
				d.Stage = events.StageApply // a command's first decision comes with it
				d.Command = &events.CommandRef{ID: "command-1", SHA256: "00", Expires: time.Now()}
			case 2:
				d.Resource.Kind, d.Resource.ID, d.Effect, d.Policy.Matched = "video", "v-1", events.Deny, "resource.video.vdefault"
			case 3:
				d.Policy.Revision, d.Resource.ID = "r2", "c-2"
			}
		}))
	}
	r.record(all...)
	r.covered()
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	for query, want := range map[string][]int{
		"principal=rim": {1}, "kind=video": {2}, "resource=c-2": {3}, "action=update": {1}, "effect=deny": {2}, "trace=trace-2": {1}, "command=command-1": {1},
		"policy=r2": {3}, "policy=resource.video.vdefault": {2}, "kind=contact&effect=allow&principal=sam": {0, 3}, "principal=nobody": nil,
		"tenant=default&kind=contact": {0, 1, 3}, "kind=contact&kind2": nil,
	} {
		if strings.Contains(query, "kind2") {
			if a := r.get("/v1/decisions?"+query, token); a.status != http.StatusUnprocessableEntity {
				t.Errorf("%s: %d", query, a.status)
			}
			continue
		}
		var expected []string
		for i, d := range all {
			if slices.Contains(want, i%4) {
				expected = append(expected, d.ID)
			}
		}
		for _, order := range []string{"oldest", "newest"} {
			got, n := r.pages(token, query+"&limit=7&order="+order)
			if order == "newest" {
				slices.Reverse(got)
			}
			if !slices.Equal(ids(t, got), expected) || len(expected) > 7 && n < 2 {
				t.Errorf("%s %s: %d in %d pages, want %d", query, order, len(got), n, len(expected))
			}
		}
	}
	got, _ := r.pages(token, "kind=contact&order=oldest")
	for i, it := range got {
		h := tlog.RecordHash(it.Decision)
		if it.LeafHash != leafHash(h) || i > 0 && it.Sequence <= got[i-1].Sequence {
			t.Fatalf("%d: %+v", i, it)
		}
	}
	// Times are the ledger's: an entry stands between its own millisecond and the next.
	middle := got[len(got)/2]
	entry := r.list(token, "kind=contact&order=oldest&limit=200").Items[len(got)/2]
	from := need(cursor(entry.ID))(t)
	since, before := at(from).Format(time.RFC3339Nano), at(from).Add(time.Millisecond).Format(time.RFC3339Nano)
	within, _ := r.pages(token, "from="+url.QueryEscape(since)+"&to="+url.QueryEscape(before))
	if !slices.Contains(ids(t, within), middle.decision(t).ID) {
		t.Errorf("%s is not between %s and %s", middle.ID, since, before)
	}
	for _, it := range within {
		if id := need(cursor(it.ID))(t); id.Ms != from.Ms {
			t.Errorf("%s is not between %s and %s", it.ID, since, before)
		}
	}
	if none, _ := r.pages(token, "to="+url.QueryEscape("1969-01-01T00:00:00Z")); len(none) != 0 {
		t.Errorf("%d before there was a ledger", len(none))
	}
	for _, bad := range []string{"cursor=x", "cursor=0-0", "limit=0", "limit=201", "order=up", "effect=maybe", "from=yesterday", "nonsense=1", "effect=", "kind=", "to="} {
		if a := r.get("/v1/decisions?"+bad, token); a.status != http.StatusUnprocessableEntity || !strings.Contains(string(a.body), "query.") {
			t.Errorf("%s: %d %.300s", bad, a.status, a.body)
		}
	}
	// A filter that cannot be read is never one that is not there.
	for _, path := range []string{"/v1/decisions", "/v1/decisions/export", "/v1/decisions/stream", "/v1/stats"} {
		for _, bad := range []string{"effect=deny&effect=allow", "kind=a;b", "kind=%zz", "kind=%ff", "kind=a%00", "kind", "kind=x&KIND=y"} {
			if a := r.get(path+"?"+bad, token); a.status != http.StatusBadRequest && a.status != http.StatusUnprocessableEntity || !strings.Contains(strings.ToLower(string(a.body)), `"query.`) {
				t.Errorf("%s?%s: %d %.300s, want 400 or 422 that names the parameter", path, bad, a.status, a.body)
			}
		}
	}
	escaped, _ := r.pages(token, "%65ffect=deny")
	plain, _ := r.pages(token, "effect=deny")
	if len(escaped) != len(plain) {
		t.Errorf("a filter with an escape in its name shows %d, without %d: they are one", len(escaped), len(plain))
	}
}

func TestDecisionComesWithItsOutcome(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.copying()
	d := made(func(d *events.Decision) { d.Action = "create" })
	c := &events.Command{ID: uuid.NewString(), Kind: "contact", ResourceID: "c-1", Action: "create", Tenant: d.Tenant, PrincipalID: d.Principal.ID, IssuedAt: time.Now()}
	m := need(events.NewWrit(r.keys, events.SourceAPI, d, c, time.Now().Add(time.Hour)))(t)
	address := need(r.ledger.Append(t.Context(), m))(t)
	o := &events.Outcome{
		ID: events.OutcomeID(c.ID), CommandID: c.ID, Kind: c.Kind, ResourceID: c.ResourceID, Action: c.Action, Tenant: c.Tenant, Status: events.StatusApplied,
		Version: 1, DecisionID: d.ID, Sequence: address, Attempts: 1, At: time.Now(),
	}
	m = need(events.NewOutcome(r.keys, o))(t)
	m.Subject = events.OutcomeSubject(0)
	need(r.ledger.Append(t.Context(), m))(t)
	r.covered()
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	a := r.get("/v1/decisions/"+d.ID, token)
	var it item
	must(t, json.Unmarshal(a.body, &it))
	var out events.Outcome
	must(t, json.Unmarshal(it.Outcome, &out))
	if a.status != 200 || out.CommandID != c.ID || out.Status != events.StatusApplied || it.decision(t).ID != d.ID {
		t.Fatalf("%d %.300s", a.status, a.body)
	}
	for id, want := range map[string]int{uuid.NewString(): 404, strings.ToUpper(d.ID): 200, "{" + d.ID + "}": 422, "urn:uuid:" + d.ID: 422, strings.ReplaceAll(d.ID, "-", ""): 422} {
		a := r.get("/v1/decisions/"+url.PathEscape(id), token)
		if a.status != want || want == 422 && !strings.Contains(string(a.body), "path.id") {
			t.Errorf("%s: %d %s, want %d (RFC 9562, 4: letters in either case)", id, a.status, a.body, want)
		}
	}
	for _, query := range []string{"resource=" + strings.ToUpper(uuid.NewString()), "command=" + strings.ToUpper(c.ID)} {
		upper, _ := r.pages(token, query)
		lower, _ := r.pages(token, strings.ToLower(query))
		if len(upper) != len(lower) || strings.HasPrefix(query, "command") && len(upper) == 0 {
			t.Errorf("%s finds %d, in lower case %d", query, len(upper), len(lower))
		}
	}
}

func TestOneMaySeeWhatWasDecidedAboutOneself(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.copying()
	sam, token := r.person("sam", in(user.DefaultTenant, "user"))
	_, auditor := r.person("olive", in(user.DefaultTenant, "auditor"))
	mine := func(change func(*events.Decision)) *events.Decision {
		return made(func(d *events.Decision) {
			d.Principal.ID, d.Policy.Reason = sam, "secret-reason"
			change(d)
		})
	}
	allowed := mine(func(d *events.Decision) {})
	hidden := mine(func(d *events.Decision) { d.Effect = events.Deny })
	listed := mine(func(d *events.Decision) { d.Effect, d.Action, d.Resource.ID = events.Deny, "list", "" })
	created := mine(func(d *events.Decision) { d.Effect, d.Action = events.Deny, "create" })
	asked := mine(func(d *events.Decision) { d.Asker, d.Request.Remote = "secret-asker", "198.51.100.9" })
	foreign := made(nil)
	r.record(allowed, hidden, listed, created, asked, foreign)
	r.covered()

	secrets := []string{"secret-reason", "resource-attribute", "principal-attribute", "resource.contact", "owner", `"version":7`, "leaf_hash", "seal", "secret-asker", "198.51.100.9"}
	check := func(what string, body []byte) {
		for _, s := range secrets {
			if strings.Contains(string(body), s) {
				t.Errorf("%s tells %s: %s", what, s, body)
			}
		}
	}
	for _, d := range []*events.Decision{allowed, hidden, listed, created, asked} {
		a := r.get("/v1/decisions/"+d.ID, token)
		var it item
		if a.status != 200 || json.Unmarshal(a.body, &it) != nil || !it.Masked || it.decision(t).Effect != d.Effect {
			t.Errorf("%d %.300s", a.status, a.body)
		}
		check("one", a.body)
		whole := r.get("/v1/decisions/"+d.ID, auditor)
		if whole.status != 200 || !strings.Contains(string(whole.body), "secret-reason") {
			t.Errorf("the auditor's: %d %.300s", whole.status, whole.body)
		}
		if a := r.get("/v1/decisions/"+d.ID+"/proof", token); a.status != http.StatusForbidden {
			t.Errorf("proof: %d", a.status)
		}
	}
	if a := r.get("/v1/decisions/"+foreign.ID, token); a.status != http.StatusNotFound {
		t.Errorf("somebody else's: %d", a.status)
	}
	own := "kind=contact&order=oldest&principal=" + sam
	a := r.get("/v1/decisions?"+own, token)
	check("the list", a.body)
	// That there is a denial about c-1 would tell that there is c-1.
	if got := ids(t, r.list(token, own).Items); !slices.Equal(got, []string{allowed.ID, listed.ID, created.ID, asked.ID}) {
		t.Errorf("%v", got)
	}
	for _, query := range []string{"", "principal=" + foreign.Principal.ID, "kind=contact"} {
		if a := r.get("/v1/decisions?"+query, token); a.status != http.StatusForbidden {
			t.Errorf("%s: %d", query, a.status)
		}
	}
	for _, path := range []string{"/v1/stats?principal=" + sam, "/v1/decisions/export?principal=" + sam, "/v1/decisions/stream?principal=" + sam} {
		if a := r.get(path, token); a.status != http.StatusForbidden {
			t.Errorf("%s: %d", path, a.status)
		}
	}
}

func TestTenantsSeeOnlyTheirOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.copying()
	ours := made(func(d *events.Decision) { d.Tenant = acme })
	const mark = "of-the-other-tenant"
	theirs := made(func(d *events.Decision) { d.Principal.Attr["mark"] = mark })
	after := made(func(d *events.Decision) { d.Tenant = acme })
	r.record(ours, theirs, after)
	_, token := r.person("zoe", map[string]user.Membership{acme: {Roles: []string{"auditor", "admin"}}})
	_, both := r.person("kim", map[string]user.Membership{acme: {Roles: []string{"auditor"}}, user.DefaultTenant: {Roles: []string{"auditor"}}})
	r.covered()
	for _, who := range []string{token, both} {
		for _, query := range []string{
			"", "principal=sam", "kind=contact", "resource=c-1", "action=read", "effect=allow", "policy=r1", "trace=trace-1", "tenant=acme",
			"order=oldest", "to=" + url.QueryEscape("2120-01-01T00:00:00Z"),
		} {
			for _, path := range []string{"/v1/decisions?limit=200&", "/v1/decisions/export?", "/v1/decisions/export?format=csv&", "/v1/decisions/export?format=ocsf&"} {
				if strings.Contains(path, "export") && strings.HasPrefix(query, "order") {
					continue
				}
				a := r.get(path+query, who, inTenant(acme)...)
				if a.status != 200 || strings.Contains(string(a.body), mark) || !strings.Contains(string(a.body), ours.ID) {
					t.Errorf("%s%s: %d %.300s", path, query, a.status, a.body)
				}
			}
			if strings.HasPrefix(query, "order") || strings.HasPrefix(query, "to") {
				continue
			}
			s := r.follow(t.Context(), "kind=contact&from=2020-01-01T00:00:00Z&"+strings.TrimPrefix(query, "kind=contact"), who, inTenant(acme)...)
			for _, want := range []string{ours.ID, after.ID} {
				if e := s.event(t, "decision"); !strings.Contains(string(e.data), want) {
					t.Errorf("stream %s: %s", query, e.data)
				}
			}
			_ = s.body.Close()
		}
		for _, path := range []string{"/v1/decisions/" + theirs.ID, "/v1/decisions/" + theirs.ID + "/proof"} {
			if a := r.get(path, who, inTenant(acme)...); a.status != http.StatusNotFound {
				t.Errorf("%s: %d %.300s", path, a.status, a.body)
			}
		}
		for _, path := range []string{"/v1/decisions", "/v1/decisions/stream", "/v1/decisions/export", "/v1/stats"} {
			before := len(r.looks())
			a := r.get(path+"?tenant=default", who, inTenant(acme)...)
			if looks := r.looks()[before:]; a.status != http.StatusForbidden || len(looks) != 1 || looks[0].Effect != events.Deny || looks[0].ID != a.problem(t).DecisionID {
				t.Errorf("%s: %d %.300s %+v", path, a.status, a.body, looks)
			}
		}
		if a := r.get("/tile/entries/000.p/1", who, inTenant(acme)...); a.status != http.StatusForbidden {
			t.Errorf("entries: %d", a.status)
		}
		var counted struct{ Counts []Count }
		a := r.get("/v1/stats?kind=contact", who, inTenant(acme)...)
		must(t, json.Unmarshal(a.body, &counted))
		total := 0
		for _, c := range counted.Counts {
			total += c.Count
		}
		if total != 2 {
			t.Errorf("stats: %s", a.body)
		}
	}
	if a := r.get("/v1/decisions/"+theirs.ID, both); a.status != 200 {
		t.Errorf("in the other tenant: %d %.300s", a.status, a.body)
	}
	if a := r.get("/tile/entries/000.p/1", both); a.status != 200 {
		t.Errorf("entries in the other tenant: %d", a.status)
	}
}

// TestNothingIsAfterTheHighestID: neither a cursor nor Last-Event-ID, which
// clients can make up, leads back to the log's beginning.
func TestNothingIsAfterTheHighestID(t *testing.T) {
	t.Parallel()
	span := after(audit.Span{To: audit.MaxID}, audit.MaxID)
	if !span.To.Less(span.From) {
		t.Errorf("%+v", span)
	}
	if span = after(audit.Span{To: audit.MaxID, Backwards: true}, audit.MaxID); span.To != audit.MaxID.Prev() {
		t.Errorf("%+v", span)
	}
}
