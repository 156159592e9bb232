package request

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// TestQueryIsReadAsOneThingOnly: what url.ParseQuery, or huma, would pass over is
// refused with the parameter's name, and what is left everybody reads alike.
func TestQueryIsReadAsOneThingOnly(t *testing.T) {
	for raw, want := range map[string]string{
		"": "", "a=1": "a=1", "a=1&b=2": "a=1&b=2", "%61=1": "a=1", "a=%3B": "a=%3B", "a=x+y": "a=x+y", "&&a=1&": "a=1",
		"verbose": "verbose=", "a=b=c": "a=b%3Dc", "a=%C3%A4": "a=%C3%A4", "a=ä": "a=%C3%A4",
	} {
		if got, err := canonicalQuery(raw); err != nil || got != want {
			t.Errorf("?%s is read as ?%s (%v), want ?%s", raw, got, err, want)
		}
	}
	for raw, name := range map[string]string{
		"owner_id=a;b": "query.owner_id", "a=1;b=2": "query.a", ";": "query.;", "a=%zz": "query.a", "a=%": "query.a", "a=%4": "query.a", "a=%ff": "query.a",
		"a=%00": "query.a", "%zz=1": "query.%zz", "%00=1": "query.%00", "a=1&a=2": "query.a", "a=1&%61=2": "query.a", "a&a": "query.a",
	} {
		if got, err := canonicalQuery(raw); err == nil || !strings.HasPrefix(err.Error(), name+": ") {
			t.Errorf("?%s is read as ?%s (%v), want an error that names %s", raw, got, err, name)
		}
	}
	if _, err := canonicalQuery(strings.Repeat("x", 9000) + "=%"); err == nil || len(err.Error()) > 200 {
		t.Errorf("the error of a long name is %d bytes, want few", len(err.Error()))
	}
}

func TestHeadersOfOneValueAreGivenOnce(t *testing.T) {
	for _, name := range singular {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set(name, "x")
		if err := WellFormed(r); err != nil {
			t.Errorf("one %s: %v", name, err)
		}
		r.Header.Add(name, "x")
		if err := WellFormed(r); err == nil || !strings.Contains(err.Error(), "header."+name) {
			t.Errorf("two %s lines: %v, want an error that names the header", name, err)
		}
	}
	for _, name := range filled {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set(name, " ")
		if err := WellFormed(r); err == nil || !strings.Contains(err.Error(), "header."+name) {
			t.Errorf("an empty %s: %v, want an error that names the header", name, err)
		}
	}
}

func TestMediaTypesAreReadInEitherCase(t *testing.T) {
	for in, want := range map[string]string{
		"Application/JSON": "application/json", "application/Merge-Patch+json; charset=UTF-8": "application/merge-patch+json; charset=UTF-8", " text/plain": "text/plain",
	} {
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set("Content-Type", in)
		if err := WellFormed(r); err != nil || r.Header.Get("Content-Type") != want {
			t.Errorf("%q is read as %q (%v), want %q", in, r.Header.Get("Content-Type"), err, want)
		}
	}
}

func TestBodiesInAContentCodingAreSeen(t *testing.T) {
	for coding, want := range map[string]bool{"": false, "identity": false, "Identity, identity": false, "gzip": true, "identity, br": true, "x": true} {
		r := httptest.NewRequest("PUT", "/", strings.NewReader("x"))
		r.Header.Set("Content-Encoding", coding)
		if got := Coded(r); got != want {
			t.Errorf("Content-Encoding: %s is a coding: %v, want %v", coding, got, want)
		}
	}
}

func TestListsAreSplitOutsideQuotes(t *testing.T) {
	for in, want := range map[string][]string{
		"": nil, "a": {"a"}, "a, b ,,c,": {"a", "b", "c"}, `a="x, y", b`: {`a="x, y"`, "b"}, `"a\", b", c`: {`"a\", b"`, "c"}, `"open, a`: {`"open, a`},
	} {
		if got := List(in); !slices.Equal(got, want) {
			t.Errorf("%s is %q, want %q", in, got, want)
		}
	}
}

func TestUUIDsAreReadInEitherCase(t *testing.T) {
	const id = "0192d4e0-7b3a-7c58-9f0e-2d6a1b5c8e4f"
	if got, ok := UUID(strings.ToUpper(id)); !ok || got != id {
		t.Errorf("in upper case it is %q (%v), want %q", got, ok, id)
	}
	for _, other := range []string{"", "{" + id + "}", "urn:uuid:" + id, strings.ReplaceAll(id, "-", ""), id + "0", id[:35] + "g"} {
		if got, ok := UUID(other); ok {
			t.Errorf("%q is %q, want it refused", other, got)
		}
	}
}
