package stytchemu

import (
	"cmp"
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/users"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// searchUsers knows the filters user_id, email_address, email_address_fuzzy,
// full_name_fuzzy and status; an empty query is everybody, oldest first.
func (e *Emulator) searchUsers(r *http.Request) (any, error) {
	in, err := decode[users.SearchParams](r)
	if err != nil {
		return nil, err
	}
	match, err := compileQuery(in.Query)
	if err != nil {
		return nil, err
	}
	limit := int(cmp.Or(in.Limit, defaultLimit))
	if limit > maxLimit {
		return nil, errLimit
	}
	from, err := parseCursor(in.Cursor)
	if err != nil {
		return nil, err
	}

	found := e.everybody(match)
	var out users.SearchResponse
	out.ResultsMetadata.Total = int32(len(found))
	page := found[min(from, len(found)):min(from+limit, len(found))]
	for _, u := range page {
		out.Results = append(out.Results, *u)
	}
	if end := from + len(page); end < len(found) {
		out.ResultsMetadata.NextCursor = base64.RawURLEncoding.EncodeToString([]byte(strconv.Itoa(end)))
	}
	return out, nil
}

func (e *Emulator) everybody(match func(*users.User) bool) []*users.User {
	e.mu.Lock()
	defer e.mu.Unlock()
	found := slices.Collect(maps.Values(e.state.users))
	found = slices.DeleteFunc(found, func(u *users.User) bool { return !match(u) })
	slices.SortFunc(found, func(a, b *users.User) int {
		return cmp.Or(a.CreatedAt.Compare(*b.CreatedAt), strings.Compare(a.UserID, b.UserID))
	})
	return found
}

func parseCursor(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return 0, errCursor
	}
	n, err := strconv.Atoi(string(raw))
	if err != nil || n < 0 || n > 1<<30 {
		return 0, errCursor
	}
	return n, nil
}

func compileQuery(q *users.SearchUsersQuery) (func(*users.User) bool, error) {
	if q == nil || len(q.Operands) == 0 {
		return func(*users.User) bool { return true }, nil
	}
	var filters []func(*users.User) bool
	for _, operand := range q.Operands {
		f, err := compileFilter(operand)
		if err != nil {
			return nil, err
		}
		filters = append(filters, f)
	}
	anyOf := q.Operator == users.SearchUsersQueryOperatorOR
	return func(u *users.User) bool {
		for _, f := range filters {
			if f(u) == anyOf {
				return anyOf
			}
		}
		return !anyOf
	}, nil
}

func compileFilter(operand map[string]any) (func(*users.User) bool, error) {
	name, _ := operand["filter_name"].(string)
	switch name {
	case "user_id", "email_address":
		list, ok := operand["filter_value"].([]any)
		if !ok {
			return nil, errFilter
		}
		want := map[string]bool{}
		for _, v := range list {
			s, ok := v.(string)
			if !ok {
				return nil, errFilter
			}
			if name == "email_address" {
				s = strings.ToLower(s)
			}
			want[s] = true
		}
		if name == "user_id" {
			return func(u *users.User) bool { return want[u.UserID] }, nil
		}
		return anyEmail(func(email string) bool { return want[email] }), nil
	case "email_address_fuzzy", "full_name_fuzzy", "status":
		s, ok := operand["filter_value"].(string)
		if !ok {
			return nil, errFilter
		}
		return compileText(name, strings.ToLower(s)), nil
	}
	return nil, errFilter
}

func compileText(name, want string) func(*users.User) bool {
	switch name {
	case "email_address_fuzzy":
		return anyEmail(func(email string) bool { return strings.Contains(email, want) })
	case "status":
		return func(u *users.User) bool { return u.Status == want }
	default:
		return func(u *users.User) bool {
			return u.Name != nil && strings.Contains(strings.ToLower(u.Name.FirstName+" "+u.Name.LastName), want)
		}
	}
}

func anyEmail(match func(string) bool) func(*users.User) bool {
	return func(u *users.User) bool {
		return slices.ContainsFunc(u.Emails, func(m users.Email) bool { return match(m.Email) })
	}
}
