package whatif

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A decision may stand alone (audit tail -o json) or in an entry of an export, whose last line holds none.
func TestLinesOfAnExportAreRead(t *testing.T) {
	rec := recorded(t, 5)
	var export, tail strings.Builder
	for i, record := range rec.records {
		fmt.Fprintf(&export, `{"id":"%d-1","index":%d,"sequence":%d,"at":"2026-11-21T10:00:00Z","leaf_hash":"00","seal":"k.m","decision":%s}`+"\r\n", i, i, i, record)
		fmt.Fprintf(&tail, "%s\n\n", record)
	}
	spaced := strings.ReplaceAll(export.String(), `,"decision":`, `, "decision" : `)
	export.WriteString(`{"checkpoint":"x","entries":30,"unreadable":0}` + "\n")
	for name, text := range map[string]string{"export": export.String(), "tail": tail.String(), "spaces": spaced} {
		r, err := New(open(t, policies), nil).Run(t.Context(), Lines(strings.NewReader(text)))
		if err != nil || r.Read != len(rec.records) || r.Replayed != len(rec.records) || r.Changed != 0 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}

	late := New(open(t, policies), nil)
	late.Since(rec.at.Add(-3 * time.Second)) // each decision a second after the one before
	r, err := late.Run(t.Context(), Lines(strings.NewReader(tail.String())))
	if err != nil || r.Read != 4 || r.Replayed != 4 {
		t.Errorf("since: %+v, %v", r, err)
	}

	cut := export.String()[:export.Len()-40]
	if _, err := New(open(t, policies), nil).Run(t.Context(), Lines(strings.NewReader(cut))); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("cut off: %v", err)
	}
}

// What the auditor has masked has lost the attributes: decided again it would be denied.
func TestMaskedDecisionsAreNotReplayed(t *testing.T) {
	rec := recorded(t, 1)
	line := fmt.Sprintf(`{"id":"1-1","masked":true,"decision":%s}`, rec.records[0])
	r, err := New(open(t, policies), nil).Run(t.Context(), Lines(strings.NewReader(line+"\n")))
	if err != nil || r.Replayed != 0 || r.Skipped[Masked] != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}
