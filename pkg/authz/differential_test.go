package authz

import (
	"database/sql"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/testkit"
)

// doc is a kind with a column of every type, each also as one that may be NULL.
type doc struct {
	kind.Meta
	Title  string     `json:"title"`
	Region *string    `json:"region"`
	Nick   *string    `json:"nick"`
	Count  int64      `json:"count"`
	Score  *int64     `json:"score"`
	Ratio  *float64   `json:"ratio"`
	Open   bool       `json:"open"`
	Flag   *bool      `json:"flag"`
	DueAt  *time.Time `json:"due_at"`
	Tags   []string   `json:"tags"`
}

var docKind = kind.Define[doc]("doc", kind.Attr("title", "region", "nick", "count", "score", "ratio", "open", "flag", "due_at", "created_at", "tags"))

// diffCases is how many cases there are to be at least: WRIT_DIFF_CASES, or
// one round; 10,000 where CI is true.
func diffCases(t *testing.T) int {
	s := os.Getenv("WRIT_DIFF_CASES")
	switch {
	case s == "" && os.Getenv("CI") == "true":
		return 10_000
	case s == "":
		return 1000
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("WRIT_DIFF_CASES: %q is no number of cases", s)
	}
	return n
}

// diffSeed is new on every run and can be set, to repeat one that failed.
func diffSeed(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("WRIT_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("WRIT_TEST_SEED: %v", err)
		}
	}
	t.Logf("WRIT_TEST_SEED=%d", seed)
	return seed
}

