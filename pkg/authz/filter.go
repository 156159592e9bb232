package authz

import (
	"fmt"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
)

// FilterKind says which rows a Filter selects. The zero value selects none.
type FilterKind uint8

const (
	Never  FilterKind = iota // no row: no query is needed
	Always                   // every row of the tenant
	Where                    // the rows for which Filter.SQL is true
)

// The SQL dialects that Plan.Filter writes.
const (
	SQLite   = "sqlite"
	Postgres = "postgres"
)

// Filter is a query plan as an SQL condition.
type Filter struct {
	Kind FilterKind
	// SQL is a boolean expression with one ? for each of Args, safe to AND with
	// others. It follows SQL's three-valued logic: NULL, where a row lacks an
	// attribute, means not allowed. So it must not be negated. For Always it is
	// TRUE, for Never FALSE.
	SQL  string
	Args []any
}

// Limits on what one condition may hold; SQLite's own are 1,000 levels and 32,766 parameters.
const (
	maxDepth    = 100
	maxOperands = 500 // of one && or ||, which SQLite reads as so many levels
	maxArgs     = 10_000
	maxParts    = 20_000 // comparisons and connectives; what exists and all stand for counts in full
)

// Filter turns the plan into a condition on the rows of a kind, for "sqlite"
// or "postgres". The condition selects the rows that a check of each allows, if
// the plan is Exact; else it may select more, which are to be checked.
//
// Columns come from def's attributes and its id, values are always bound. An
// attribute that rows do not have, an operator or a type that cannot be mapped
// exactly is an error, and there is no filter.
//
// Supported: && || ! == != < <= > >= in startsWith endsWith contains on
// strings (case-sensitive, ordered by bytes), numbers, booleans, and on times
// through timestamp(); `"x" in R.attr` as the test for presence; exists and all
// over lists that are known. has(R.attr.x) only for columns that are never
// NULL: Cerbos' planner leaves it out.
func (p Plan) Filter(def *kind.Definition, dialect string) (Filter, error) {
	if dialect != SQLite && dialect != Postgres {
		return Filter{}, fmt.Errorf("authz: no SQL dialect %q", dialect)
	}
	if def.Name != p.Kind {
		return Filter{}, fmt.Errorf("authz: a plan for kind %s cannot filter kind %s", p.Kind, def.Name)
	}
	if p.of != nil {
		return p.of.filter(p, def, dialect)
	}
	return p.makeFilter(def, dialect)
}

func (p Plan) makeFilter(def *kind.Definition, dialect string) (Filter, error) {
	if p.kind == Never {
		return Filter{Kind: Never, SQL: "FALSE"}, nil
	}
	b := builder{columns: columnsOf(def), dialect: dialect, principal: p.principal}
	if err := b.presence(p.has, p.known); err != nil {
		return Filter{}, p.unmapped(err)
	}
	if p.kind == Always {
		return Filter{Kind: Always, SQL: "TRUE"}, nil
	}
	condition := simplify(p.condition, b.columns, true, 0)
	if all, ok := truthOf(condition); ok && all {
		return Filter{Kind: Always, SQL: "TRUE"}, nil
	} else if ok {
		return Filter{Kind: Never, SQL: "FALSE"}, nil
	}
	sql, err := b.boolean(condition, 0)
	if err == nil && len(b.args) > maxArgs {
		err = fmt.Errorf("%d values, at most %d", len(b.args), maxArgs)
	}
	if err != nil {
		return Filter{}, p.unmapped(err)
	}
	return Filter{Kind: Where, SQL: sql, Args: b.args}, nil
}

// PolicyNotSQL is the code of the error of a plan that cannot become SQL: a
// fault.Misconfigured, since whoever wrote the policy has to mend it.
const PolicyNotSQL = "policy-not-sql"

func (p Plan) unmapped(err error) error {
	return &fault.Error{Kind: fault.Misconfigured, Code: PolicyNotSQL, Err: fmt.Errorf("authz: %s %s: %w", p.Action, p.Kind, err),
		Message: fmt.Sprintf("the policy about %s of %s cannot become an SQL condition: an operator has to change it (writ policy lint names the rule's shape)", p.Action, p.Kind)}
}

// presence checks the attributes that has() tests in the policy. The planner
// wrote true for each, which is right only where a row always has it.
func (b *builder) presence(has []string, known map[string]any) error {
	for _, name := range has {
		if _, ok := known[name]; ok && name != "" {
			continue
		}
		if c, ok := b.columns[name]; !ok || c.nullable {
			return fmt.Errorf(`has(R.attr.%s) is lost in query plans; write "%s" in R.attr`, name, name)
		}
	}
	return nil
}
