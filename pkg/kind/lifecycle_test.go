package kind_test

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/writ-project/writ/pkg/kind"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 123456789, time.FixedZone("", 3600))

func TestCreate(t *testing.T) {
	r, err := things.Create("t1", "acme", "u1", json.RawMessage(`{"text":"a","id":"forged","tenant":"globex","version":9,"created_at":"2001-01-01T00:00:00Z"}`), noon)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 4, 11, 0, 0, 123456000, time.UTC)
	want := kind.Meta{ID: "t1", Tenant: "acme", OwnerID: "u1", Version: 1, CreatedAt: at, UpdatedAt: at}
	if *r.Meta != want {
		t.Errorf("%+v, want %+v", *r.Meta, want)
	}
	if r, err = things.Create("t1", "acme", "u1", json.RawMessage(`{"owner_id":"u2"}`), noon); err != nil || r.OwnerID != "u2" {
		t.Errorf("owner %v (%v)", r, err)
	}
	for _, body := range []string{`{"owner_id":null}`, `{"owner_id":""}`} {
		if r, err = things.Create("t1", "acme", "u1", json.RawMessage(body), noon); err != nil || r.OwnerID != "u1" {
			t.Errorf("%s: %v (%v)", body, r, err)
		}
	}
	if _, err := things.Create("t1", "acme", "u1", json.RawMessage(`{"colour":1}`), noon); err == nil {
		t.Error("an unknown member was taken")
	}
}

// TestUpdateKeepsWhatIsNotTheClients: a patch that got past the api's schema
// must not move a row to another tenant or turn its version back.
func TestUpdateKeepsWhatIsNotTheClients(t *testing.T) {
	r, err := things.Create("t1", "acme", "u1", json.RawMessage(`{}`), noon)
	if err != nil {
		t.Fatal(err)
	}
	patch := `{"id":"x","tenant":"globex","version":-5,"created_at":"2001-01-01T00:00:00Z","updated_at":"2999-01-01T00:00:00Z","owner_id":null}`
	next, err := things.Update(r, json.RawMessage(patch), noon.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	want := *r.Meta
	want.Version, want.UpdatedAt = 2, noon.Add(time.Second).UTC().Truncate(time.Microsecond)
	if *next.Meta != want {
		t.Errorf("%+v, want %+v", *next.Meta, want)
	}
	if next, err = things.Update(r, json.RawMessage(`{"owner_id":"u2"}`), noon); err != nil || next.OwnerID != "u2" {
		t.Errorf("given away to %v (%v)", next.OwnerID, err)
	}
}

// TestEmptyPatchMakesNoNewVersion: it says that nothing is to change.
func TestEmptyPatchMakesNoNewVersion(t *testing.T) {
	r, err := things.Create("t1", "acme", "u1", json.RawMessage(`{"text":"x"}`), noon)
	if err != nil {
		t.Fatal(err)
	}
	next, err := things.Update(r, json.RawMessage(` {} `), noon.Add(time.Hour))
	if err != nil || *next.Meta != *r.Meta || next.Value.(*thing).Text != "x" {
		t.Errorf("after an empty patch the row is %+v (%v), want it as it was: %+v", next.Value, err, r.Value)
	}
}

func TestVersionsAndTimesNeverRunBackwards(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, err := things.Create("t1", "acme", "u1", json.RawMessage(`{}`), noon)
		if err != nil {
			t.Fatal(err)
		}
		for i, step := range rapid.SliceOf(rapid.Int64Range(-1e12, 1e12)).Draw(t, "clock") {
			next, err := things.Update(r, json.RawMessage(`{"text":"x"}`), r.UpdatedAt.Add(time.Duration(step)))
			if err != nil {
				t.Fatal(err)
			}
			if next.Version != int64(i)+2 || next.UpdatedAt.Before(r.UpdatedAt) || next.CreatedAt != r.CreatedAt {
				t.Fatalf("%+v after %+v", *next.Meta, *r.Meta)
			}
			r = next
		}
	})
}
