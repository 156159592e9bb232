package request

import (
	"strings"

	"github.com/google/uuid"
)

// UUID gives a UUID as writ writes it. Its digits may come in either case (RFC 9562,
// section 4); braces, urn:uuid: and a form without dashes are other texts.
func UUID(text string) (string, bool) {
	if len(text) != len(uuid.Nil.String()) || uuid.Validate(text) != nil {
		return "", false
	}
	return strings.ToLower(text), true
}
