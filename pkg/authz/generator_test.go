package authz

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
)

// generator makes policies, principals and rows that do their best to be misread.
type generator struct {
	*rand.Rand
	zero  bool // strings may hold a zero byte, which PostgreSQL cannot store
	plain bool // as policies for a PDP are to be: see policies/README.md
}

// genAction is the rules for one action.
type genAction struct {
	name, yaml string
}

func policyOf(actions []genAction) string {
	var b strings.Builder
	b.WriteString("apiVersion: api.cerbos.dev/v1\nresourcePolicy:\n  resource: doc\n  version: default\n  importDerivedRoles: [gen]\n  rules:\n")
	for _, a := range actions {
		b.WriteString(a.yaml)
	}
	return b.String()
}

// principalPolicyOf has rules of one account for some of the actions, whatever its roles.
func (g *generator) principalPolicyOf(id string, actions []genAction) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: api.cerbos.dev/v1\nprincipalPolicy:\n  principal: %q\n  version: default\n  rules:\n    - resource: doc\n      actions:\n", id)
	for i, a := range actions {
		if i > 0 && g.IntN(5) > 0 {
			continue
		}
		effect := "EFFECT_ALLOW"
		if g.IntN(3) == 0 && !g.plain {
			effect = "EFFECT_DENY"
		}
		fmt.Fprintf(&b, "        - {action: %s, effect: %s, condition: {match: %s}}\n", a.name, effect, g.match(1))
	}
	return b.String()
}

const genRoles = `apiVersion: api.cerbos.dev/v1
derivedRoles:
  name: gen
  definitions:
    - {name: owner, parentRoles: [user, manager], condition: {match: {expr: R.attr.owner_id == P.id}}}
    - {name: neighbour, parentRoles: ["*"], condition: {match: {expr: R.attr.region == P.attr.region}}}
`

func pick[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

func (g *generator) action(name string) genAction {
	a := genAction{name: name}
	for range 1 + g.IntN(3) {
		effect := "EFFECT_ALLOW"
		if g.IntN(5) == 0 {
			effect = "EFFECT_DENY"
		}
		who := pick(g, `roles: [user]`, `roles: [user]`, `roles: [admin, user]`, `roles: [manager]`, `roles: ["*"]`, `derivedRoles: [owner]`, `derivedRoles: [neighbour]`)
		condition := ""
		if g.IntN(8) > 0 {
			condition = ", condition: {match: " + g.match(2) + "}"
		}
		if g.plain && effect == "EFFECT_DENY" { // for every role, and never failing
			who = `roles: ["*"]`
			condition = fmt.Sprintf(", condition: {match: {expr: R.attr.count == %d || R.attr.open && !(R.attr.owner_id in P.roles)}}", g.IntN(7))
		}
		a.yaml += fmt.Sprintf("    - {actions: [%s], effect: %s, %s%s}\n", name, effect, who, condition)
	}
	return a
}

func (g *generator) match(depth int) string {
	if depth > 0 && g.IntN(4) == 0 {
		op := pick(g, "all", "any", "none")
		if g.plain {
			op = pick(g, "all", "any")
		}
		return fmt.Sprintf("{%s: {of: [%s, %s]}}", op, g.match(depth-1), g.match(depth-1))
	}
	quoted, _ := json.Marshal(g.expr(3)) // never fails: a string. JSON's quoting is YAML's too
	return "{expr: " + string(quoted) + "}"
}

func (g *generator) expr(depth int) string {
	if depth == 0 {
		return g.leaf()
	}
	switch g.IntN(6) {
	case 0:
		return "(" + g.expr(depth-1) + " && " + g.expr(depth-1) + ")"
	case 1:
		return "(" + g.expr(depth-1) + " || " + g.expr(depth-1) + ")"
	case 2:
		return "!(" + g.expr(depth-1) + ")"
	default:
		return g.leaf()
	}
}

func (g *generator) leaf() string {
	text := func() string {
		return pick(g, "R.attr.title", "R.attr.region", "R.attr.nick", "R.attr.nick", "R.attr.owner_id", "request.resource.attr.region", "R.id")
	}
	number := func() string { return pick(g, "R.attr.count", "R.attr.score", "R.attr.ratio") }
	compare := func() string { return pick(g, "==", "!=", "<", "<=", ">", ">=") }
	empty := "[]"
	if g.plain {
		empty = `["eu"]`
	}
	switch g.IntN(13) {
	case 0, 1:
		other := pick(g, strconv.Quote(g.text()), strconv.Quote(g.text()), "P.id", "P.attr.region", "P.attr.lost", text())
		if g.IntN(3) == 0 {
			return other + " " + compare() + " " + text()
		}
		return text() + " " + compare() + " " + other
	case 2:
		return text() + "." + pick(g, "startsWith", "endsWith", "contains") + "(" + pick(g, strconv.Quote(g.text()), "P.attr.region") + ")"
	case 3:
		return text() + " in " + pick(g, "P.attr.names", "P.attr.none", "P.attr.lost", "P.roles", empty)
	case 4:
		return fmt.Sprintf("%s in [%s, %s, %s]", text(), strconv.Quote(g.text()), strconv.Quote(g.text()), "P.id")
	case 5:
		return number() + " " + compare() + " " + pick(g, g.number(), g.number(), "P.attr.level", number())
	case 6:
		return fmt.Sprintf("%s in [%s, %s]", number(), g.number(), g.number())
	case 7:
		return pick(g, "R.attr.open", "R.attr.flag", "R.attr.flag == true", "R.attr.flag != true", "R.attr.open == R.attr.flag", "false == R.attr.flag")
	case 8:
		return fmt.Sprintf("timestamp(%s) %s timestamp(%q)", pick(g, "R.attr.due_at", "R.attr.created_at"), compare(), g.instant())
	case 9:
		return pick(g, "timestamp(R.attr.due_at) "+compare()+" timestamp(R.attr.created_at)", `timestamp(R.attr.due_at) == timestamp(P.attr.since)`)
	case 10:
		return pick(g, `["a", P.id].exists(x, x == R.attr.nick)`, `P.attr.names.all(x, x != R.attr.region && R.attr.nick != x)`,
			`["a", "eu", ""].exists(x, R.attr.title.contains(x) && x in P.attr.names)`, `[0, 5, 2.5].exists(n, R.attr.ratio < n || n == R.attr.score)`,
			`P.roles.exists(r, r == "manager")`, `"manager" in P.roles`, `!("admin" in P.roles)`)
	case 11:
		return fmt.Sprintf("%q in R.attr", pick(g, "region", "nick", "score", "ratio", "flag", "due_at", "title"))
	default:
		return pick(g, `P.attr.region == "eu"`, `P.attr.lost == "x"`, `"admin" in P.roles`, "R.attr.owner_id == P.id", "has(R.attr.title)", "has(P.attr.lost)")
	}
}

// text gives strings that careless SQL confuses: patterns, quotes, cases, equal-looking Unicode, nothing.
func (g *generator) text() string {
	s := pick(g, "", "a", "A", "ab", "aB", "%", "_", "a%", "a_b", `a\b`, `\`, "'", `"`, "a'b", "a' OR '1'='1", "?", "$1", "eu", "EU", "é", "e\u0301", "É", "ß", "ss",
		"ı", "I", "😀", "a😀b", "\uffff", "\U00010000", " a", "a ", "sam", "rim", "\n", "Z", "[", "0", "1", "true", "null")
	if g.zero && g.IntN(15) == 0 {
		s = pick(g, "a\x00b", "\x00", "a\x00", "b")
	}
	return s
}

func (g *generator) number() string {
	return pick(g, "0", "1", "-1", "2.5", "-2.5", "5", "9007199254740993", "9007199254740992", "9223372036854775807", "1e3", "0.1", "1u")
}

func (g *generator) at() time.Time {
	base := time.Date(2024, 2, 29, 23, 59, 59, 0, time.UTC)
	return pick(g, base, base.Add(time.Microsecond), base.Add(123456*time.Microsecond), base.Add(time.Second), time.Unix(0, 0), time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(1969, 12, 31, 23, 59, 59, 999_999_000, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC), time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)).UTC()
}

