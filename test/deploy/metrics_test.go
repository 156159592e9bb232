package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

const soon = 30 * time.Second

// scraped are what Prometheus adds itself: a metric, and the labels of all.
var (
	scraped       = map[string]map[string]bool{"up": {}}
	scrapedLabels = []string{"job", "instance"}
)

// TestWhatIsWatchedIsExported: a panel or an alert about a metric, or a label, that no service has is always calm.
func TestWhatIsWatchedIsExported(t *testing.T) {
	asked := map[string]query{} // by where it stands
	for _, p := range panels(t) {
		for _, target := range p.Targets {
			asked["panel "+p.Title+", "+target.RefID] = ask(t, target.Expr, target.LegendFormat)
		}
	}
	for _, rule := range rules(t) {
		asked["alert "+rule.Alert] = ask(t, rule.Expr, rule.Annotations.Summary)
	}

	s := outside.StartServices(t, "deploy-1", "WRIT_WEBHOOKS_ALLOW_PRIVATE=true")
	everything(t, s)
	testkit.Eventually(t, soon, func() error {
		exported := maps.Clone(scraped)
		for _, base := range []string{s.API, s.Worker, s.Auditor} {
			scrape(t, base, exported)
		}
		var missing []error
		for _, where := range slices.Sorted(maps.Keys(asked)) {
			for metric, labels := range asked[where].metrics {
				has, ok := exported[metric]
				if !ok {
					missing = append(missing, fmt.Errorf("%s: no service exports %s", where, metric))
				}
				for _, label := range labels {
					if ok && label != "" && !has[label] && !slices.Contains(scrapedLabels, label) {
						missing = append(missing, fmt.Errorf("%s: %s has no label %s", where, metric, label))
					}
				}
			}
			for _, label := range asked[where].by {
				has := slices.Contains(scrapedLabels, label)
				for metric := range asked[where].metrics {
					has = has || exported[metric][label]
				}
				if !has {
					missing = append(missing, fmt.Errorf("%s: nothing to group by %s", where, label))
				}
			}
		}
		return errors.Join(missing...)
	})
}

var shown = regexp.MustCompile(`(?:\{\{|\$labels\.)([a-z_]+)`)

// ask takes an expression apart; text may show labels that its series have.
func ask(t *testing.T, expr, text string) query {
	t.Helper()
	q, err := parse(expr)
	if err != nil {
		t.Fatal(err)
	}
	for _, label := range shown.FindAllStringSubmatch(text, -1) {
		if !slices.Contains(q.by, label[1]) && label[1] != "instance" {
			t.Errorf("%s: %q shows %s, which it does not group by", expr, text, label[1])
		}
	}
	return q
}

// everything makes each counter count: one appears with its first event.
func everything(t *testing.T, s *outside.Services) {
	t.Helper()
	const wait = "wait=20"
	admin := outside.NewClient(t, s.API, s.SessionToken(t, "admin@example.com", "admin"))
	sam := outside.NewClient(t, s.API, s.SessionToken(t, "sam@example.com"))

	// A webhook whose endpoint is gone: its job is dead after the first attempt.
	gone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }))
	t.Cleanup(gone.Close)
	admin.Want(t, http.StatusCreated, nil, "POST", "/v1/webhooks", fmt.Sprintf(`{"url":%q}`, gone.URL), "Prefer", wait)

	admin.Want(t, http.StatusOK, nil, "PUT", "/v1/users/"+sam.Me(t).Principal.ID+"/roles", `{"roles":["user","manager"]}`, "Prefer", wait)
	admin.Want(t, http.StatusAccepted, nil, "POST", "/v1/auth/magic-link", `{"email":"new@example.com"}`)
	admin.With("").Want(t, http.StatusUnauthorized, nil, "GET", "/v1/contacts", "")
	var contact outside.Contact
	sam.Want(t, http.StatusCreated, &contact, "POST", "/v1/contacts", `{"first_name":"A"}`, "Prefer", wait)

	// No event: a dead letter.
	nc, err := nats.Connect(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	t.Cleanup(func() { nc.Close(); <-closed })
	if _, err := nc.Request(events.CommandSubject(0), []byte("{}"), 10*time.Second); err != nil {
		t.Fatal(err)
	}

	// A batch that cannot be applied at first.
	s.WorkerProc.Pause(t)
	sam.Want(t, http.StatusAccepted, nil, "PATCH", "/v1/contacts/"+contact.ID, `{"notes":"a"}`)
	s.Postgres.Kill()
	s.WorkerProc.Resume(t)
	testkit.Eventually(t, soon, func() error {
		exported := map[string]map[string]bool{}
		if scrape(t, s.Worker, exported); exported["writ_apply_retries_total"] == nil {
			return errors.New("no batch was tried again")
		}
		return nil
	})
	s.Postgres.Start(t)
}

