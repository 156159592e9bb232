package store

import (
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// indexes are the columns of every plain index, by table, as the migrations
// create them: what a list may count on, without asking the database. Indexes
// on expressions and partial ones are left out.
var indexes = sync.OnceValue(func() map[string][][]string {
	names, err := fs.Glob(migrations, "migrations/*.sql") // sorted: the order in which they run
	if err != nil {
		panic(err) // the pattern is wrong
	}
	out := map[string][][]string{}
	for _, name := range names {
		text, err := fs.ReadFile(migrations, name)
		if err != nil {
			panic(err) // embedded
		}
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		for _, m := range plainIndex.FindAllStringSubmatch(up, -1) {
			out[m[1]] = append(out[m[1]], strings.Split(m[2], ", "))
		}
	}
	return out
})

var plainIndex = regexp.MustCompile(`(?m)^CREATE (?:UNIQUE )?INDEX \w+ ON (\w+) \((\w+(?:, \w+)*)\);$`)

// ordered reports whether an index holds the rows of a tenant that have one
// value in column, in the order of sort.
func ordered(table, column, sort string) bool {
	want := []string{"tenant", column, sort, "id"}
	return slices.ContainsFunc(indexes()[table], func(have []string) bool { return slices.Equal(have, want) })
}
