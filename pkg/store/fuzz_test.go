package store

import (
	"encoding/base64"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/writ-project/writ/pkg/fault"
)

// FuzzList asks for pages with cursors, sorts, filters and search texts as a
// client may send them: rows of the own tenant, or an error that names the
// parameter. Anything else would be an outage that a client can cause.
func FuzzList(f *testing.F) {
	s := migrated(f, "sqlite:"+filepath.Join(f.TempDir(), "fuzz.db"))
	withThings(f, s)
	r := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		put1(f, s, things, newThing(r))
	}
	cursor := func(json string) string { return base64.RawURLEncoding.EncodeToString([]byte(json)) }
	f.Add("", "", "", "", "", 0)
	f.Add(cursor(`{"sort":"created_at","value":1735787045000000,"id":"a"}`), "created_at", "", "", "", 5)
	f.Add(cursor(`{"sort":"-text","value":"Z","id":"a"}`), "-text", "b", "on", "true", 200)
	f.Add(cursor(`{"sort":"text","value":{"a":1},"id":"a"}`), "text", "%_\\", "maybe", "' OR 1=1 --", -1)
	f.Add(cursor(`{"sort":"amount","value":1e999,"id":"a"}`), "amount", "\x00", "order", "9223372036854775808", 201)
	f.Add(cursor(`{"sort":"due","value":99999999999999999999,"id":"\u0000"}`), "due", "\xff", "due", "2025-01-02T03:04:05Z", 1)
	f.Add("=====", "tags", "é", "nothing", "x", 1)
	f.Add(cursor(`{"sort":"on","value":true,"id":"a"} {}`), "on", "", "tags", "", 1)
	f.Fuzz(func(t *testing.T, cursor, sort, search, filter, value string, limit int) {
		q := Query{Tenant: "t", Cursor: cursor, Sort: sort, Search: search, Limit: limit}
		if filter != "" {
			q.Equals = map[string]any{filter: value}
		}
		page, err := s.List(t.Context(), things, q)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("%+v: %v", q, err)
			}
			return
		}
		for _, row := range page.Items {
			if row.Tenant != "t" {
				t.Fatalf("%+v gave a row of tenant %q", q, row.Tenant)
			}
		}
		if limit > 0 && len(page.Items) > limit {
			t.Fatalf("%+v gave %d rows", q, len(page.Items))
		}
		if page.NextCursor == "" {
			return
		}
		q.Cursor = page.NextCursor
		after, err := s.List(t.Context(), things, q)
		if err != nil {
			t.Fatalf("the page's own cursor: %v", err)
		}
		last := page.Items[len(page.Items)-1]
		for _, row := range after.Items {
			if row.ID == last.ID {
				t.Fatalf("%+v: the next page repeats %s", q, row.ID)
			}
		}
	})
}
