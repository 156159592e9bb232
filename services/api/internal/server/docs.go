package server

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/problem"
)

//go:embed docs.html
var docsPage string

// docsOperation is one operation on the docs page.
type docsOperation struct {
	Method, Path, Summary, Tag, Anchor string
	Parameters                         []*huma.Param
	Fields                             []docsField
	Answers                            []docsAnswer
}

type docsField struct {
	Name, Type, Doc string
	Required        bool
}

type docsAnswer struct{ Status, Description string }

// docs serves a page made from the OpenAPI document. It needs no script and
// nothing from elsewhere.
func (s *Server) docs() http.HandlerFunc {
	page := template.Must(template.New("docs").Parse(docsPage))
	render := sync.OnceValues(func() ([]byte, error) {
		var b bytes.Buffer
		err := page.Execute(&b, struct {
			Info       *huma.Info
			Operations []docsOperation
		}{s.api.OpenAPI().Info, operations(s.api.OpenAPI())})
		return b.Bytes(), err
	})
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := render()
		if err != nil {
			s.Log.ErrorContext(r.Context(), "render the docs page", "error", err)
			problem.Write(w, r, problem.Internal())
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_, _ = w.Write(b) // the client may be gone
	}
}

func operations(doc *huma.OpenAPI) []docsOperation {
	var out []docsOperation
	for path, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op == nil {
				continue
			}
			d := docsOperation{Method: op.Method, Path: path, Summary: op.Summary, Anchor: op.OperationID, Parameters: op.Parameters}
			if len(op.Tags) > 0 {
				d.Tag = op.Tags[0]
			}
			if op.RequestBody != nil {
				if m := op.RequestBody.Content["application/json"]; m != nil && m.Schema != nil {
					d.Fields = fields(m.Schema)
				}
			}
			for status, r := range op.Responses {
				d.Answers = append(d.Answers, docsAnswer{status, r.Description})
			}
			slices.SortFunc(d.Answers, func(a, b docsAnswer) int { return strings.Compare(a.Status, b.Status) })
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b docsOperation) int {
		return strings.Compare(a.Tag+a.Path+a.Method, b.Tag+b.Path+b.Method)
	})
	return out
}

func fields(s *huma.Schema) []docsField {
	var out []docsField
	for name, p := range s.Properties {
		t := p.Type
		if p.Format != "" {
			t += ", " + p.Format
		}
		out = append(out, docsField{Name: name, Type: t, Doc: p.Description, Required: slices.Contains(s.Required, name)})
	}
	slices.SortFunc(out, func(a, b docsField) int { return strings.Compare(a.Name, b.Name) })
	return out
}
