package authz

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

const (
	allowRule = "    - {actions: [read], effect: EFFECT_ALLOW, roles: [user]}\n"
	denyRule  = "    - {actions: [read], effect: EFFECT_DENY, roles: [user]}\n"
)

// reloads is what OnReload was told.
type reload struct {
	revision string
	err      error
}

func openWatched(t *testing.T, dir string, log *slog.Logger) (*Engine, <-chan reload) {
	t.Helper()
	told := make(chan reload, 100)
	a := open(t, "embed:"+dir, WithLogger(log), OnReload(func(revision string, err error) { told <- reload{revision, err} }))
	return a.(*Engine), told
}

func next(t *testing.T, told <-chan reload) reload {
	t.Helper()
	select {
	case r := <-told:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("no reload")
		return reload{}
	}
}

func reads(t *testing.T, a Authorizer) bool {
	t.Helper()
	answer, err := a.Check(t.Context(), Request{Principal: principal("sam", "user"), Resource: docWith(nil), Actions: []string{"read"}})
	if err != nil {
		t.Fatal(err)
	}
	if answer.Revision != answer.For("read").Policy.Revision || answer.CallID == "" || answer.EvaluatedAt.IsZero() {
		t.Errorf("%+v", answer)
	}
	return answer.Allowed("read")
}

func TestEditsTakeEffect(t *testing.T) {
	dir := policyDir(t, allowRule)
	e, told := openWatched(t, dir, slog.New(slog.DiscardHandler))
	first := e.Revision()
	if !reads(t, e) {
		t.Fatal("denied at first")
	}
	writeFiles(t, dir, map[string]string{"doc.yaml": docPolicy(denyRule)})
	if r := next(t, told); r.err != nil || r.revision == first || r.revision != e.Revision() {
		t.Fatalf("%+v, revision %s, was %s", r, e.Revision(), first)
	}
	if reads(t, e) {
		t.Error("allowed after the edit")
	}
	// A folder that is new, with what is put into it later.
	sub := filepath.Join(dir, "more", "deep")
	if err := os.MkdirAll(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFiles(t, sub, map[string]string{"other.yaml": strings.Replace(docPolicy(allowRule), "resource: doc", "resource: other", 1)})
	next(t, told)
	second := e.Revision()
	writeFiles(t, sub, map[string]string{"other.yaml": strings.Replace(docPolicy(denyRule), "resource: doc", "resource: other", 1)})
	if r := next(t, told); r.err != nil || r.revision == second {
		t.Errorf("an edit in a new folder: %+v", r)
	}
}

func TestBrokenEditKeepsTheLastGoodPolicies(t *testing.T) {
	dir := policyDir(t, allowRule)
	var log lockedBuffer
	e, told := openWatched(t, dir, slog.New(slog.NewTextHandler(&log, nil)))
	good := e.Revision()
	for _, broken := range []string{"nonsense: [", docPolicy("    - {actions: [read], effect: EFFECT_ALLOW, roles: [user], condition: {match: {expr: 'R.attr.x =='}}}\n"),
		docPolicy("    - {actions: [read], effect: EFFECT_ALLOW, derivedRoles: [nobody]}\n"), docPolicy("    - {actions: [read], effect: EFFECT_DENY, roles: [user], condition: {match: {expr: '\"text\"'}}}\n")} {
		log.Reset()
		writeFiles(t, dir, map[string]string{"doc.yaml": broken})
		r := next(t, told)
		if r.err == nil || r.revision != good || e.Revision() != good || !reads(t, e) {
			t.Fatalf("%s: %+v", broken, r)
		}
		if e.LastError() == nil || e.Ready(t.Context()) != nil {
			t.Errorf("%s: LastError %v, Ready %v", broken, e.LastError(), e.Ready(t.Context()))
		}
		if strings.Contains(r.err.Error(), "\n") || strings.Contains(r.err.Error(), "\x1b") {
			t.Errorf("not one plain line: %q", r.err)
		}
		if said := log.String(); strings.Count(said, "level=WARN") != 1 || !strings.Contains(said, "doc") {
			t.Errorf("%s: said %q", broken, said)
		}
		t.Log(r.err)
	}
	// The same broken state is not told of twice, whatever else happens in the folder.
	log.Reset()
	writeFiles(t, dir, map[string]string{"notes.txt": "no policy"})
	writeFiles(t, dir, map[string]string{"doc.yaml": docPolicy(allowRule)})
	if r := next(t, told); r.err != nil || r.revision != good || e.LastError() != nil {
		t.Errorf("mended: %+v, %v", r, e.LastError())
	}
	if said := log.String(); strings.Contains(said, "WARN") {
		t.Errorf("said again: %q", said)
	}
}

// A folder that is taken away does not take the policies with it, and is seen when it comes back.
func TestFolderTakenAwayAndBroughtBack(t *testing.T) {
	dir := policyDir(t, allowRule)
	e, told := openWatched(t, dir, slog.New(slog.DiscardHandler))
	good := e.Revision()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if r := next(t, told); r.err == nil || r.revision != good || !reads(t, e) {
		t.Fatalf("%+v", r)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFiles(t, dir, map[string]string{"doc.yaml": docPolicy(denyRule)})
	for r := next(t, told); r.err != nil; r = next(t, told) { // it may be seen half way
	}
	if reads(t, e) {
		t.Error("the new policies are not in force")
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func (b *lockedBuffer) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Buffer.Reset()
}

// Every answer is whole: of one revision, and what that revision says.
func TestChecksDuringReloads(t *testing.T) {
	dir := policyDir(t, allowRule)
	e, told := openWatched(t, dir, slog.New(slog.DiscardHandler))
	allows := map[string]bool{e.Revision(): true}
	var mu sync.Mutex
	seen := map[string]map[bool]int{}
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for ctx.Err() == nil {
				answer, err := e.Check(context.Background(), Request{Principal: principal("sam", "user"), Resource: docWith(nil), Actions: []string{"read"}})
				mu.Lock()
				if err != nil {
					t.Error(err)
				} else if seen[answer.Revision] == nil {
					seen[answer.Revision] = map[bool]int{}
				}
				if err == nil {
					seen[answer.Revision][answer.Allowed("read")]++
				}
				mu.Unlock()
			}
		})
	}
	for i := range 6 {
		rule := []string{denyRule, allowRule}[i%2]
		writeFiles(t, dir, map[string]string{"doc.yaml": docPolicy(rule) + fmt.Sprintf("# %d\n", i)})
		allows[next(t, told).revision] = i%2 == 1
	}
	stop()
	asking.Wait()
	for revision, answers := range seen {
		if want, ok := allows[revision]; !ok || answers[!want] > 0 {
			t.Errorf("revision %s (known %v) should allow %v: %v", revision, ok, want, answers)
		}
	}
}

