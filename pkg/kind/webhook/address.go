package webhook

import (
	"net/netip"
	"net/url"
	"strings"

	"github.com/writ-project/writ/pkg/fault"
)

// The addresses that are nobody's on the Internet, or not to be talked to from
// inside: IANA's special-purpose registries (RFC 6890) as far as netip has no
// method for them, and cloud providers' metadata beside 169.254.0.0/16.
var special = prefixes(
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24",
	"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "168.63.129.16/32",
	"2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
)

// global is the part of IPv6 that is given out (RFC 4291, 2.4). Outside of it
// are loopback, IPv4 in disguise (::ffff:0:0/96, 64:ff9b::/96), unique local,
// link-local and multicast addresses.
var global = netip.MustParsePrefix("2000::/3")

func prefixes(all ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(all))
	for i, p := range all {
		out[i] = netip.MustParsePrefix(p)
	}
	return out
}

// Public reports whether an address is a host's on the Internet: webhooks go to
// no other unless a setting allows it.
func Public(a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.Is6() && !global.Contains(a) {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// CheckURL gives an error about body.url unless webhooks may go to it. A name is
// not resolved: it is the address at the time of each connection that counts.
func CheckURL(raw string, private bool) error {
	wrong := func(message string) error { return fault.InvalidField("body.url", "%s", message) }
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		return wrong("want an absolute URL")
	case u.Scheme != "https" && (u.Scheme != "http" || !private):
		return wrong("want https")
	case u.User != nil || u.Fragment != "" || strings.Contains(raw, "#"):
		return wrong("want no user, password or fragment")
	case private:
		return nil
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if a, err := netip.ParseAddr(host); err == nil && !Public(a) || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return wrong("want a public address")
	}
	return nil
}
