package settings

import "strings"

// hidden stands where a secret is.
const hidden = "(hidden)"

// Hide gives a setting's value without what may be a secret. It shows what is known to be none, and hides the rest: who
// writes a URL can put a password into its user part, its query (PostgreSQL's password and sslpassword, Redis' password)
// or, with NATS, where the user would be.
func Hide(name, value string) string {
	switch {
	case strings.HasSuffix(name, "_SECRET") || strings.HasSuffix(name, "_KEYS"):
		return hidden
	case !strings.HasSuffix(name, "_URL") && name != "WRIT_CERBOS" && !strings.Contains(value, "://"):
		return value
	}
	parts := strings.Split(value, ",") // a list of servers, where each is a URL
	for i, part := range parts {
		if i > 0 && !strings.Contains(part, "://") { // several hosts of one URL, or a comma in a password
			return hideURL(name, value)
		}
		parts[i] = hideURL(name, part)
	}
	return strings.Join(parts, ",")
}

func hideURL(name, value string) string {
	value, fragment, fragmented := strings.Cut(value, "#")
	scheme, rest, found := strings.Cut(value, "://")
	switch {
	case found:
		scheme += "://"
	case strings.HasPrefix(value, "sqlite:"):
		scheme, rest = "sqlite:", strings.TrimPrefix(value, "sqlite:")
	case strings.ContainsAny(value, "=' \t"): // PostgreSQL's keywords and values, which writ does not take
		return hidden
	default:
		scheme, rest = "", value
	}
	user := ""
	// The last one, wherever it is: a password that is not escaped may hold any of /?@.
	if at := strings.LastIndex(rest, "@"); at >= 0 && scheme != "sqlite:" {
		user, rest = rest[:at], rest[at+1:]
		if before, _, secret := strings.Cut(user, ":"); strings.Contains(name, "NATS") || strings.ContainsAny(before, "/?&=,") {
			user = hidden + "@" // a token stands alone
		} else if secret {
			user = before + ":" + hidden + "@"
		} else {
			user = before + "@"
		}
	}
	rest, query, asked := strings.Cut(rest, "?")
	if asked {
		rest += "?" + hideQuery(query)
	}
	if fragmented && fragment != "" {
		rest += "#" + hidden
	}
	return scheme + user + rest
}

// shown are parameters that are no secrets.
var shown = map[string]bool{
	"sslmode": true, "application_name": true, "connect_timeout": true, "target_session_attrs": true, "host": true, "port": true, "dbname": true,
	"user": true, "sslrootcert": true, "sslcert": true, "search_path": true, "statement_timeout": true, "pool_max_conns": true, "channel_binding": true,
	"db": true, "protocol": true, "dial_timeout": true, "read_timeout": true, "write_timeout": true, "pool_size": true, "client_name": true,
	"max_retries": true, "skip_verify": true, "mode": true, "cache": true,
}

func hideQuery(query string) string {
	parameters := strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' })
	for i, p := range parameters {
		if name, _, _ := strings.Cut(p, "="); !shown[strings.ToLower(name)] {
			parameters[i] = name + "=" + hidden
			if !strings.Contains(p, "=") {
				parameters[i] = hidden
			}
		}
	}
	return strings.Join(parameters, "&")
}
