package authz

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/contact"
)

// asker has attributes of all sorts.
var asker = events.Principal{ID: "sam", Roles: []string{"user"}, Attr: map[string]any{"region": "eu", "one": []string{"a"}, "none": []string{}, "map": map[string]any{"k": 1}}}

func planFor(t *testing.T, expr string) (Plan, error) {
	t.Helper()
	rule := fmt.Sprintf("    - {actions: [list], effect: EFFECT_ALLOW, roles: [user], condition: {match: {expr: %q}}}\n", expr)
	return open(t, "embed:"+policyDir(t, rule)).Plan(t.Context(), PlanRequest{Principal: asker, Kind: "doc", Action: "list"})
}

func TestConditionsBecomeSQL(t *testing.T) {
	for expr, want := range map[string]Filter{
		`R.attr.owner_id == P.id`:           {Where, `("owner_id" = ?)`, []any{"sam"}},
		`R.id == P.id`:                      {Where, `("id" = ?)`, []any{"sam"}},
		`P.attr.region != R.attr.region`:    {Where, `("region" <> ?)`, []any{"eu"}},
		`R.attr.region < R.attr.nick`:       {Where, `("region" COLLATE "C" < "nick")`, nil},
		`5 < R.attr.count`:                  {Where, `(CAST("count" AS DOUBLE PRECISION) > ?)`, []any{5.0}},
		`R.attr.open`:                       {Where, `("open" = TRUE)`, nil},
		`!R.attr.flag`:                      {Where, `(NOT ("flag" = TRUE))`, nil},
		`R.attr.nick in ["a", "b"]`:         {Where, `("nick" IN (?, ?))`, []any{"a", "b"}},
		`R.attr.nick in P.attr.one`:         {Where, `("nick" = ?)`, []any{"a"}},
		`R.attr.nick.startsWith("a%")`:      {Where, `starts_with("nick", ?)`, []any{"a%"}},
		`R.attr.nick.endsWith("é")`:         {Where, `(right("nick", 1) = ?)`, []any{"é"}},
		`R.attr.nick.contains("'")`:         {Where, `(strpos("nick", ?) > 0)`, []any{"'"}},
		`"nick" in R.attr`:                  {Where, `("nick" IS NOT NULL)`, nil},
		`has(R.attr.title)`:                 {Always, "TRUE", nil},
		`R.attr.title in P.attr.none`:       {Never, "FALSE", nil},
		`!(R.attr.title in P.attr.none)`:    {Always, "TRUE", nil},
		`!(R.attr.nick in P.attr.none)`:     {Where, `(NOT (CASE WHEN "nick" IS NOT NULL THEN FALSE END))`, nil},
		`R.attr.nick in P.attr.none`:        {Never, "FALSE", nil},
		`!(R.attr.nick in P.attr.one)`:      {Where, `(NOT ("nick" = ?))`, []any{"a"}},
		`["a", P.id].exists(x, x == R.id)`:  {Where, `(("id" = ?) OR ("id" = ?))`, []any{"a", "sam"}},
		`["a"].all(x, x != R.attr.nick)`:    {Where, `("nick" <> ?)`, []any{"a"}},
		`R.attr.open && P.attr.lost == "x"`: {Where, `(("open" = TRUE) AND CAST(NULL AS BOOLEAN))`, nil},
		`R.attr.open || R.id in P.attr.x`:   {Where, `(("open" = TRUE) OR CAST(NULL AS BOOLEAN))`, nil},
		`P.attr.lost == R.attr.title`:       {Never, "FALSE", nil},
		`P.attr.map[R.attr.nick] == 1`:      {Where, `("nick" = ?)`, []any{"k"}},
	} {
		plan, err := planFor(t, expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		if have, err := plan.Filter(docKind, Postgres); err != nil || !reflect.DeepEqual(have, want) {
			t.Errorf("%s: %+v, %v, want %+v", expr, have, err, want)
		}
	}
}

// What cannot be mapped exactly is an error, and there is no filter.
func TestConditionsThatCannotBecomeSQL(t *testing.T) {
	for expr, say := range map[string]string{
		`R.attr.unknown == "x"`:                      "unknown",
		`"unknown" in R.attr`:                        "unknown",
		`R.attr.version == 1`:                        "version", // a column, but not one that policies see
		`R.attr.open == "true"`:                      "compared",
		`R.attr.title == 5`:                          "compared",
		`R.attr.title == true`:                       "compared",
		`R.attr.title`:                               "boolean is wanted",
		`R.attr.nick == null`:                        "no string, number or boolean",
		`R.attr.count in ["a"]`:                      "compared",
		`R.attr.count in [1, "a"]`:                   "list with",
		`R.attr.open < true`:                         "booleans",
		`size(R.attr.title) > 3`:                     "size",
		`R.attr.title.matches("^a")`:                 "matches",
		`R.attr.title.lowerAscii() == "a"`:           "lowerAscii",
		`R.attr.count + 1 == 2`:                      "add",
		`R.attr["title"] == "a"`:                     "index",
		`R.attr.open ? R.attr.title == "a" : true`:   "if",
		`R.attr.due_at == "2024-01-01T00:00:00Z"`:    "timestamp()",
		`timestamp(R.attr.title) < now()`:            "timestamp of",
		`R.attr.due_at.timeSince() < duration("1h")`: "timeSince",
		`R.attr.tags == ["a"]`:                       "list or an object",
		`P.id in R.attr.tags`:                        "in",
		`hasIntersection(R.attr.tags, ["a"])`:        "hasIntersection",
		`R.attr.tags.exists(x, x == "a")`:            "exists",
		`R.attr.title.startsWith(R.attr.nick)`:       "startsWith",
		`"abc".startsWith(R.attr.title)`:             "startsWith",
		`has(R.attr.nick)`:                           "lost",
		`has(R.attr.unknown)`:                        "lost",
		`!has(R.attr.nick) || R.attr.nick == "a"`:    "lost",
		`R.attr.title in P.attr.region`:              "is none",
		`R.attr.title in P.attr.map`:                 "is none",
		`R.attr.title in P.attr.map["k"]`:            "equality",
		`R.attr.title in {"a": 1}`:                   "equality",
		`P.attr.region in R.attr`:                    "not one that rows have",
	} {
		plan, err := planFor(t, expr)
		var have Filter
		if err == nil {
			have, err = plan.Filter(docKind, SQLite)
		}
		if err == nil || !strings.Contains(err.Error(), say) || have.SQL != "" || have.Kind != Never {
			t.Errorf("%s: %+v, %v, want an error with %q; plan %s", expr, have, err, say, plan.Raw)
		}
	}
}

// Plans that Cerbos does not make today, but a PDP could send.
func TestOddConditionsAreErrors(t *testing.T) {
	expression := func(op string, ops ...*operand) *operand {
		return &operand{Node: &enginev1.PlanResourcesFilter_Expression_Operand_Expression{Expression: &enginev1.PlanResourcesFilter_Expression{Operator: op, Operands: ops}}}
	}
	variable := func(name string) *operand {
		return &operand{Node: &enginev1.PlanResourcesFilter_Expression_Operand_Variable{Variable: name}}
	}
	value := func(v any) *operand {
		x, err := structpb.NewValue(v)
		if err != nil {
			t.Fatal(err)
		}
		return &operand{Node: &enginev1.PlanResourcesFilter_Expression_Operand_Value{Value: x}}
	}
	title := variable("request.resource.attr.title")
	deep := expression("eq", title, value("a"))
	for i := range maxDepth + 10 { // of a kind that cannot be made shorter
		deep = expression([]string{"and", "or"}[i%2], expression("eq", title, value("b")), deep)
	}
	var many []any
	for range maxArgs + 1 {
		many = append(many, "x")
	}
	for name, odd := range map[string]*operand{
		"nothing":            {},
		"no operator":        expression("", title),
		"and of nothing":     expression("and"),
		"not of two":         expression("not", value(true), value(true)),
		"eq of one":          expression("eq", title),
		"eq of three":        expression("eq", title, value("a"), value("b")),
		"eq of values":       expression("eq", value("a"), value("a")),
		"in of one":          expression("in", title),
		"in a text":          expression("in", title, value("title")),
		"and of a number":    expression("and", value(1), value(true)),
		"a table":            expression("eq", variable(`request.resource.attr.title" = "title`), value("a")),
		"a present attr":     expression("eq", title, variable("request.principal.attr.region")),
		"principal's id":     expression("eq", title, variable("request.principal.id")),
		"a bare column":      expression("eq", variable("title"), value("a")),
		"a deep attribute":   expression("eq", variable("request.resource.attr.title.x"), value("a")),
		"too deep":           deep,
		"too many":           expression("in", title, value(many)),
		"timestamp of text":  expression("lt", expression("timestamp", variable("request.resource.attr.due_at")), expression("timestamp", value("soon"))),
		"get-field of what":  expression("eq", title, expression("get-field", variable("x"), variable("y"))),
		"a list in the mark": expression("in", title, value([]any{[]any{"a"}})),
	} {
		engine := open(t, "embed:"+policyDir(t, allowRule))
		p, err := engine.(*Engine).snapshotPlan(t, odd)
		if err != nil {
			t.Fatal(err)
		}
		if have, err := p.Filter(docKind, SQLite); err == nil || have.SQL != "" {
			t.Errorf("%s: %+v, %v", name, have, err)
		}
	}
}

// snapshotPlan is a plan with a condition of the test's own.
func (e *Engine) snapshotPlan(t *testing.T, condition *operand) (Plan, error) {
	t.Helper()
	p, err := toPrincipal(asker)
	if err != nil {
		return Plan{}, err
	}
	return Plan{Kind: "doc", Action: "list", principal: p}.read(&enginev1.PlanResourcesFilter{Kind: enginev1.PlanResourcesFilter_KIND_CONDITIONAL, Condition: condition}, nil)
}

func TestFilterOfAnotherKindOrDialect(t *testing.T) {
	plan, err := planFor(t, `R.attr.owner_id == P.id`)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := plan.Filter(contact.Kind, SQLite); err == nil {
		t.Errorf("another kind: %+v", f)
	}
	if f, err := plan.Filter(docKind, "mysql"); err == nil {
		t.Errorf("another dialect: %+v", f)
	}
	if (Plan{}).kind != Never || (Filter{}).Kind != Never {
		t.Error("the zero values select something")
	}
}
