package stytchemu

import (
	"encoding/json"
	"mime"
	"net/http"
	"time"
)

// wireFault is a Fault in JSON; durations as Go writes them ("1.5s").
type wireFault struct {
	Kind        FaultKind `json:"kind"`
	Path        string    `json:"path,omitempty"`
	Count       int       `json:"count,omitempty"`
	Probability float64   `json:"probability,omitempty"`
	Seed        uint64    `json:"seed,omitempty"`
	RetryAfter  string    `json:"retry_after,omitempty"`
	Delay       string    `json:"delay,omitempty"`
}

func (wf wireFault) fault() (Fault, error) {
	f := Fault{Kind: wf.Kind, Path: wf.Path, Count: wf.Count, Probability: wf.Probability, Seed: wf.Seed}
	for _, d := range []struct {
		text string
		into *time.Duration
	}{{wf.RetryAfter, &f.RetryAfter}, {wf.Delay, &f.Delay}} {
		if d.text == "" {
			continue
		}
		var err error
		if *d.into, err = time.ParseDuration(d.text); err != nil {
			return f, err
		}
	}
	return f, nil
}

func (e *Emulator) listFaults(w http.ResponseWriter, _ *http.Request) {
	out := []wireFault{}
	for _, f := range e.Faults() {
		wf := wireFault{Kind: f.Kind, Path: f.Path, Count: f.Count, Probability: f.Probability, Seed: f.Seed}
		if f.RetryAfter > 0 {
			wf.RetryAfter = f.RetryAfter.String()
		}
		if f.Delay > 0 {
			wf.Delay = f.Delay.String()
		}
		out = append(out, wf)
	}
	writeJSON(w, http.StatusOK, map[string]any{"faults": out})
}

// postFault wants application/json, so that no web page can post to it: a
// browser asks first for that type, and is not answered.
func (e *Emulator) postFault(w http.ResponseWriter, r *http.Request) {
	if ct, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); ct != "application/json" {
		writeJSON(w, http.StatusUnsupportedMediaType, map[string]any{"error": "Content-Type must be application/json"})
		return
	}
	var wf wireFault
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(&wf)
	var f Fault
	if err == nil {
		f, err = wf.fault()
	}
	if err == nil {
		err = e.Fail(f)
	}
	if err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]any{"error": err.Error()})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (e *Emulator) deleteFaults(w http.ResponseWriter, _ *http.Request) {
	e.ClearFaults()
	w.WriteHeader(http.StatusNoContent)
}
