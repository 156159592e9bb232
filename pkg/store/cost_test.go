package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
)

// cpu measures processor time on Linux: of this process, and of the PostgreSQL
// behind url and its sessions.
type cpu struct {
	server      int // the postmaster's id, 0 for none
	own, others time.Duration
}

func startCPU(b *testing.B, url string) *cpu {
	b.Helper()
	c := &cpu{}
	if strings.HasPrefix(url, "postgres") {
		conn, err := pgx.Connect(b.Context(), url)
		ok(b, err)
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", conn.PgConn().PID()))
		ok(b, conn.Close(b.Context()))
		if err == nil {
			c.server, _ = strconv.Atoi(fieldsOf(stat)[1])
		}
	}
	c.own, c.others = c.now()
	return c
}

// report adds what an operation cost to the benchmark's line.
func (c *cpu) report(b *testing.B, ops int, unit string) {
	b.Helper()
	own, others := c.now()
	b.ReportMetric(float64((own-c.own).Microseconds())/float64(ops), "cpu-µs/"+unit)
	if c.server != 0 {
		b.ReportMetric(float64((others-c.others).Microseconds())/float64(ops), "postgres-µs/"+unit)
	}
}

func (c *cpu) now() (own, others time.Duration) {
	if stat, err := os.ReadFile("/proc/self/stat"); err == nil {
		own = ticks(fieldsOf(stat)[11:13])
	}
	if c.server == 0 {
		return own, 0
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended: its time is in the postmaster's
		}
		f := fieldsOf(stat)
		switch strconv.Itoa(c.server) {
		case filepath.Base(filepath.Dir(name)):
			others += ticks(f[11:15]) // with those of the sessions that ended
		case f[1]:
			others += ticks(f[11:13])
		}
	}
	return own, others
}

// fieldsOf gives the fields of /proc/PID/stat after the name, which may hold
// spaces: the state first (proc(5)).
func fieldsOf(stat []byte) []string {
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.Fields(after)
}

// ticks adds up times in hundredths of a second.
func ticks(fields []string) (sum time.Duration) {
	for _, f := range fields {
		n, _ := strconv.Atoi(f)
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum
}

// BenchmarkReads is what requests read: the principal's row, then the
// resource's, as many requests at a time as the name says.
func BenchmarkReads(b *testing.B) {
	for dialect, database := range databases {
		for _, clients := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/%d", dialect, clients), func(b *testing.B) {
				url := database(b)
				s := migrated(b, url)
				rows := make([]kind.Row, 2000)
				for i := range rows {
					rows[i] = newContact(i)
				}
				users := make([]kind.Row, 100)
				for i := range users {
					users[i] = *user.Sync{Email: fmt.Sprintf("u%d@example.com", i), Tenants: map[string]user.Membership{"default": {Roles: []string{"user"}}}}.
						Apply(nil, fmt.Sprintf("user-test-%d", i), at(i))
				}
				ok(b, s.Update(b.Context(), func(ctx context.Context, tx *Tx) error {
					ok(b, tx.PutRows(ctx, user.Kind, users))
					return tx.PutRows(ctx, contact.Kind, rows)
				}))
				b.ReportAllocs()
				var next atomic.Int64
				var all sync.WaitGroup
				b.ResetTimer()
				c := startCPU(b, url)
				for range clients {
					all.Go(func() {
						for {
							n := int(next.Add(1))
							if n > b.N {
								return
							}
							ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second) // as a request has
							_, err := s.Get(ctx, user.Kind, users[n%len(users)].ID)
							if err == nil {
								_, err = s.Get(ctx, contact.Kind, rows[n*7%len(rows)].ID)
							}
							cancel()
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
				b.StopTimer()
				c.report(b, b.N, "op")
			})
		}
	}
}

// BenchmarkApply is what the worker does for n updates of contacts, each by its
// owner, on one partition.
func BenchmarkApply(b *testing.B) {
	for dialect, database := range databases {
		for _, size := range []int{1, 11, 256} {
			b.Run(fmt.Sprintf("%s/%d", dialect, size), func(b *testing.B) {
				url := database(b)
				s := migrated(b, url)
				rows := make([]kind.Row, 2000)
				for i := range rows {
					rows[i] = newContact(i)
				}
				put1(b, s, contact.Kind, rows...)
				b.ReportAllocs()
				b.ResetTimer()
				c := startCPU(b, url)
				n := 0
				for b.Loop() {
					ok(b, s.Update(b.Context(), func(ctx context.Context, tx *Tx) error { return applyOnce(ctx, tx, rows, n, size) }))
					n += size
				}
				b.StopTimer()
				c.report(b, b.N*size, "command")
			})
		}
	}
}

var benchOutcome = []byte(fmt.Sprintf(`{"id":"%0500d"}`, 1))

// applyOnce applies size updates of the rows from number n on.
func applyOnce(ctx context.Context, tx *Tx, rows []kind.Row, n, size int) error {
	ids, commands, changed := make([]string, size), make([]Command, size), make([]kind.Row, size)
	commandIDs := make([]string, size)
	for i := range size {
		ids[i] = rows[(n+i)%len(rows)].ID
		commandIDs[i] = uuid.Must(uuid.NewV7()).String()
	}
	have, err := tx.Load(ctx, Wanted{
		Parts: []int{3}, Commands: commandIDs, Departed: []string{"sam"},
		Rows: map[*kind.Definition][]string{contact.Kind: ids, user.Kind: {"sam"}},
	})
	if err != nil {
		return err
	}
	for i, id := range ids {
		row := have.Rows[contact.Kind][id]
		row.Version++
		row.UpdatedAt = at(n + i)
		changed[i] = row
		commands[i] = Command{
			ID: commandIDs[i], Tenant: "t", Kind: "contact", ResourceID: id, Action: "update", PrincipalID: "sam",
			Status: events.StatusApplied, Version: row.Version, Attempts: 1, Result: benchOutcome, Outcome: benchOutcome, IssuedAt: at(n), At: at(n),
		}
	}
	at := have.Positions[3]
	return tx.Write(ctx, Changes{
		Put: map[*kind.Definition][]kind.Row{contact.Kind: changed}, Commands: commands, Moves: []Move{{3, at, at + 1}},
	})
}
