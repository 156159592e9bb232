package matrix

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// expenses. Roles that follow: owner (it is theirs), finance (a user of the department finance, or the role finance),
// finance manager (a manager of it), region manager (a manager of the expense's region).
//
//	view          owner, finance, region manager, and the finance manager, who could not approve what they cannot see
//	view:approver finance, finance manager, the owner once it is approved
//	create        user, manager
//	update        the owner while it is open
//	approve       while it is open, nobody their own: a finance manager any amount, finance under 10,000; reject likewise
//	delete        a finance manager, the owner while it is open
//	everything    admin
func expenses(t *testing.T, m *matrix) {
	k := kind{
		plural: "expenses", name: "vendor", body: `,"amount":10`, patch: `{"amount":11}`,
		actions: map[string]byte{"approve": approves, "reject": rejects},
	}
	owner := m.principal(t, "expenses eu owner", "user", "region=eu", "department=sales")
	far := m.principal(t, "expenses us owner", "user", "region=us", "department=sales")
	cashier := m.principal(t, "expenses cashier", "manager", "department=finance")

	rows := []struct {
		name                    string
		what                    []string
		small, large            string // 9,999.99 and 10,000, of the owner in eu, open
		approved, rejected      string // … of the same
		us                      string // 10, of an owner in us, open
		own, ownLarge, ownAfter string // their own: open, 10,000 and open, approved
		creating                int
	}{
		{"owner", nil, "rud", "rud", "rv", "r", "", "rud", "rud", "rv", 201},
		{"other user", []string{"user", "region=eu", "department=sales"}, "", "", "", "", "", "rud", "rud", "rv", 201},
		{"finance", []string{"user", "region=us", "department=finance"}, "rvax", "rv", "rv", "rv", "rvax", "rvud", "rvud", "rv", 201},
		{"finance by role", []string{"finance"}, "rvax", "rv", "rv", "rv", "rvax", "rvud", "rvud", "rv", 403},
		{"finance manager", []string{"manager", "region=ap", "department=finance"}, "rvaxd", "rvaxd", "rvd", "rvd", "rvaxd", "rvud", "rvud", "rvd", 201},
		{"region manager", []string{"manager", "region=eu", "department=sales"}, "r", "r", "r", "r", "", "rud", "rud", "rv", 201},
		{"manager elsewhere", []string{"manager", "region=us", "department=sales"}, "", "", "", "", "r", "rud", "rud", "rv", 201},
		{"manager of no region", []string{"manager"}, "", "", "", "", "", "rud", "rud", "rv", 201},
		{"admin", []string{"admin"}, "rvudax", "rvudax", "rvudax", "rvudax", "rvudax", "rvudax", "rvudax", "rvudax", 201},
		{"auditor", []string{"auditor", "region=eu", "department=finance"}, "", "", "", "", "", "", "", "", 403},
		{"guest", []string{"guest", "region=eu", "department=finance"}, "", "", "", "", "", "", "", "", 403},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := owner
			if row.what != nil {
				p = m.principal(t, "expenses "+row.name, row.what...)
			}
			for _, c := range []struct {
				of     principal
				amount string
				by     string // the action that was done to it
				may    string
			}{
				{owner, "9999.99", "", row.small},
				{owner, "10000", "", row.large},
				{owner, "20", "approve", row.approved},
				{owner, "20", "reject", row.rejected},
				{far, "10", "", row.us},
				{p, "10", "", row.own},
				{p, "10000", "", row.ownLarge},
				{p, "10", "approve", row.ownAfter},
			} {
				fresh := func(t *testing.T) (item, string) {
					it, name := m.make(t, k, c.of, `,"amount":`+c.amount)
					if c.by != "" {
						// The cashier may not settle their own, and the finance manager under test is another.
						cashier.Want(t, http.StatusOK, &it, "POST", k.path(it.ID)+"/"+c.by, "", "Prefer", wait)
					}
					return it, name
				}
				settled := ""
				if c.by != "" { // what is done cannot be done again, even where the policy lets it
					settled = "ax"
				}
				m.cell(t, p, k, strings.ReplaceAll(c.may, "v", ""), settled, fresh)
				if strings.ContainsRune(c.may, reads) && c.by != "" {
					it, name := fresh(t)
					m.approverShown(t, p, k, it, name, strings.ContainsRune(c.may, seesApprover))
				}
			}
			m.expenseCreates(t, p, k, row.creating, row.own == "rvudax", far)
		})
	}
	t.Run("approver in the answer to an approval", func(t *testing.T) {
		t.Parallel()
		it, _ := m.make(t, k, owner, "")
		var done item
		cashier.Want(t, http.StatusOK, &done, "POST", k.path(it.ID)+"/approve", "", "Prefer", wait)
		if done.Status != "APPROVED" || done.ApprovedBy == nil || *done.ApprovedBy != cashier.id {
			t.Errorf("%+v", done)
		}
	})
	t.Run("not settable", func(t *testing.T) {
		t.Parallel()
		m.notSettable(t, k, owner, `"status":"APPROVED"`, `"approved_by":"me"`, `"tenant":"acme"`, `"version":7`)
	})
}

