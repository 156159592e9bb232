// Package contact is the resource kind contact.
package contact

import "github.com/writ-project/writ/pkg/kind"

// Contact is a person in a tenant's address book.
type Contact struct {
	kind.Meta
	FirstName string `json:"first_name" minLength:"1" maxLength:"200"`
	LastName  string `json:"last_name,omitempty" maxLength:"200"`
	// The format takes a mailbox too, Ada <ada@example.com>: the pattern keeps it to the address.
	Email          string `json:"email,omitempty" format:"email" pattern:"^[^\\s<>()]+@[^\\s<>()]+$" patternDescription:"an address alone" maxLength:"320"`
	Phone          string `json:"phone,omitempty" maxLength:"50"`
	Company        string `json:"company,omitempty" maxLength:"200"`
	Notes          string `json:"notes,omitempty" maxLength:"100000"`
	MarketingOptIn bool   `json:"marketing_opt_in" required:"false"`
	IsActive       bool   `json:"is_active" required:"false" default:"true"`
}

// Kind registers contacts. Policies see owner_id, tenant and the attributes
// named here; list filters map them to columns.
var Kind = kind.Define[Contact]("contact",
	kind.Attr("is_active"),
	kind.Search("first_name", "last_name", "email", "company"),
)
