package upstream

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

// A place is a URL taken apart.
type place struct {
	addr    string // host:port; "" for a name of SRV records
	name    string // host without port: what a certificate is verified for
	tls     bool
	srv     bool   // name is one of SRV records
	host    string // authority for Host
	base    string // path without a slash at its end
	slash   string // "/" if the path ended with one
	query   string
	display string // without credentials and query
}

// parsePlace takes apart an http, https, srv+http or srv+https URL.
func parsePlace(raw string) (place, error) {
	rest, srv := strings.CutPrefix(raw, "srv+")
	u, err := url.Parse(rest)
	if err != nil {
		return place{}, fmt.Errorf("endpoint %q: %w", raw, err)
	}
	path := u.EscapedPath()
	p := place{name: u.Hostname(), srv: srv, host: u.Host, base: strings.TrimRight(path, "/"), query: u.RawQuery}
	if p.base != path {
		p.slash = "/"
	}
	port := "80"
	switch u.Scheme {
	case "http":
	case "https":
		p.tls, port = true, "443"
	default:
		return place{}, fmt.Errorf("endpoint %q: scheme %q; want http, https, srv+http or srv+https", raw, u.Scheme)
	}
	if p.name == "" {
		return place{}, fmt.Errorf("endpoint %q: no host", raw)
	}
	p.display = u.Scheme + "://" + u.Host + p.base
	if srv {
		if u.Port() != "" {
			return place{}, fmt.Errorf("endpoint %q: SRV records tell the port; leave it out", raw)
		}
		p.display = "srv+" + p.display
		return p, nil
	}
	if q := u.Port(); q != "" {
		port = q
	}
	p.addr = net.JoinHostPort(p.name, port)
	return p, nil
}

// at returns the place of one SRV record of p. Its certificate and Host are those of the
// name that was configured: an answer of the DNS is not a proof. Labels of the service in
// front of it ("_api._tcp.") are not part of a host name.
func (p place) at(target string, port uint16) place {
	q := p
	q.srv = false
	q.addr = net.JoinHostPort(strings.TrimSuffix(target, "."), fmt.Sprint(port))
	for strings.HasPrefix(q.name, "_") {
		_, rest, ok := strings.Cut(q.name, ".")
		if !ok {
			break
		}
		q.name = rest
	}
	q.host = q.name
	scheme := "http"
	if p.tls {
		scheme = "https"
	}
	q.display = scheme + "://" + q.addr + p.base
	return q
}
