package main

import (
	"fmt"
	"io"
	"runtime"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/writ-project/writ/pkg/events"
)

// columns are a name and six numbers.
const columns = "%-46s%9s%10s%9s%9s%9s%13s\n"

// unknown stands where something cannot be known here.
const unknown = "n/a"

// report prints the one table.
func report(out io.Writer, o options, m *measurement, raws []raw) error {
	fmt.Fprintf(out, "\n%d connections, %s, create/update/denied update/read %s, %d processors, %s\n\n",
		o.connections, m.load.elapsed.Round(100*time.Millisecond), &o.mix, runtime.NumCPU(), runtime.Version())
	fmt.Fprintf(out, columns, "", "count", "a second", "p50 ms", "p99 ms", "max ms", "CPU s/1,000")
	seconds := m.load.elapsed.Seconds()
	for op := range operations {
		h := m.load.answered[op]
		line(out, h.TotalCount(), float64(h.TotalCount())/seconds, h, blank, fmt.Sprintf("%s, answered %d", names[op], expected[op]))
	}
	requests, commands := m.load.requests(), m.load.commands()
	cpu := m.after.cpu - m.before.cpu
	perRequest, perCommand := -1.0, -1.0
	if m.before.cpu >= 0 && m.after.cpu >= 0 {
		perRequest, perCommand = cpu.Seconds()*1000/float64(max(requests, 1)), cpu.Seconds()*1000/float64(max(commands, 1))
	}
	all := newHistogram()
	for _, h := range m.load.answered {
		all.Merge(h)
	}
	line(out, requests, float64(requests)/seconds, all, perRequest, "all requests")
	line(out, commands, float64(commands)/seconds, nil, perCommand, "accepted commands, everything included")
	if l := m.ledger; l != nil {
		line(out, l.applied.TotalCount(), float64(l.applied.TotalCount())/seconds, l.applied, blank, "from accepted to applied (ledger's clock)")
	}
	if len(raws) > 0 {
		fmt.Fprintln(out)
	}
	for _, r := range raws { // a raw part's p50 and p99 are of a call, which may be of a whole batch
		line(out, r.count(), r.perSecond(), r.calls, r.costs(), "alone: "+r.name)
	}
	fmt.Fprintln(out)
	facts := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	m.facts(facts)
	ratios(facts, o, m, raws, perRequest)
	return facts.Flush()
}

// blank is a cost that is not told of a row; any other negative one is unknown.
const blank = -2

// line prints one row; h may be nil.
func line(w io.Writer, count int64, rate float64, h *hdrhistogram.Histogram, cpu float64, name string) {
	p50, p99, most, cost := "", "", "", ""
	if h != nil && h.TotalCount() > 0 {
		p50, p99, most = ms(h.ValueAtQuantile(50)), ms(h.ValueAtQuantile(99)), ms(h.Max())
	}
	switch {
	case cpu >= 0:
		cost = fmt.Sprintf("%.3f", cpu)
	case cpu != blank:
		cost = unknown
	}
	fmt.Fprintf(w, columns, name, strconv.FormatInt(count, 10), fmt.Sprintf("%.0f", rate), p50, p99, most, cost)
}

func ms(us int64) string { return fmt.Sprintf("%.3f", float64(us)/1000) }

func (m *measurement) facts(w io.Writer) {
	fact := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t"+format+"\n", append([]any{name}, args...)...)
	}
	if m.after.peak >= 0 {
		fact("memory high-water", "%d MiB (%d MiB before the load, %d MiB after)", m.after.peak>>20, m.before.resident>>20, m.after.resident>>20)
	} else {
		fact("memory high-water", unknown)
	}
	if m.before.goroutines >= 0 && m.after.goroutines >= 0 {
		fact("goroutines", "%.0f before, %.0f after", m.before.goroutines, m.after.goroutines)
	}
	if l := m.ledger; l != nil {
		fact("ledger messages per request", "%.4f", float64(l.writs+l.requests)/float64(max(m.load.requests(), 1)))
		fact("commands applied, rejected, failed", "%d, %d, %d", l.outcomes[events.StatusApplied], l.outcomes[events.StatusRejected], l.outcomes[events.StatusFailed])
		fact("decisions taken again by the worker", "%d", l.again)
	}
}

// ratios sets the stack beside what its parts do alone.
func ratios(w io.Writer, o options, m *measurement, raws []raw, perRequest float64) {
	by := map[string]raw{}
	for _, r := range raws {
		by[r.name] = r
	}
	requests := float64(max(m.load.requests(), 1))
	commands := float64(m.load.commands())
	if auditor := by[rawAudit]; auditor.calls != nil {
		fmt.Fprintf(w, "auditor / pipelined XADD of the same entries, median of %d rounds\t%.2f\n", auditorRounds, auditor.ratio)
	}
	if answered := by[rawAnswered]; answered.calls != nil {
		fmt.Fprintf(w, "requests a second / those of an API that only answers\t%.2f\n", requests/m.load.elapsed.Seconds()/answered.perSecond())
	}
	check, appends, batch, xadd := by[rawCheck], by[rawAppend], by[rawBatch], by[rawXADD]
	if appends.calls == nil {
		return
	}
	rate := requests / m.load.elapsed.Seconds()
	fmt.Fprintf(w, "requests a second / ledger appends a second alone\t%.2f\n", rate/appends.perSecond())
	if perRequest < 0 || check.costs() < 0 {
		return
	}
	// Each request is one check, one append and one entry; each command is one row of a batch, one more message and entry.
	share := commands / requests
	sum := check.costs() + (1+share)*appends.costs() + share*batch.costs() + (1+share)*xadd.costs()
	fmt.Fprintf(w, "CPU of the parts alone for 1,000 such requests\t%.3f s: check %.3f, ledger %.3f, SQL %.3f, XADD %.3f\n",
		sum, check.costs(), (1+share)*appends.costs(), share*batch.costs(), (1+share)*xadd.costs())
	fmt.Fprintf(w, "CPU of the stack / CPU of the parts alone\t%.2f\n", perRequest/sum)
}