func TestPlanSelectsWhatCheckAllows(t *testing.T) {
	want := diffCases(t)
	if testkit.Race {
		testkit.WithoutRace(t, elsewhere...)
		want = min(want, diffUnderRace)
	}
	seed := diffSeed(t)
	quietly(t)
	var rounds []*round
	for cases := 0; cases < want; { // once, unless plans were refused
		more := make([]*round, (want-cases+diffCasesOfRound-1)/diffCasesOfRound)
		t.Run("decide", func(t *testing.T) {
			for i := range more {
				g := &generator{Rand: rand.New(rand.NewPCG(seed, uint64(len(rounds)+i)))}
				t.Run("", func(t *testing.T) {
					t.Parallel()
					more[i] = newRound(t, g, diffActions)
				})
			}
		})
		if t.Failed() {
			return
		}
		for _, r := range more {
			rounds, cases = append(rounds, r), cases+len(r.cases)
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		// PostgreSQL cannot keep a zero byte: some cases more, with some.
		zeros := newRound(t, &generator{Rand: rand.New(rand.NewPCG(seed, uint64(len(rounds)))), zero: true}, diffActions/4)
		differ(t, SQLite, openSQLite(t), append(slices.Clone(rounds), zeros))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		db, err := sql.Open("pgx", testkit.Postgres(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		differ(t, Postgres, db, rounds)
	})
}

// quietly lets the heap grow before it is looked through: rounds are kept, and
// deciding makes a lot of garbage beside them.
func quietly(t *testing.T) {
	before := debug.SetGCPercent(400)
	t.Cleanup(func() { debug.SetGCPercent(before) })
}

// The same of a PDP's plans and its own checks, for policies that keep to the
// rules for a PDP.
func TestPlanOfAPDPSelectsWhatItAllows(t *testing.T) {
	if ranElsewhere(t) {
		return
	}
	g := &generator{Rand: rand.New(rand.NewPCG(diffSeed(t), 6)), plain: true}
	r := newRoundOn(t, g, diffActions, func(dir string) string { return "grpc://" + testkit.Cerbos(t, dir) })
	differ(t, SQLite, openSQLite(t), []*round{r})
}

// diffUnderRace is how many cases are also run under the race detector.
const diffUnderRace = 300

// elsewhere are tests that compare as much in one goroutine as well: under the
// race detector they are run without it, by TestPlanSelectsWhatCheckAllows.
var elsewhere = []string{"TestWrongMappingsAreNoticed", "TestPlanOfAPDPSelectsWhatItAllows", "TestPlansAgree"}

// ranElsewhere tells a test of elsewhere to leave it at that.
func ranElsewhere(t *testing.T) bool {
	if testkit.Race {
		t.Log("run without the race detector, by TestPlanSelectsWhatCheckAllows")
	}
	return testkit.Race
}

// differ compares all rounds with what a database selects.
func differ(t *testing.T, dialect string, db *sql.DB, rounds []*round) {
	t.Helper()
	var found differences
	asked, cases, where, refused := 0, 0, 0, map[string]int{}
	for _, r := range rounds {
		asked += r.asked
		r.store(t, db)
		filtered := r.filter(t, dialect, refused)
		for _, c := range filtered {
			if c.filter.Kind == Where {
				where++
			}
		}
		cases += len(filtered)
		r.compare(t, db, filtered, &found)
	}
	t.Logf("%d cases, each on %d rows, %d of them conditional; refused: %v", cases, diffRows, where, refused)
	if cases < asked*9/10 || where < cases/4 {
		t.Error("too few to mean anything")
	}
	if len(found.wider) > 0 {
		t.Errorf("%d rows selected that a check denies; the first:\n%s", len(found.wider), found.wider[0])
	}
	if len(found.narrower) > 0 {
		t.Errorf("%d rows not selected that a check allows; the first:\n%s", len(found.narrower), found.narrower[0])
	}
}

func TestWrongMappingsAreNoticed(t *testing.T) {
	if ranElsewhere(t) {
		return
	}
	// Always the same cases: it is the comparison that is tested.
	r := newRound(t, &generator{Rand: rand.New(rand.NewPCG(1, 1)), zero: true}, diffActions)
	db := openSQLite(t)
	r.store(t, db)
	sound := r.filter(t, SQLite, map[string]int{})
	for name, mutate := range wrongMappings {
		if wider, _, n := r.wrong(t, db, sound, mutate); wider == 0 {
			t.Errorf("%s: not noticed in %d cases", name, n)
		}
	}
	for name, mutate := range tooNarrow {
		if _, narrower, n := r.wrong(t, db, sound, mutate); narrower == 0 {
			t.Errorf("%s: not noticed in %d cases", name, n)
		}
	}
}

// wrong counts what n cases with wrong SQL select too much or too little, until there is both.
func (r *round) wrong(t *testing.T, db *sql.DB, sound []diffCase, mutate func(string) string) (wider, narrower, n int) {
	t.Helper()
	var wrong []diffCase
	for _, c := range sound {
		before := c.filter.SQL
		if c.filter.SQL = mutate(before); c.filter.SQL != before {
			wrong = append(wrong, c)
		}
	}
	var found differences
	for batch := range slices.Chunk(wrong, diffBatch) {
		if r.compare(t, db, batch, &found); len(found.wider) > 0 && len(found.narrower) > 0 {
			break
		}
	}
	return len(found.wider), len(found.narrower), len(wrong)
}

// tooNarrow is SQL that leaves rows out.
var tooNarrow = map[string]func(string) string{
	"and for or":             replace(") OR (", ") AND ("),
	"lt for le":              replace(" <= ", " < "),
	"an error that is false": replace("(NOT ", "(NULL AND NOT "),
}

// wrongMappings test the test: SQL that is wrong in one place must be noticed.
var wrongMappings = map[string]func(string) string{
	"or for and":             replace(") AND (", ") OR ("),
	"no not":                 replace("(NOT ", "("),
	"le for lt":              replace(" < ", " <= "),
	"eq for ne":              replace(" <> ", " = "),
	"NULL taken for false":   replace("(NOT ", "(TRUE IS NOT "),
	"present for absent":     replace("IS NOT NULL", "IS NULL"),
	"everything contained":   replace(") > 0", ") >= 0"),
	"comparing without case": replace(` = ?`, ` = ? COLLATE NOCASE`),
	"patterns": func(s string) string {
		return replace(" AS BLOB", " AS TEXT")(replace("= CAST(? AS BLOB)", "LIKE ?")(s))
	},
	"an error that is true":    replace(unknown, "TRUE"),
	"a missing one in no list": replace(" IS NOT NULL THEN FALSE END", " IS NULL THEN FALSE ELSE FALSE END"),
}

func replace(old, new string) func(string) string {
	return func(s string) string { return strings.ReplaceAll(s, old, new) }
}

func writeFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func openSQLite(t *testing.T) *sql.DB {
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "rows.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Every column type that a kind can have is known.
func TestColumnsOfEveryType(t *testing.T) {
	got := map[string]valueType{}
	for name, c := range columnsOf(docKind) {
		got[name] = c.typ
		if f, _ := reflect.TypeFor[doc]().FieldByName(strings.ToUpper(name[:1]) + name[1:]); f.Type != nil && c.nullable != (f.Type.Kind() == reflect.Pointer) {
			t.Errorf("%s: nullable %v", name, c.nullable)
		}
	}
	want := map[string]valueType{"owner_id": typeString, "tenant": typeString, "title": typeString, "region": typeString, "nick": typeString,
		"count": typeNumber, "score": typeNumber, "ratio": typeNumber, "open": typeBool, "flag": typeBool, "due_at": typeTime, "created_at": typeTime, "tags": typeOther}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("have %v, want %v", got, want)
	}
}
