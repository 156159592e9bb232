// Package kinds is the registry of resource kinds: a new kind is one line here.
package kinds

import (
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/expense"
	"github.com/writ-project/writ/pkg/kind/video"
)

// All are the kinds that writ serves.
var All = []*kind.Definition{
	contact.Kind,
	video.Kind,
	expense.Kind,
}

// ByName finds a kind by its name.
func ByName(name string) (*kind.Definition, bool) {
	for _, d := range All {
		if d.Name == name {
			return d, true
		}
	}
	return nil, false
}
