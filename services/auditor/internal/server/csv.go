package server

import (
	"encoding/csv"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/events"
)

// columns of an export as CSV (RFC 4180). The first row has the checkpoint.
var columns = []string{
	"sequence", "index", "leaf_hash", "at", "id", "stage", "tenant", "principal", "roles", "kind", "resource", "action", "effect",
	"policy", "policy_revision", "reason", "command", "request", "method", "route", "remote", "trace", "seal", "decision", "checkpoint",
}

type csvFormat struct {
	*csv.Writer
	export *export
	row    []string
}

func newCSV(s *sink, x *export) format { return &csvFormat{csv.NewWriter(s), x, nil} }

func (f *csvFormat) begin() error { return f.write(columns) }

func (f *csvFormat) entry(e found) error {
	var d events.Decision
	if err := json.Unmarshal(e.Record, &d); err != nil {
		return err
	}
	command, note := "", ""
	if d.Command != nil {
		command = d.Command.ID
	}
	if f.export.written == 1 {
		note = string(f.export.checkpoint.Note)
	}
	f.row = append(f.row[:0],
		strconv.FormatUint(e.Entry.ID.Sequence, 10), strconv.FormatInt(e.Index, 10), leafHash(e.LeafHash()), at(e.Entry.ID).Format(time.RFC3339Nano),
		d.ID, string(d.Stage), d.Tenant, d.Principal.ID, strings.Join(d.Principal.Roles, " "), d.Resource.Kind, d.Resource.ID, d.Action,
		string(d.Effect), d.Policy.Matched, d.Policy.Revision, d.Policy.Reason, command, d.Request.ID, d.Request.Method, d.Request.Route,
		d.Request.Remote, d.TraceID, e.Seal, string(e.Record), note)
	for i := range f.row {
		f.row[i] = inert(f.row[i])
	}
	return f.write(f.row)
}

func (f *csvFormat) end() error { return nil }

func (f *csvFormat) write(row []string) error {
	if err := f.Write(row); err != nil {
		return err
	}
	f.Flush()
	return f.Error()
}

// inert keeps a spreadsheet from taking a cell for a formula (OWASP, CSV
// injection). What is recorded begins with a brace and stays as it is, so the
// decision's bytes are exact in any case.
func inert(cell string) string {
	if cell != "" && strings.ContainsRune("=+-@\t\r\n", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}