// The letters that only expenses have.
const (
	approves     = 'a'
	rejects      = 'x'
	seesApprover = 'v'
)

// approverShown checks that approved_by is in every answer, or in none.
func (m *matrix) approverShown(t *testing.T, p principal, k kind, it item, name string, shown bool) {
	t.Helper()
	var read item
	a := p.Want(t, http.StatusOK, &read, "GET", k.path(it.ID), "")
	listed := m.find(t, p, k, name, it.ID)
	if listed == nil {
		t.Errorf("%s does not list %s", p.name, it.ID)
		return
	}
	if (read.ApprovedBy != nil) != shown || (listed.ApprovedBy != nil) != shown || strings.Contains(string(a.Body), "approved_by") != shown {
		t.Errorf("%s sees the approver of a %s expense: %v, in lists %v, want %v", p.name, it.Status, read.ApprovedBy, listed.ApprovedBy, shown)
	}
}

// expenseCreates checks who creates, and that only an admin names owner, region and department.
func (m *matrix) expenseCreates(t *testing.T, p principal, k kind, creating int, isAdmin bool, other principal) {
	t.Helper()
	made := creates(t, p, k, creating, `{"vendor":"Own","amount":10}`)
	if creating == http.StatusCreated && (made.OwnerID != p.id || made.Status != "OPEN") {
		t.Errorf("%+v", made)
	}
	naming, setting := http.StatusForbidden, http.StatusForbidden
	if isAdmin {
		naming, setting = http.StatusCreated, http.StatusOK
	}
	for _, member := range []string{`"region":"ap"`, `"department":"finance"`, `"department":null`} {
		creates(t, p, k, naming, `{"vendor":"Named","amount":10,`+member+`}`)
	}
	it := creates(t, p, k, naming, fmt.Sprintf(`{"vendor":"Named","amount":10,"owner_id":%q}`, other.id))
	if isAdmin && (it.OwnerID != other.id || it.Region != "us" || it.Department != "sales") {
		t.Errorf("%+v, want the region and the department of the owner", it)
	}
	if made.ID == "" {
		return
	}
	for _, patch := range []string{`{"region":"ap"}`, `{"department":"finance"}`, fmt.Sprintf(`{"owner_id":%q}`, other.id)} {
		a := p.Do(t, "PATCH", k.path(made.ID), patch, "Prefer", wait)
		if setting == http.StatusForbidden {
			refused(t, p.name+" sets "+patch, a)
		} else if a.Status != setting {
			t.Errorf("%s sets %s: %d %s", p.name, patch, a.Status, a.Body)
		}
	}
}
