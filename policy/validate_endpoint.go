package policy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math"
	"net/url"
	"time"
)

func (v *validator) checkEndpoints() {
	seen := map[string]Pos{}
	for i := range v.set.Endpoints {
		e := &v.set.Endpoints[i]
		object := fmt.Sprintf("endpoint %q", e.Name)
		v.name(e.Pos, object, "the name", e.Name)
		if first, twice := seen[e.Name]; twice {
			v.hint(e.Pos, object, "give one of them another name", "defined twice, first in %s", first)
		}
		seen[e.Name] = e.Pos
		v.checkEndpoint(e, object)
	}
}

func (v *validator) checkEndpoint(e *Endpoints, object string) {
	if e.Kind > LeastPending {
		v.add(e.Pos, object, "unknown kind %d", e.Kind)
	}
	if len(e.Targets) == 0 {
		v.add(e.Pos, object, "no targets: calls would have nowhere to go")
	}
	for _, t := range e.Targets {
		if err := CheckTarget(t.URL); err != nil {
			pos := t.Pos
			if pos == (Pos{}) {
				pos = e.Pos
			}
			v.add(pos, object, "target %v", err)
		}
	}
	for _, d := range []struct {
		what string
		d    time.Duration
	}{
		{"timeout", e.Timeout},
		{"overall timeout", e.Overall},
		{"wait between tries", e.Retry.Interval},
		{"longest wait between tries", e.Retry.MaxWait},
		{"wait for a connection", e.Pool.Wait},
		{"keep-alive", e.Pool.Idle},
	} {
		if d.d < 0 {
			v.add(e.Pos, object, "a %s of %s", d.what, d.d)
		}
	}
	if e.Overall > 0 && e.Timeout > e.Overall {
		v.add(e.Pos, object, "contradicts itself: a try may take %s, all tries together %s", e.Timeout, e.Overall)
	}
	if f := e.Retry.Factor; math.IsNaN(f) || f < 0 || f > 100 {
		v.add(e.Pos, object, "waits grow by a factor of %v: want 0 to 100", f)
	}
	if e.Retry.Count > 10 {
		v.add(e.Pos, object, "%d more tries: want at most 10", e.Retry.Count)
	}
	v.statuses(e.Pos, object, e.Retry.Statuses)
	if b := e.Breaker; b != nil {
		v.breaker(e.Pos, object, b)
	}
	if h := e.Health; h != nil {
		if h.Path == "" || h.Path[0] != '/' {
			v.add(e.Pos, object, "health: the path %q does not begin with a slash", h.Path)
		}
		if h.Interval <= 0 || h.Timeout < 0 {
			v.add(e.Pos, object, "health: an interval of %s and a timeout of %s", h.Interval, h.Timeout)
		}
		v.statuses(e.Pos, object, h.Statuses)
	}
	if j := e.Eject; j != nil && (j.Failures == 0 || j.For <= 0 || math.IsNaN(j.MaxShare) || j.MaxShare < 0 || j.MaxShare > 1) {
		v.add(e.Pos, object, "eject: want failures, a time, and a share from 0 to 1")
	}
	if e.TLS != "" && !v.profile(e.TLS) {
		v.hint(e.Pos, object, "define it in auth.yaml backend_tls", "unknown TLS profile %q", e.TLS)
	}
	if e.Proxy != "" {
		if u, err := url.Parse(e.Proxy); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			v.add(e.Pos, object, "proxy %q is not an http URL", e.Proxy)
		}
	}
	if a := e.Auth; a != nil {
		v.backendAuth(e.Pos, object, a)
	}
}

func (v *validator) profile(name string) bool {
	for i := range v.set.TLS {
		if v.set.TLS[i].Name == name {
			return true
		}
	}
	return false
}

func (v *validator) breaker(pos Pos, object string, b *Breaker) {
	switch {
	case b.Window <= 0 || b.Reset <= 0:
		v.add(pos, object, "breaker: a window of %s and a reset time of %s", b.Window, b.Reset)
	case b.Bucket < 0 || b.Bucket > b.Window:
		v.add(pos, object, "breaker: buckets of %s in a window of %s", b.Bucket, b.Window)
	case b.Bucket > 0 && b.Window/b.Bucket > 1000:
		v.add(pos, object, "breaker: %d buckets: want at most 1000", b.Window/b.Bucket)
	}
	if b.Volume == 0 {
		v.add(pos, object, "breaker: opens without having seen a call")
	}
	if math.IsNaN(b.Share) || b.Share < 0 || b.Share > 1 {
		v.add(pos, object, "breaker: a share of %v: want 0 to 1", b.Share)
	}
	v.statuses(pos, object, b.Statuses)
}

func (v *validator) statuses(pos Pos, object string, list []uint16) {
	for _, s := range list {
		if s < 100 || s > 599 {
			v.add(pos, object, "%d is not a status", s)
		}
	}
}

func (v *validator) backendAuth(pos Pos, object string, a *BackendAuth) {
	switch a.Kind {
	case BackendBasic, BackendBearer:
	case BackendKey:
		if !token(a.Header) {
			v.add(pos, object, "credential: %q is not a name of a header", a.Header)
		}
	case BackendOAuth2:
		if err := CheckTarget(a.TokenURL); err != nil {
			v.add(pos, object, "credential: token URL %v", err)
		}
	default:
		v.add(pos, object, "credential: unknown kind %d", a.Kind)
	}
}

func (v *validator) checkTLS() {
	seen := map[string]bool{}
	for i := range v.set.TLS {
		t := &v.set.TLS[i]
		object := fmt.Sprintf("TLS profile %q", t.Name)
		v.name(t.Pos, object, "the name", t.Name)
		if seen[t.Name] {
			v.add(t.Pos, object, "defined twice")
		}
		seen[t.Name] = true
		v.certificates(t.Pos, object, t.CAs)
		v.certificates(t.Pos, object, t.ClientCert)
		if t.MinVersion != 0 && t.MinVersion != tls.VersionTLS12 && t.MinVersion != tls.VersionTLS13 {
			v.add(t.Pos, object, "TLS version %#x: want 1.2 or 1.3", t.MinVersion)
		}
		for _, p := range t.Pins {
			if len(p) != 32 {
				v.add(t.Pos, object, "a pin of %d bytes: want 32", len(p))
			}
		}
		if (len(t.ClientCert) > 0) != (t.ClientKey != "") {
			v.add(t.Pos, object, "a client certificate and its key come together")
		}
		if t.AnyName && t.ServerName != "" {
			v.add(t.Pos, object, "contradicts itself: a server name, and none is checked")
		}
	}
}

func (v *validator) certificates(pos Pos, object string, list [][]byte) {
	for i, der := range list {
		if _, err := x509.ParseCertificate(der); err != nil {
			v.add(pos, object, "certificate %d does not parse: %v", i+1, err)
		}
	}
}
