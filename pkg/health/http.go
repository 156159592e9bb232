package health

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Handler serves /livez and /readyz.
func (h *Health) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", h.Livez)
	mux.HandleFunc("GET /readyz", h.Readyz)
	return mux
}

// Livez answers 200.
func (h *Health) Livez(w http.ResponseWriter, _ *http.Request) {
	header(w, "text/plain; charset=utf-8", http.StatusOK)
	fmt.Fprintln(w, "ok")
}

// Readyz answers 200 or 503. Errors of dependencies are shown with ?verbose only: mount it where only operators look.
func (h *Health) Readyz(w http.ResponseWriter, r *http.Request) {
	ready, results, err := h.Ready(r.Context())
	if err != nil {
		return // the client has gone
	}
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	verbose := r.URL.Query().Has("verbose")
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		h.writeJSON(w, status, ready, verbose, results)
		return
	}
	header(w, "text/plain; charset=utf-8", status)
	if verbose {
		h.writeVerbose(w, ready, results)
		return
	}
	switch {
	case ready:
		fmt.Fprintln(w, "ok")
	case h.Draining():
		fmt.Fprintln(w, "draining")
	default:
		fmt.Fprintln(w, "not ready: "+strings.Join(down(results), ", "))
	}
}

// down names the critical dependencies that do not answer.
func down(results []Result) (names []string) {
	for _, result := range results {
		if result.Critical && result.Err != nil {
			names = append(names, result.Name)
		}
	}
	return names
}

func (h *Health) writeVerbose(w http.ResponseWriter, ready bool, results []Result) {
	for _, result := range results {
		took := result.Took.Round(10 * time.Microsecond)
		switch {
		case result.Err == nil:
			fmt.Fprintf(w, "[+]%s ok (%s)\n", result.Name, took)
		case result.Critical:
			fmt.Fprintf(w, "[-]%s failed (%s): %v\n", result.Name, took, result.Err)
		default:
			fmt.Fprintf(w, "[!]%s failed, not critical (%s): %v\n", result.Name, took, result.Err)
		}
	}
	if h.Draining() {
		fmt.Fprintln(w, "[-]draining")
	}
	outcome := "passed"
	if !ready {
		outcome = "failed"
	}
	fmt.Fprintln(w, "readyz check "+outcome)
}

type report struct {
	Ready    bool         `json:"ready"`
	Draining bool         `json:"draining"`
	Checks   []reportLine `json:"checks,omitempty"`
}

type reportLine struct {
	Name     string  `json:"name"`
	OK       bool    `json:"ok"`
	Critical bool    `json:"critical"`
	TookMS   float64 `json:"took_ms"`
	Error    string  `json:"error,omitempty"`
}

func (h *Health) writeJSON(w http.ResponseWriter, status int, ready, verbose bool, results []Result) {
	answer := report{Ready: ready, Draining: h.Draining()}
	if verbose {
		for _, result := range results {
			line := reportLine{
				Name: result.Name, OK: result.Err == nil, Critical: result.Critical,
				TookMS: float64(result.Took.Microseconds()) / 1000,
			}
			if result.Err != nil {
				line.Error = result.Err.Error()
			}
			answer.Checks = append(answer.Checks, line)
		}
	}
	header(w, "application/json", status)
	_ = json.NewEncoder(w).Encode(answer) // fails only if the client has gone
}

func header(w http.ResponseWriter, contentType string, status int) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
}
