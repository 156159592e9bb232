package request

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// ForwardedFor is the header to which each proxy adds the address that it was
// asked from, the latest last.
const ForwardedFor = "X-Forwarded-For"

// Bounds of what is believed.
const (
	maxProxies = 64 // address ranges in a setting
	maxHops    = 32 // addresses in a header that are looked at, from the right
)

// Proxies are the address ranges of the proxies before a service, whose word for
// where a request comes from is taken. The zero value trusts nobody.
type Proxies []netip.Prefix

// ParseProxies reads at most 64 address ranges in CIDR notation (10.0.0.0/8, fd00::/8),
// separated by commas; an address alone is the range of itself. No text is no
// proxy. A range of all addresses is refused: whoever asks could choose who they are.
func ParseProxies(list string) (Proxies, error) {
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	parts := strings.Split(list, ",")
	if len(parts) > maxProxies {
		return nil, fmt.Errorf("%d address ranges, at most %d", len(parts), maxProxies)
	}
	var out Proxies
	for _, part := range parts {
		part = strings.TrimSpace(part)
		p, err := netip.ParsePrefix(part)
		if address, alone := netip.ParseAddr(part); alone == nil && address.Zone() == "" {
			p, err = netip.PrefixFrom(address, address.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%q is no address range like 10.0.0.0/8", part)
		}
		if p.Addr().Is4In6() { // addresses are compared as IPv4
			if p.Bits() < 96 {
				return nil, fmt.Errorf("%q: write a range of IPv4 addresses as such", part)
			}
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if p.Bits() == 0 {
			return nil, fmt.Errorf("%q would trust everybody", part)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func (p Proxies) trusts(a netip.Addr) bool {
	return slices.ContainsFunc(p, func(span netip.Prefix) bool { return span.Contains(a) })
}

// client gives the address that a request comes from: its connection's, or, where
// that is a proxy's, the right-most one in X-Forwarded-For that is none. What
// stands left of that one is whatever the client wrote. A hop that is no address
// ends the search at the proxy that passed it on.
func (p Proxies) client(r *http.Request) string {
	at, ok := address(r.RemoteAddr)
	if !ok {
		return r.RemoteAddr
	}
	if !p.trusts(at) {
		return at.String()
	}
	rest := strings.Join(r.Header.Values(ForwardedFor), ",")
	for range maxHops {
		var hop string
		if i := strings.LastIndexByte(rest, ','); i >= 0 {
			rest, hop = rest[:i], rest[i+1:]
		} else {
			rest, hop = "", rest
		}
		next, ok := address(strings.Trim(hop, " \t"))
		if !ok {
			break
		}
		if at = next; !p.trusts(at) {
			break
		}
	}
	return at.String()
}

// address reads an address with or without a port, in its shortest form: IPv4 as
// such, without a zone.
func address(s string) (netip.Addr, bool) {
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	} else if inner, ok := strings.CutPrefix(s, "["); ok {
		s = strings.TrimSuffix(inner, "]")
	}
	a, err := netip.ParseAddr(s)
	return a.WithZone("").Unmap(), err == nil
}
