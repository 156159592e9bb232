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
	made := map[string][2]string{} // by the index's name: the table, and the columns
	for _, name := range names {
		text, err := fs.ReadFile(migrations, name)
		if err != nil {
			panic(err) // embedded
		}
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		for _, m := range plainIndex.FindAllStringSubmatch(up, -1) {
			made[m[1]] = [2]string{m[2], m[3]}
		}
		for _, m := range droppedIndex.FindAllStringSubmatch(up, -1) {
			delete(made, m[1])
		}
	}
	out := map[string][][]string{}
	for _, index := range made {
		out[index[0]] = append(out[index[0]], strings.Split(index[1], ", "))
	}
	return out
})

var (
	plainIndex   = regexp.MustCompile(`(?m)^CREATE (?:UNIQUE )?INDEX (\w+) ON (\w+) \((\w+(?:, \w+)*)\);$`)
	droppedIndex = regexp.MustCompile(`(?m)^DROP INDEX (\w+);$`)
)

// ordered reports whether an index holds the rows of a tenant that have one
// value in column, in the order of sort.
func ordered(table, column, sort string) bool {
	want := []string{"tenant", column, sort, "id"}
	return slices.ContainsFunc(indexes()[table], func(have []string) bool { return slices.Equal(have, want) })
}
