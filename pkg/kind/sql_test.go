package kind_test

import (
	"database/sql"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"
	"pgregory.net/rapid"

	"github.com/writ-project/writ/pkg/kind"
)

// table is a real table with things' columns; the store has the same types.
func table(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1)
	var columns []string
	for _, c := range things.Columns {
		typ := "TEXT"
		switch c.Name {
		case "version", "created_at", "updated_at", "small", "count", "size", "when", "ended", "rank":
			typ = "BIGINT"
		case "flag":
			typ = "BOOLEAN"
		case "ratio":
			typ = "DOUBLE PRECISION"
		}
		columns = append(columns, fmt.Sprintf("%q %s", c.Name, typ))
	}
	if _, err := db.Exec("CREATE TABLE stuff (" + strings.Join(columns, ", ") + ")"); err != nil {
		t.Fatal(err)
	}
	return db
}

func roundTrip(db *sql.DB, r kind.Row) (*thing, error) {
	if _, err := db.Exec("DELETE FROM stuff"); err != nil {
		return nil, err
	}
	marks := strings.TrimSuffix(strings.Repeat("?,", len(things.Columns)), ",")
	if _, err := db.Exec("INSERT INTO stuff VALUES ("+marks+")", things.Values(r)...); err != nil {
		return nil, err
	}
	out := things.New()
	err := db.QueryRow("SELECT * FROM stuff").Scan(things.Dest(out)...)
	return out.Value.(*thing), err
}

func TestRowsComeBackFromSQLAsTheyWere(t *testing.T) {
	db := table(t)
	micro := rapid.Map(rapid.Int64Range(-62135596800000000, 253402300799999999), kind.FromMicros)
	text := rapid.StringMatching(`[a-zé<>&"'\\ \n]{0,8}`)
	maybe := func(t *rapid.T, name string) bool { return rapid.Bool().Draw(t, name) }
	rapid.Check(t, func(t *rapid.T) {
		v := &thing{
			Meta: kind.Meta{ID: text.Draw(t, "id"), Tenant: text.Draw(t, "tenant"), OwnerID: text.Draw(t, "owner"),
				Version: rapid.Int64().Draw(t, "version"), CreatedAt: micro.Draw(t, "created"), UpdatedAt: micro.Draw(t, "updated")},
			Text: text.Draw(t, "text"), State: state(text.Draw(t, "state")), Flag: rapid.Bool().Draw(t, "flag"),
			Small: rapid.Int32().Draw(t, "small"), Count: rapid.Int64().Draw(t, "count"), Size: rapid.Uint32().Draw(t, "size"),
			Ratio: rapid.Float64Range(-1e300, 1e300).Draw(t, "ratio"), When: micro.Draw(t, "when"),
			Labels: rapid.MapOf(text, text).Draw(t, "labels"), List: rapid.SliceOf(text).Draw(t, "list"),
			Clip: clip{Title: text.Draw(t, "title"), At: []int{1}},
		}
		if maybe(t, "ended?") {
			at := micro.Draw(t, "ended")
			v.Ended = &at
		}
		if maybe(t, "nick?") {
			s := text.Draw(t, "nick")
			v.Nick = &s
		}
		if maybe(t, "rank?") {
			n := rapid.Int64().Draw(t, "rank")
			v.Rank = &n
		}
		have, err := roundTrip(db, kind.Row{Meta: &v.Meta, Value: v})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(have, v) {
			t.Fatalf("%+v\nwant %+v", have, v)
		}
	})
}

func TestZeroValuesComeBack(t *testing.T) {
	have, err := roundTrip(table(t), kind.Row{Meta: &kind.Meta{}, Value: &thing{}})
	if err != nil || !reflect.DeepEqual(have, &thing{}) {
		t.Errorf("%+v (%v)", have, err)
	}
}

func TestTimesAreWholeMicroseconds(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.FixedZone("", -3600))
	if have := kind.FromMicros(kind.ToMicros(at)); have.Location() != time.UTC || !have.Equal(at.Truncate(time.Microsecond)) {
		t.Errorf("%s became %s", at, have)
	}
}

func TestColumnsOfAnotherTypeAreRefused(t *testing.T) {
	for i, c := range things.Columns {
		var wrong any
		switch c.Name {
		case "when", "ended", "created_at":
			wrong = "2026-01-01"
		case "labels", "list", "clip":
			wrong = int64(7)
		default:
			continue
		}
		if err := things.Dest(things.New())[i].(sql.Scanner).Scan(wrong); err == nil {
			t.Errorf("%s takes %v", c.Name, wrong)
		}
	}
	for i, c := range things.Columns {
		if c.Name == "labels" {
			if err := things.Dest(things.New())[i].(sql.Scanner).Scan([]byte(`{`)); err == nil {
				t.Error("labels take broken JSON")
			}
		}
	}
}
