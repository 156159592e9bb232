package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/writ-project/writ/test/e2e/outside"
)

// document is an OpenAPI 3.1 document, whose schemas are JSON Schema 2020-12.
type document struct {
	root       map[string]any
	compiler   *jsonschema.Compiler
	operations []*operation

	mu   sync.Mutex // a compiler is not safe for concurrent use
	seen map[string]map[int]int
}

// operation is what the document says of one.
type operation struct {
	OperationID string
	Parameters  []parameter
	RequestBody *struct {
		Required bool
		Content  map[string]media
	}
	Responses map[string]response
	Security  *[]any

	method, path, pointer string
}

type parameter struct {
	Name, In string
	Required bool
	Schema   map[string]any
}

type media struct{ Schema map[string]any }

type response struct {
	Content map[string]media
	Headers map[string]struct {
		Required bool
		Schema   map[string]any
	}
}

func (op *operation) String() string { return op.method + " " + op.path }

// open reports whether nobody need be signed in.
func (op *operation) open() bool { return op.Security != nil && len(*op.Security) == 0 }

// at is where the document is for the JSON schema compiler.
const at = "writ:///openapi.json"

func readDocument(t *testing.T, text []byte) *document {
	t.Helper()
	d := &document{compiler: jsonschema.NewCompiler(), seen: map[string]map[int]int{}}
	whole, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	d.root = whole.(map[string]any)
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(at, whole); err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		OpenAPI string
		Paths   map[string]map[string]*operation
	}
	if err := json.Unmarshal(text, &parsed); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(parsed.OpenAPI, "3.1.") {
		t.Fatalf("OpenAPI %s", parsed.OpenAPI)
	}
	for _, path := range slices.Sorted(maps.Keys(parsed.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(parsed.Paths[path])) {
			op := parsed.Paths[path][method]
			op.method, op.path, op.pointer = strings.ToUpper(method), path, "#/paths/"+escape(path)+"/"+method
			d.operations = append(d.operations, op)
			d.seen[op.String()] = map[int]int{}
		}
	}
	return d
}

// escape is a member's name in a JSON pointer in a URL.
func escape(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(name)
}

// resolve follows references within the document.
func (d *document) resolve(schema map[string]any) map[string]any {
	for {
		ref, ok := schema["$ref"].(string)
		if !ok {
			return schema
		}
		schema = d.root
		for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			schema = schema[strings.NewReplacer("~1", "/", "~0", "~").Replace(name)].(map[string]any)
		}
	}
}

// valid validates a value against the schema at a pointer.
func (d *document) valid(pointer string, value any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.compiler.Compile(at + pointer)
	if err != nil {
		return fmt.Errorf("%s: %w", pointer, err)
	}
	return s.Validate(value)
}

// documented are the headers that an answer has only if the document says so.
var documented = []string{"ETag", "Location", "Writ-Command", "Preference-Applied", "Retry-After", "WWW-Authenticate", "X-Request-ID", "Cache-Control", "Allow"}

// check holds an answer against the document.
func (d *document) check(op *operation, a outside.Answer) error {
	d.mu.Lock()
	d.seen[op.String()][a.Status]++
	d.mu.Unlock()
	status := strconv.Itoa(a.Status)
	r, ok := op.Responses[status]
	if !ok {
		return fmt.Errorf("%s is not documented", status)
	}
	pointer := op.pointer + "/responses/" + status
	for _, name := range documented {
		value := a.Header.Get(name)
		h, ok := r.Headers[name]
		switch {
		case value != "" && !ok:
			return fmt.Errorf("%s: the header %s: %s is not documented", status, name, value)
		case value == "" && h.Required:
			return fmt.Errorf("%s: the header %s is missing", status, name)
		case value == "":
			continue
		}
		var typed any = value
		if h.Schema["type"] == "integer" {
			typed = json.Number(value)
		}
		if err := d.valid(pointer+"/headers/"+name+"/schema", typed); err != nil {
			return fmt.Errorf("%s: the header %s: %w", status, name, err)
		}
	}
	if len(r.Content) == 0 {
		if len(a.Body) > 0 {
			return fmt.Errorf("%s: there is a body that is not documented", status)
		}
		return nil
	}
	kind, _, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil {
		return fmt.Errorf("%s: content type: %w", status, err)
	}
	family, _, _ := strings.Cut(kind, "/")
	_, ok = r.Content[kind]
	if _, any := r.Content[family+"/*"]; !ok && !any {
		return fmt.Errorf("%s: the content type %s is not documented", status, kind)
	}
	if kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		return nil // a text, or bytes
	}
	body, err := jsonschema.UnmarshalJSON(bytes.NewReader(a.Body))
	if err != nil {
		return fmt.Errorf("%s: %w", status, err)
	}
	return d.valid(pointer+"/content/"+escape(kind)+"/schema", body)
}

// call is one request to an operation.
type call struct {
	op         *operation
	path, body string
	headers    []string
}

func (c call) String() string {
	return fmt.Sprintf("%s %s %q %.300s", c.op.method, c.path, c.headers, c.body)
}

// send sends a call as somebody and checks the answer.
func (d *document) send(t *testing.T, who *outside.Client, c call) outside.Answer {
	t.Helper()
	a := who.Do(t, c.op.method, c.path, c.body, c.headers...)
	if err := d.check(c.op, a); err != nil {
		t.Errorf("%s: %v\n%s %.600s", c, err, http.StatusText(a.Status), a.Body)
	}
	return a
}
