package server

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/testkit"
)

// wideContacts breaks rule 7 of policies/README.md: its deny rule looks at the
// resource, no rule allows a manager anything, and one manager has a policy of
// his own. Cerbos' planner then takes for allowed what the deny rule does not hit.
const wideContacts = `apiVersion: api.cerbos.dev/v1
resourcePolicy:
  resource: contact
  version: default
  rules:
    - {actions: [list, read], effect: EFFECT_DENY, roles: ["*"], condition: {match: {expr: "!R.attr.is_active"}}}
    - {actions: [list, read], effect: EFFECT_ALLOW, roles: [admin]}
`

const ownPolicy = `apiVersion: api.cerbos.dev/v1
principalPolicy:
  principal: %q
  version: default
  rules:
    - resource: contact
      actions:
        - {action: "*", effect: EFFECT_ALLOW, condition: {match: {expr: R.attr.tenant == P.attr.tenant && R.attr.owner_id == P.id}}}
`

// With a PDP whose plan is wider than its checks, nobody sees more than the
// checks allow, on no page and in no cursor.
func TestListsAreNoWiderThanAPDPsChecks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	sam, token := r.person("sam", "manager")
	rim, _ := r.person("rim", "user")
	var want []string
	for i := range 40 { // sorted by name, sam's stand alone among the others and at neither end
		owner := rim
		if i == 3 || i == 4 || i == 5 || i == 30 {
			owner = sam
		}
		id := r.row(contact.Kind, user.DefaultTenant, owner, fmt.Sprintf(`{"first_name":"hidden-%02d"}`, i))
		if owner == sam {
			want = append(want, id)
		}
	}
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS("../../../../policies")))
	must(t, os.RemoveAll(filepath.Join(dir, "acme")))
	must(t, os.RemoveAll(filepath.Join(dir, "tests")))
	must(t, os.WriteFile(filepath.Join(dir, "contact.yaml"), []byte(wideContacts), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "principals", "sam.yaml"), fmt.Appendf(nil, ownPolicy, sam), 0o600))

	for name, setting := range map[string]string{"PDP": "grpc:" + testkit.CerbosServer(t, dir).GRPCAddr(), "engine": "embed:" + dir} {
		t.Run(name, func(t *testing.T) {
			az := need(authz.Open(t.Context(), setting, authz.WithTimeout(time.Minute)))(t)
			t.Cleanup(func() { _ = az.Close() })
			r := *r
			r.t, r.authz = t, az
			exact := name == "engine"
			selected := r.selects(t, sam)
			if wide := !slices.Equal(selected, want); wide == exact {
				t.Fatalf("the plan selects %d rows, the checks %d: this is to be tested with a plan that is too wide", len(selected), len(want))
			}
			api := r.api()
			for _, limit := range []int{1, 2, 3, 40, 200} {
				if have := r.pages(t, api, token, limit); !slices.Equal(have, want) {
					t.Errorf("%d a page: %d rows %v, want %v", limit, len(have), have, want)
				}
				if have := r.searched(t, api, token, sam, limit); !slices.Equal(have, want) {
					t.Errorf("a search, %d a page: %d rows %v, want %v", limit, len(have), have, want)
				}
			}
			// A cursor that a client made would find hidden rows by trying.
			made := need(r.store.List(t.Context(), contact.Kind, store.Query{Tenant: user.DefaultTenant, Limit: 1, Sort: "first_name"}))(t).NextCursor
			a := r.do("GET", api+"/v1/contacts?sort=first_name&cursor="+url.QueryEscape(made), token, "")
			if exact && a.status != 200 || !exact && (a.status != 422 || !strings.Contains(string(a.body), "query.cursor")) {
				t.Errorf("a cursor that is not ours: %d %s", a.status, a.body)
			}
			denied := map[string]bool{}
			for _, e := range r.events() {
				if d := e.Decision; d.Action == kind.ActionList && d.Resource.ID != "" && d.Effect == events.Deny {
					denied[d.Resource.ID] = true
				}
			}
			if !exact && len(denied) != 40-len(want) {
				t.Errorf("the denials of %d rows are on the ledger, want %d", len(denied), 40-len(want))
			}
		})
	}
}

// selects gives the contacts that the plan alone would show.
func (r *rig) selects(t *testing.T, id string) (ids []string) {
	t.Helper()
	who := events.Principal{ID: id, Roles: []string{"manager"}, Attr: map[string]any{"tenant": user.DefaultTenant}}
	plan := need(r.authz.Plan(t.Context(), authz.PlanRequest{Principal: who, Kind: "contact", Action: kind.ActionList,
		Attr: map[string]any{"tenant": user.DefaultTenant}, Tenant: user.DefaultTenant, Scope: authz.TenantScope(user.DefaultTenant)}))(t)
	filter := need(plan.Filter(contact.Kind, string(r.store.Dialect())))(t)
	page := need(r.store.List(t.Context(), contact.Kind, store.Query{
		Tenant: user.DefaultTenant, Where: store.Where{SQL: filter.SQL, Args: filter.Args}, Sort: "first_name", Limit: store.MaxLimit,
	}))(t)
	for _, row := range page.Items {
		ids = append(ids, row.ID)
	}
	return ids
}

// pages reads all pages of contacts, sorted by name.
func (r *rig) pages(t *testing.T, api, token string, limit int) (ids []string) {
	t.Helper()
	for cursor, n := "", 0; n < 50; n++ {
		a := r.do("GET", fmt.Sprintf("%s/v1/contacts?sort=first_name&limit=%d&cursor=%s", api, limit, url.QueryEscape(cursor)), token, "")
		var page struct {
			Items []struct {
				ID string `json:"id"`
			} `json:"items"`
			NextCursor string `json:"next_cursor"`
		}
		if must(t, json.Unmarshal(a.body, &page)); a.status != 200 || page.Items == nil {
			t.Fatalf("%d %s", a.status, a.body)
		}
		for _, item := range page.Items {
			ids = append(ids, item.ID)
		}
		if cursor = page.NextCursor; cursor == "" {
			return ids
		}
		plain, err := base64.RawURLEncoding.DecodeString(cursor)
		if _, own := r.authz.(*authz.Engine); !own && (err != nil || strings.Contains(string(plain), "hidden")) {
			t.Errorf("a cursor tells of its row: %s, %v", plain, err)
		}
	}
	t.Fatal("there is no end of pages")
	return nil
}

// searched reads all pages of what a subject may list.
func (r *rig) searched(t *testing.T, api, token, subject string, limit int) (ids []string) {
	t.Helper()
	for next, n := "", 0; n < 50; n++ {
		a := r.do("POST", api+authzenSearchResource, token, fmt.Sprintf(
			`{"subject":{"type":"user","id":%q},"action":{"name":"list"},"resource":{"type":"contact"},"page":{"limit":%d,"token":%q}}`, subject, limit, next))
		var page AuthzenResults[AuthzenEntity]
		if must(t, json.Unmarshal(a.body, &page)); a.status != 200 || page.Results == nil {
			t.Fatalf("%d %s", a.status, a.body)
		}
		for _, e := range page.Results {
			ids = append(ids, e.ID)
		}
		if next = page.Page.NextToken; next == "" {
			return ids
		}
	}
	t.Fatal("there is no end of pages")
	return nil
}
