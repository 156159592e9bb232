package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/test/e2e/outside"
)

// lists reads pages forwards and backwards, filtered, searched and while rows come and go.
func lists(t *testing.T, s *outside.Stack, p people) {
	// A user of its own: what else is in the address book does not matter.
	lister := p.owner.With(s.SignIn(t, "lister@example.com"))
	me := lister.Me(t).Principal.ID
	var ids []string
	for i := range 25 {
		var c outside.Contact
		lister.Want(t, http.StatusCreated, &c, "POST", "/v1/contacts",
			fmt.Sprintf(`{"first_name":"Name%02d","last_name":"50%%_off","company":"Ünïcode GmbH","is_active":%t}`, 24-i, i%5 != 0), "Prefer", wait)
		ids = append(ids, c.ID)
	}
	mine := "owner_id=" + me

	pages := func(query string, between func(page int)) (seen []outside.Contact) {
		for cursor, n := "", 0; ; n++ {
			path := "/v1/contacts?limit=10&" + mine + query
			if cursor != "" {
				path += "&cursor=" + url.QueryEscape(cursor)
			}
			var page outside.Page
			lister.Want(t, http.StatusOK, &page, "GET", path, "")
			seen = append(seen, page.Items...)
			if cursor = page.NextCursor; cursor == "" {
				return seen
			}
			if len(page.Items) != 10 {
				t.Errorf("%s: page %d has %d items and a next one", query, n, len(page.Items))
			}
			if between != nil {
				between(n)
			}
		}
	}
	idsOf := func(all []outside.Contact) (out []string) {
		for _, c := range all {
			out = append(out, c.ID)
		}
		return out
	}
	reversed := slices.Clone(ids)
	slices.Reverse(reversed)
	for query, want := range map[string][]string{
		"": ids, "&sort=created_at": ids, "&sort=-created_at": reversed, "&sort=first_name": reversed, "&sort=-first_name": ids,
	} {
		if got := idsOf(pages(query, nil)); !slices.Equal(got, want) {
			t.Errorf("pages%s: %v, want %v", query, got, want)
		}
	}
	for query, want := range map[string]int{
		"&is_active=false": 5, "&is_active=true": 20, "&q=name0": 10, "&q=NAME24": 1, "&q=" + url.QueryEscape("0%_o"): 25, "&q=" + url.QueryEscape("%"): 25,
		"&q=" + url.QueryEscape("_"): 25, "&q=nobody": 0, "&q=" + url.QueryEscape("ünïcode"): 25, "&q=name0&is_active=false": 2,
		"&q=" + url.QueryEscape(`' OR 1=1 --`): 0, "&q=" + url.QueryEscape(`\`): 0,
	} {
		if got := pages(query, nil); len(got) != want {
			t.Errorf("%s: %d contacts, want %d", query, len(got), want)
		}
	}
	// Rows that come and go between the pages make no other row appear twice or not at all.
	got := idsOf(pages("&sort=-first_name", func(page int) {
		lister.Want(t, http.StatusNoContent, nil, "DELETE", "/v1/contacts/"+ids[page*10+9], "", "Prefer", wait) // the last one seen
		lister.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"Zed"}`, "Prefer", wait) // before all
	}))
	if !slices.Equal(got, ids) {
		t.Errorf("while rows came and went: %v, want %v", got, ids)
	}
	if n := len(lister.All(t, mine)); n != 25 {
		t.Errorf("%d contacts in the end, want 25", n)
	}
}

// listRefusals are lists that are denied or cannot be read.
func listRefusals(t *testing.T, s *outside.Stack, p people) {
	for query, location := range map[string]string{
		"limit=0": "query.limit", "limit=201": "query.limit", "limit=x": "query.limit", "sort=nothing": "query.sort", "sort=notes": "query.sort",
		"sort=id;drop": "query", "cursor=rubbish": "query.cursor", "is_active=perhaps": "query.is_active", "no_such=1": "query.no_such",
		"q=" + strings.Repeat("x", 201): "query.q", "is_active=true&is_active=false": "query.is_active", "tenant=other": "query.tenant",
	} {
		var problem outside.Problem
		status := http.StatusUnprocessableEntity
		if strings.ContainsAny(query, ";&") { // it is not known what is meant
			status = http.StatusBadRequest
		}
		p.owner.Want(t, status, &problem, "GET", "/v1/contacts?"+query, "")
		named(t, "GET ?"+query, problem, location)
	}
	// A cursor belongs to its sort order.
	var page outside.Page
	p.owner.Want(t, http.StatusOK, &page, "GET", "/v1/contacts?limit=1&sort=first_name", "")
	p.owner.Want(t, http.StatusUnprocessableEntity, nil, "GET", "/v1/contacts?limit=1&sort=created_at&cursor="+url.QueryEscape(page.NextCursor), "")

	// Whom the policy lets list nothing gets an empty page or a denial, and in both cases it is on record.
	before := outside.Last(t, s.NATS, events.StreamLedger)
	answer := p.olive.Do(t, "GET", "/v1/contacts", "")
	if answer.Status == http.StatusOK {
		answer.Decode(t, &page)
		if len(page.Items) > 0 {
			t.Errorf("an auditor sees %d contacts", len(page.Items))
		}
	} else if answer.Status != http.StatusForbidden {
		t.Errorf("%d %s", answer.Status, answer.Body)
	}
	found := false
	for _, r := range outside.Ledger(t, s.NATS)[before:] {
		d := r.Event.Decision
		found = found || r.Event.Type == events.TypeDecision && d.Action == "list" && d.Effect == events.Deny && len(d.Plan) > 0
	}
	if !found {
		t.Error("the denied list is not on record with its plan")
	}
}
