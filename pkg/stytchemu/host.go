package stytchemu

import (
	"net"
	"slices"
	"strings"
)

// isOurs reports whether a request's Host is a name of this machine, or one of
// Config.Hosts. A web page whose name is made to lead to 127.0.0.1 (DNS
// rebinding) is of one origin with the emulator for the browser, and could read
// the mailbox; its name still stands in Host (RFC 9110, 7.2).
func (e *Emulator) isOurs(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return true
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost") ||
		slices.ContainsFunc(e.cfg.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}
