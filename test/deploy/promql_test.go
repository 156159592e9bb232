package deploy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// query is what an expression of PromQL asks for. It is taken apart by hand and strictly: what is not understood is an
// error, never left out.
type query struct {
	metrics map[string][]string // with the labels that are matched
	by      []string            // the labels that it groups by
}

var (
	quoted   = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	window   = regexp.MustCompile(`\[(?:\d+[smhd]|\$__rate_interval)\]`)
	number   = regexp.MustCompile(`\b\d+(?:\.\d+)?[smhd]?\b`)
	grouping = regexp.MustCompile(`\b(?:by|on)\s*\(([a-z_, ]*)\)`)
	word     = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\(|\{[^{}]*\})?`)
	matcher  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)

	functions = []string{"absent", "histogram_quantile", "increase", "max", "min", "rate", "sum", "topk"}
	operators = []string{"and", "or", "unless", "offset"}
)

func parse(expr string) (query, error) {
	q := query{metrics: map[string][]string{}}
	rest := quoted.ReplaceAllString(expr, "")
	rest = window.ReplaceAllString(rest, "")
	for _, group := range grouping.FindAllStringSubmatch(rest, -1) {
		for label := range strings.SplitSeq(group[1], ",") {
			q.by = append(q.by, strings.TrimSpace(label))
		}
	}
	rest = number.ReplaceAllString(grouping.ReplaceAllString(rest, ""), "")
	for _, found := range word.FindAllStringSubmatch(rest, -1) {
		switch name, after := found[1], found[2]; {
		case after == "(":
			if !slices.Contains(functions, name) && !slices.Contains(operators, name) {
				return q, fmt.Errorf("%s: unknown function %s", expr, name)
			}
		case slices.Contains(operators, name):
		default:
			q.metrics[name] = append(q.metrics[name], "")
			for _, label := range matcher.FindAllStringSubmatch(after, -1) {
				q.metrics[name] = append(q.metrics[name], label[1])
			}
		}
	}
	if left := strings.Trim(word.ReplaceAllString(rest, ""), " \n()/<>=,*+-"); left != "" {
		return q, fmt.Errorf("%s: cannot read %q", expr, left)
	}
	if len(q.metrics) == 0 {
		return q, fmt.Errorf("%s: names no metric", expr)
	}
	return q, nil
}

func TestExpressionsAreTakenApart(t *testing.T) {
	q, err := parse(`topk(3, histogram_quantile(0.99, sum by (le, kind) (rate(a_bucket{x="(b) by (c)",y!~"d|e"}[5m])))) > 0.5 unless b_total offset 15m`)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(q.metrics, q.by); got != `map[a_bucket:[ x y] b_total:[]] [le kind]` {
		t.Error(got)
	}
	for _, bad := range []string{"", "1 > 0", "summ(a)", "a[5m:1m]", "sum without (b) (a)", "a{b=c{d}"} {
		if q, err := parse(bad); err == nil {
			t.Errorf("%s: %v", bad, q)
		}
	}
}
