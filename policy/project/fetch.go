package project

import (
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/jwk"
	"tidegate/policy/source"
)

// A Fetcher fetches what a project refers to by URL: at most limit bytes. Profile is the one of
// backend_tls that the reference names, nil for none.
type Fetcher func(url string, profile *policy.TLS, limit int64) ([]byte, error)

// The places where a jwks_url is fetched.
const (
	onDevice = "device" // while it runs; the default
	atBuild  = "build"  // its keys go into the bundle, and no device asks
	atBoth   = "both"   // its keys go into the bundle, and devices look for newer ones
)

// whereFetched reads where the keys of an issuer are fetched.
func (l *loader) whereFetched(o *source.Object, i *policy.Issuer) string {
	where := o.Word("fetch", onDevice, atBuild, atBoth)
	if where == "" {
		where = onDevice
	}
	switch {
	case i.JWKSURL == "" && o.Has("fetch"):
		o.Errorf("fetch", "there is no jwks_url to fetch")
		return onDevice
	case i.JWKSURL == "" && i.TLS != "":
		o.Errorf("tls", "there is no jwks_url that it could be for")
	case strings.HasPrefix(i.JWKSURL, "http://"):
		l.report.Add(Finding{
			Pos: o.Pos("jwks_url"), Severity: Warning, Object: o.Name, Security: true,
			Message: "jwks_url: whoever is on the way can put keys of their own in the answer", Hint: "use https",
		})
	}
	return where
}

// fetched returns the keys at the issuer's URL. Without a Fetcher, as when a project is only
// validated, nothing is known of them, and the URL stays for the checks to see.
func (l *loader) fetched(o *source.Object, i *policy.Issuer, where string) []policy.Key {
	if l.fetch == nil || policy.CheckTarget(i.JWKSURL) != nil {
		return nil
	}
	var profile *policy.TLS
	if at := slices.IndexFunc(l.set.TLS, func(t policy.TLS) bool { return i.TLS != "" && t.Name == i.TLS }); at >= 0 {
		profile = &l.set.TLS[at]
	}
	b, err := l.fetch(i.JWKSURL, profile, jwk.MaxBytes)
	if err != nil {
		l.report.Add(Finding{
			Pos: o.Pos("jwks_url"), Severity: Error, Object: o.Name, Message: "jwks_url: not fetched: " + err.Error(),
			Hint: "the keys belong into the bundle: build where it can be reached, or save the set as a file and name it as jwks",
		})
		return nil
	}
	keys, err := jwk.Parse(b)
	if err != nil {
		o.Errorf("jwks_url", "%s: %v", i.JWKSURL, err)
		return nil
	}
	if where == atBuild {
		i.JWKSURL, i.TLS = "", ""
	}
	return keys
}