func TestRevisionIsThatOfThePolicyFiles(t *testing.T) {
	dir := policyDir(t, allowRule)
	revision := func() string {
		t.Helper()
		r, err := Revision(dir)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := revision()
	for _, sub := range []string{"tests/testdata", "_schemas", ".git"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	writeFiles(t, dir, map[string]string{"README.md": "x", "tests/doc_test.yaml": "x", "tests/testdata/principals.yaml": "x", ".git/x.yaml": "x", ".hidden.yaml": "x"})
	if have := revision(); have != first || len(have) != 16 {
		t.Errorf("%s after files that are no policies, was %s", have, first)
	}
	for _, name := range []string{"_schemas/doc.json", "more.yml", "tests/other.yaml"} {
		before := revision()
		writeFiles(t, dir, map[string]string{name: "{}"})
		if revision() == before {
			t.Errorf("%s does not count", name)
		}
	}
	before := revision()
	if err := os.Rename(filepath.Join(dir, "more.yml"), filepath.Join(dir, "moved.yml")); err != nil {
		t.Fatal(err)
	}
	if revision() == before {
		t.Error("a file's name does not count")
	}
}

func TestFolderWithoutPoliciesIsRefused(t *testing.T) {
	if _, err := Open(t.Context(), "embed:"+t.TempDir()); err == nil {
		t.Error("taken")
	}
}

// What cannot be evaluated allows nothing: not through a deny rule, not through none.
func TestErrorsInConditionsDeny(t *testing.T) {
	const both = "    - {actions: [read], effect: EFFECT_ALLOW, roles: [user]}\n    - {actions: [read], effect: EFFECT_DENY, roles: [user], condition: {match: %s}}\n"
	const one = "    - {actions: [read], effect: EFFECT_ALLOW, roles: [user], condition: {match: %s}}\n"
	for _, c := range []struct {
		rules, match string
		attr         map[string]any
		want         events.Effect
	}{
		{both, `{expr: 'R.attr.x == "a"'}`, nil, events.Deny},
		{both, `{expr: 'R.attr.x == "a"'}`, map[string]any{"x": "a"}, events.Deny},
		{both, `{expr: 'R.attr.x == "a"'}`, map[string]any{"x": "b"}, events.Allow},
		{both, `{expr: 'R.attr.x == "a" // why'}`, map[string]any{"x": "b"}, events.Allow},
		{both, `{expr: 'R.attr.x'}`, map[string]any{"x": "text"}, events.Deny},
		{both, `{expr: 'R.attr.n > 5'}`, map[string]any{"n": "text"}, events.Deny},
		{both, `{expr: 'has(R.attr.x) && R.attr.x == "a"'}`, nil, events.Allow},
		{both, `{all: {of: [{expr: 'P.id == "rim"'}, {expr: 'R.attr.x == "a"'}]}}`, nil, events.Allow},
		{both, `{any: {of: [{expr: 'P.id == "rim"'}, {expr: 'R.attr.x == "a"'}]}}`, nil, events.Deny},
		{both, `{none: {of: [{expr: 'R.attr.x == "a"'}]}}`, nil, events.Deny},
		{both, `{none: {of: [{expr: 'R.attr.x == "a"'}]}}`, map[string]any{"x": "a"}, events.Allow},
		{both, `{expr: 'P.attr.lost == "x"'}`, nil, events.Deny},
		{one, `{none: {of: [{expr: 'R.attr.x == "a"'}]}}`, nil, events.Deny},
		{one, `{none: {of: [{expr: 'R.attr.x == "a"'}]}}`, map[string]any{"x": "b"}, events.Allow},
		{one, `{none: {of: [{all: {of: [{expr: 'R.attr.x == "a"'}, {expr: 'P.id == "rim"'}]}}]}}`, nil, events.Allow},
		{one, `{expr: '!(R.attr.x == "a")'}`, nil, events.Deny},
		{one, `{expr: 'R.attr.x == "a" || P.id == "sam"'}`, nil, events.Allow},
		{one, `{expr: 'R.attr.x'}`, map[string]any{"x": "text"}, events.Deny},
	} {
		e := open(t, "embed:"+policyDir(t, fmt.Sprintf(c.rules, c.match)))
		answer, err := e.Check(t.Context(), Request{Principal: principal("sam", "user"), Resource: docWith(c.attr), Actions: []string{"read"}})
		if err != nil || answer.For("read").Effect != c.want {
			t.Errorf("%s with %v: %+v, %v, want %s", c.match, c.attr, answer.Results, err, c.want)
		}
	}
}

func TestMalformedRequestsAreErrors(t *testing.T) {
	e := open(t, "embed:"+policyDir(t, allowRule))
	good := Request{Principal: principal("sam", "user"), Resource: docWith(nil), Actions: []string{"read"}, Tenant: "t"}
	for name, spoil := range map[string]func(*Request){
		"no principal":      func(r *Request) { r.Principal.ID = "" },
		"no roles":          func(r *Request) { r.Principal.Roles = []string{""} },
		"no kind":           func(r *Request) { r.Resource.Kind = "" },
		"no id":             func(r *Request) { r.Resource.ID = "" },
		"no actions":        func(r *Request) { r.Actions = nil },
		"another tenant":    func(r *Request) { r.Resource.Attr = map[string]any{"tenant": "u"} },
		"a channel":         func(r *Request) { r.Resource.Attr = map[string]any{"x": make(chan int)} },
		"too many actions":  func(r *Request) { r.Actions = strings.Split(strings.Repeat("x ", 60)+"y", " "); number(r.Actions) },
		"a principal's map": func(r *Request) { r.Principal.Attr = map[string]any{"x": map[int]string{}} },
	} {
		req := good
		spoil(&req)
		if answer, err := e.Check(t.Context(), req); !errors.Is(err, errRequest) || answer.Allowed("read") {
			t.Errorf("%s: %+v, %v", name, answer, err)
		}
	}
	good.Actions = []string{"read", "read", "write"}
	good.Principal.Roles = []string{"user", "user"}
	answer, err := e.Check(t.Context(), good)
	if err != nil || len(answer.Results) != 2 || !answer.Allowed("read") || answer.Allowed("write") || answer.Allowed("never asked") {
		t.Errorf("%+v, %v", answer, err)
	}
	if answers, err := e.CheckAll(t.Context(), Batch{Principal: principal("sam", "user")}); err != nil || len(answers) != 0 {
		t.Errorf("an empty batch: %v, %v", answers, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Check(ended, good); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after the caller's end: %v", err)
	}
}

func number(list []string) {
	for i := range list {
		list[i] = fmt.Sprint("action", i)
	}
}
