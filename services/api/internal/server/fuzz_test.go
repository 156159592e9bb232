package server

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// FuzzListParameters sends query strings as they come: a page, or a problem
// that names the parameter; never a 500, and never a row of another tenant.
func FuzzListParameters(f *testing.F) {
	r := newRig(f)
	api := r.api()
	id, token := r.person("fuzz", "admin")
	r.contact(id)
	client := http.Client{}
	f.Cleanup(client.CloseIdleConnections)
	for _, q := range []string{
		"", "limit=1", "limit=0", "limit=-1", "limit=1e3", "limit=99999999999999999999", "limit=1&limit=2", "cursor=x", "cursor=e30", "sort=-updated_at",
		"sort=notes", "sort=first_name;drop", "q=%25_%5C", "q=%00", "q=%ff", "is_active=true", "is_active=TRUE", "is_active=2", "is_active=", "owner_id=%27",
		"created_at=2025-01-02T03:04:05Z", "include=permissions", "include=x", "nothing=1", "tenant=other", "version=1", "version=1.0", "a&b", "%zz", "marketing_opt_in=0",
	} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		if strings.ContainsAny(query, "# \r\n\t") || len(query) > 4<<10 {
			return // no query of a request line
		}
		for _, c := range query {
			if c < 0x20 || c == 0x7f {
				return
			}
		}
		req, err := http.NewRequest(http.MethodGet, api+"/v1/contacts", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.RawQuery = query
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := client.Do(req)
		if err != nil {
			return // net/http itself would not send it
		}
		defer res.Body.Close()
		var body struct {
			Items  []struct{ Tenant string }
			Code   string
			Errors []struct{ Location string }
		}
		if err := json.NewDecoder(res.Body).Decode(&body); err != nil {
			t.Fatalf("%q: %d, no JSON: %v", query, res.StatusCode, err)
		}
		switch res.StatusCode {
		case http.StatusOK:
			for _, item := range body.Items {
				if item.Tenant != "default" {
					t.Fatalf("%q: a row of tenant %q", query, item.Tenant)
				}
			}
		case http.StatusBadRequest, http.StatusUnprocessableEntity:
			if values, err := url.ParseQuery(query); err == nil && len(values) > 0 && len(body.Errors) == 0 {
				t.Fatalf("%q: %d %s names nothing", query, res.StatusCode, body.Code)
			}
		default:
			t.Fatalf("%q: %d %s", query, res.StatusCode, body.Code)
		}
	})
}
