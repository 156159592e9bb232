// Package expense is the resource kind expense.
package expense

import (
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
)

// The states of an expense.
const (
	Open     = "OPEN"
	Approved = "APPROVED"
	Rejected = "REJECTED"
)

// Expense is money that somebody spent and wants back.
type Expense struct {
	kind.Meta
	Vendor     string  `json:"vendor" minLength:"1" maxLength:"300"`
	Amount     float64 `json:"amount" minimum:"0" maximum:"1000000000000"`
	Department *string `json:"department,omitempty" minLength:"1" maxLength:"100" doc:"The owner's department unless an admin names another"`
	Region     *string `json:"region,omitempty" minLength:"1" maxLength:"100" doc:"The owner's region unless an admin names another"`
	Status     string  `json:"status" readOnly:"true" default:"OPEN" enum:"OPEN,APPROVED,REJECTED"`
	ApprovedBy *string `json:"approved_by,omitempty" readOnly:"true" doc:"Who approved or rejected it; for those who may see it"`
}

// Kind registers expenses.
var Kind = kind.Define[Expense]("expense",
	kind.Attr("amount", "department", "region", "status", "approved_by"),
	kind.Inherit("department", "region"),
	kind.Hide("approved_by", "view:approver"),
	kind.Action("approve", func(e *Expense, by kind.By) error { return e.settle(Approved, by) }),
	kind.Action("reject", func(e *Expense, by kind.By) error { return e.settle(Rejected, by) }),
	kind.Search("vendor"),
)

// settle ends an open expense.
func (e *Expense) settle(status string, by kind.By) error {
	if e.Status != Open {
		return fault.Conflict("not-open", "expense %s is %s already", e.ID, e.Status)
	}
	e.Status, e.ApprovedBy = status, &by.PrincipalID
	return nil
}