// instant is a time as a policy writes it: also between two microseconds, also elsewhere on earth.
func (g *generator) instant() string {
	t := g.at()
	if t.Year() > 9998 || t.Year() < 2 { // a policy with an instant at the edge does not compile
		t = time.Unix(0, 0)
	}
	t = t.Add(pick[time.Duration](g, 0, 0, 1, 999, -1, time.Microsecond))
	return t.In(pick(g, time.UTC, time.FixedZone("", 5*3600+1800), time.FixedZone("", -8*3600))).Format(time.RFC3339Nano)
}

func (g *generator) principal(i int) events.Principal {
	p := events.Principal{ID: pick(g, "sam", "rim", "a'b"), Attr: map[string]any{"none": []string{}, "level": 5, "since": g.instant()},
		Roles: [][]string{{"user"}, {"user"}, {"manager"}, {"user", "admin"}, {"manager", "user", "guest"}}[i%5]}
	if g.plain {
		p.Attr["none"] = []string{"none"}
	}
	if i%2 == 0 {
		p.Attr["region"] = g.text()
		p.Attr["names"] = []string{g.text(), g.text()}
	} else {
		p.Attr["names"] = []string{g.text()}
	}
	return p
}

func maybe[T any](g *generator, v T) *T {
	if g.IntN(3) == 0 {
		return nil
	}
	return &v
}

func (g *generator) row(id string) kind.Row {
	row := docKind.New()
	d := row.Value.(*doc)
	d.ID, d.Tenant, d.OwnerID, d.CreatedAt = id, "t", pick(g, "sam", "rim", "a'b", "SAM"), g.at()
	d.Title, d.Region, d.Nick = g.text(), maybe(g, g.text()), maybe(g, g.text())
	whole := []int64{0, 1, -1, 5, 1000, 1<<53 + 1, 1 << 53, 1<<63 - 1}
	d.Count, d.Score, d.Ratio = pick(g, whole...), maybe(g, pick(g, whole...)), maybe(g, pick(g, 0, 2.5, -2.5, 0.1, 5, 1e300))
	d.Open, d.Flag, d.DueAt = g.IntN(2) == 0, maybe(g, g.IntN(2) == 0), maybe(g, g.at())
	return row
}