var (
	sample = regexp.MustCompile(`(?m)^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+$`)
	label  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="`)
)

// scrape adds what a service exports: metrics and their labels.
func scrape(t *testing.T, base string, into map[string]map[string]bool) {
	t.Helper()
	page := string(outside.NewClient(t, base, "").Want(t, http.StatusOK, nil, "GET", "/metrics", "").Body)
	for _, line := range sample.FindAllStringSubmatch(page, -1) {
		if into[line[1]] == nil {
			into[line[1]] = map[string]bool{}
		}
		for _, found := range label.FindAllStringSubmatch(line[2], -1) {
			into[line[1]][found[1]] = true
		}
	}
}

type panel struct {
	ID         int
	Type       string
	Title      string
	Datasource struct{ Type, UID string }
	Targets    []struct {
		RefID, Expr, LegendFormat string
		Datasource                struct{ Type, UID string }
	}
}

func panels(t *testing.T) (all []panel) {
	t.Helper()
	var board struct {
		UID           string
		SchemaVersion int
		Templating    struct {
			List []struct{ Name, Type, Query string }
		}
		Panels []panel
	}
	if err := json.Unmarshal(read(t, deployDir, "grafana/writ.json"), &board); err != nil {
		t.Fatal(err)
	}
	if v := board.Templating.List; board.UID == "" || board.SchemaVersion < 39 || len(v) != 1 || v[0].Name != "datasource" || v[0].Query != "prometheus" {
		t.Errorf("the dashboard is %+v", board)
	}
	ids := map[int]string{}
	for _, p := range board.Panels {
		if other, twice := ids[p.ID]; twice {
			t.Errorf("%s and %s have one id", p.Title, other)
		}
		if ids[p.ID] = p.Title; p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			if from := target.Datasource; from.Type != "prometheus" || from.UID != "${datasource}" || p.Datasource != from {
				t.Errorf("%s asks %+v", p.Title, from)
			}
		}
		all = append(all, p)
	}
	return all
}

type rule struct {
	Alert, Expr, For string
	Labels           struct{ Severity string }
	Annotations      struct{ Summary, Runbook string }
}

func rules(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	decode(t, read(t, deployDir, "prometheus/alerts.yaml"), &file)
	if len(file.Groups) != 1 || len(file.Groups[0].Rules) == 0 {
		t.Fatalf("%+v", file)
	}
	return file.Groups[0].Rules
}

// heading is GitHub's anchor of a heading.
func heading(text string) string {
	text = strings.ToLower(strings.TrimLeft(text, "# "))
	return strings.ReplaceAll(regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(text, ""), " ", "-")
}

// TestEveryAlertIsInTheRunbook, with what it means, where to look and what to do, and nothing is that is no alert.
func TestEveryAlertIsInTheRunbook(t *testing.T) {
	headings, rows := map[string]bool{}, map[string][]string{}
	for line := range strings.Lines(string(read(t, root, "docs/runbook.md"))) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			headings[heading(line)] = true
		}
		if strings.HasPrefix(line, "| `Writ") {
			cells := strings.Split(strings.Trim(line, "|"), " | ")
			rows[strings.TrimSpace(cells[0])] = cells
		}
	}
	for _, r := range rules(t) {
		if !slices.Contains([]string{"page", "ticket"}, r.Labels.Severity) || r.Annotations.Summary == "" {
			t.Errorf("%s: %+v", r.Alert, r)
		}
		if anchor, ok := strings.CutPrefix(r.Annotations.Runbook, "docs/runbook.md#"); !ok || !headings[anchor] {
			t.Errorf("%s: %q is nowhere", r.Alert, r.Annotations.Runbook)
		}
		name := fmt.Sprintf("`%s` (%s)", r.Alert, r.Labels.Severity)
		cells := rows[name]
		if delete(rows, name); len(cells) != 4 || slices.ContainsFunc(cells, func(c string) bool { return strings.TrimSpace(c) == "" }) {
			t.Errorf("%s: the runbook says %q", r.Alert, cells)
		}
	}
	for name := range rows {
		t.Errorf("%s is in the runbook and no alert", name)
	}
}
