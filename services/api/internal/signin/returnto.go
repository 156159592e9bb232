package signin

import (
	"regexp"
	"strings"

	"github.com/writ-project/writ/pkg/fault"
)

// MaxReturnTo bounds return_to, in bytes.
const MaxReturnTo = 512

// ownPath is a path of this site with an optional query, in characters that no
// browser takes for anything else: no backslash, no %, no space, no colon before
// a slash, nothing that is removed when an address is parsed.
var ownPath = regexp.MustCompile(`^/[A-Za-z0-9._~/-]*(\?[A-Za-z0-9._~/=&+%-]*)?$`)

// CheckReturnTo gives the path to go to after the sign-in: the account where
// none is asked for. The error names location.
func CheckReturnTo(to, location string) (string, error) {
	if to == "" {
		return PathAccount, nil
	}
	path, _, _ := strings.Cut(to, "?")
	if len(to) > MaxReturnTo || !ownPath.MatchString(to) || strings.Contains(path, "//") || strings.Contains(path, "/.") ||
		strings.HasPrefix(path, "/v1/auth/") {
		return "", fault.InvalidField(location, "want a path of this site, such as %s", PathAccount)
	}
	return to, nil
}

// returnTo is CheckReturnTo for pages: what is not one of our paths is passed over.
func returnTo(to string) string {
	path, err := CheckReturnTo(to, "")
	if err != nil {
		return PathAccount
	}
	return path
}
