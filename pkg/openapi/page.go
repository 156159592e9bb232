package openapi

import (
	"bytes"
	_ "embed"
	"html/template"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/problem"
)

//go:embed page.html
var pageText string

// operation is one operation on the page.
type operation struct {
	Method, Path, Summary, Tag, Anchor string
	Parameters                         []*huma.Param
	Fields                             []field
	Answers                            []answer
}

type field struct {
	Name, Type, Doc string
	Required        bool
}

type answer struct{ Status, Description string }

// Page serves a page made from the api's document. It needs no script and
// nothing from elsewhere.
func Page(api huma.API, log *slog.Logger) http.HandlerFunc {
	page := template.Must(template.New("docs").Parse(pageText))
	render := sync.OnceValues(func() ([]byte, error) {
		var b bytes.Buffer
		err := page.Execute(&b, struct {
			Info       *huma.Info
			Operations []operation
		}{api.OpenAPI().Info, operations(api.OpenAPI())})
		return b.Bytes(), err
	})
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := render()
		if err != nil {
			log.ErrorContext(r.Context(), "render the docs page", "error", err)
			problem.Write(w, r, problem.Internal())
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_, _ = w.Write(b) // the client may be gone
	}
}

func operations(doc *huma.OpenAPI) []operation {
	var out []operation
	for path, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op == nil {
				continue
			}
			d := operation{Method: op.Method, Path: path, Summary: op.Summary, Anchor: op.OperationID, Parameters: op.Parameters}
			if len(op.Tags) > 0 {
				d.Tag = op.Tags[0]
			}
			if op.RequestBody != nil {
				if m := op.RequestBody.Content["application/json"]; m != nil && m.Schema != nil {
					d.Fields = fields(m.Schema)
				}
			}
			for status, r := range op.Responses {
				d.Answers = append(d.Answers, answer{status, r.Description})
			}
			slices.SortFunc(d.Answers, func(a, b answer) int { return strings.Compare(a.Status, b.Status) })
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b operation) int {
		return strings.Compare(a.Tag+a.Path+a.Method, b.Tag+b.Path+b.Method)
	})
	return out
}

func fields(s *huma.Schema) []field {
	var out []field
	for name, p := range s.Properties {
		t := p.Type
		if p.Format != "" {
			t += ", " + p.Format
		}
		out = append(out, field{Name: name, Type: t, Doc: p.Description, Required: slices.Contains(s.Required, name)})
	}
	slices.SortFunc(out, func(a, b field) int { return strings.Compare(a.Name, b.Name) })
	return out
}
