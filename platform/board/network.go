package board

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// Network says how an interface gets its addresses.
type Network struct {
	Interface string // "" for the first that has a link
	Static    netip.Prefix
	Gateway   netip.Addr
	DNS       []netip.Addr
}

// DHCP reports whether addresses are asked for.
func (n Network) DHCP() bool { return !n.Static.IsValid() }

// ParseNetwork reads the file network.txt of a boot partition: one "key = value" per line,
// "#" begins a comment. Keys: interface, address (1.2.3.4/24, or dhcp), gateway, dns (several,
// separated by spaces). Every mistake is in the error; what is right is returned.
func ParseNetwork(r io.Reader) (Network, error) {
	var n Network
	var errs []error
	lines := bufio.NewScanner(io.LimitReader(r, 64<<10))
	for i := 1; lines.Scan(); i++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		line = strings.TrimSpace(strings.TrimPrefix(line, "\ufeff"))
		if line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		var err error
		switch {
		case !ok:
			err = errors.New("want key = value")
		case key == "interface":
			if !plain(value) {
				err = fmt.Errorf("interface %q: want a name as eth0", value)
			} else {
				n.Interface = value
			}
		case key == "address" && value == "dhcp":
			n.Static = netip.Prefix{}
		case key == "address":
			n.Static, err = netip.ParsePrefix(value)
			if err == nil && !n.Static.Addr().Is4() {
				n.Static, err = netip.Prefix{}, fmt.Errorf("address %s: want IPv4", value)
			}
		case key == "gateway":
			n.Gateway, err = netip.ParseAddr(value)
		case key == "dns":
			for _, s := range strings.Fields(value) {
				a, e := netip.ParseAddr(s)
				if e != nil {
					err = e
				} else {
					n.DNS = append(n.DNS, a)
				}
			}
		default:
			err = fmt.Errorf("unknown key %q: want interface, address, gateway or dns", key)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("network.txt:%d: %w", i, err))
		}
	}
	return n, errors.Join(append(errs, lines.Err())...)
}
