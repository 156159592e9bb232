package stytchemu

import (
	"cmp"
	"encoding/json"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
)

var mailboxTemplate = template.Must(template.New("mailbox").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Mailbox</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}li{margin:1rem 0}a{overflow-wrap:anywhere}</style>
<h1>Mailbox</h1>
<p>Sign-in links that would have been mailed, newest first. Each works once.</p>
{{if .}}<ol reversed>
{{range .}}<li value="{{.Seq}}"><time datetime="{{.SentAt.Format "2006-01-02T15:04:05Z07:00"}}">{{.SentAt.Format "2006-01-02 15:04:05 MST"}}</time> to <b>{{.To}}</b><br><a href="{{.URL}}" rel="noreferrer">{{.URL}}</a></li>
{{end}}</ol>{{else}}<p>Nothing was sent yet.</p>{{end}}
</html>
`))

// Mailbox gives the last mails to an address, newest first and at most 200;
// "" for all addresses.
func (e *Emulator) Mailbox(to string) []Mail {
	e.mu.Lock()
	defer e.mu.Unlock()
	to = strings.ToLower(to)
	mails := []Mail{}
	for m := range maps.Values(e.state.mail) {
		if m.Seq > e.state.lastMail-maxMail && (to == "" || m.To == to) {
			mails = append(mails, *m)
		}
	}
	slices.SortFunc(mails, func(a, b Mail) int { return cmp.Compare(b.Seq, a.Seq) })
	return mails
}

func (e *Emulator) mailboxPage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	_ = mailboxTemplate.Execute(w, e.Mailbox(r.URL.Query().Get("to"))) // the client is gone: nothing to tell it
}

func (e *Emulator) mailboxJSON(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{"mails": e.Mailbox(r.URL.Query().Get("to"))})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone: nothing to tell it
}
