package auth

import (
	"errors"
	"net/url"
	"strings"
	"tidegate/policy"
)

// scheme is the authentication scheme of the credential header.
type scheme uint8

const (
	schemeNone scheme = iota
	schemeBearer
	schemeBasic
	schemeOther
)

// maxPlaces is how many API key places of one API are looked at.
const maxPlaces = 8

// offer is what a call brings, unverified.
type offer struct {
	scheme scheme
	token  string            // behind the scheme
	keys   [maxPlaces]string // by place; "": none, or not asked for
	nkeys  int
}

var errTwice = errors.New("a credential is given more than once")

// read looks at the places that the operation allows. A credential that is there twice is
// an error: we and the backend might not read the same one.
func (o *offer) read(g *Guard, call policy.Call, a *apiRules, op *opRules) error {
	if h := call.Header(a.header); h != "" {
		if g.another(call, a.header) {
			return errTwice
		}
		o.scheme, o.token = parseAuthorization(h)
	}
	for i, p := range a.keys {
		if op.places&(1<<i) == 0 {
			continue
		}
		v, err := p.read(g, call)
		if err != nil {
			return err
		}
		if o.keys[i] = v; v != "" {
			o.nkeys++
		}
	}
	return nil
}

// has reports whether the credential of u is there.
func (o *offer) has(u use, certificate bool) bool {
	switch u.kind {
	case policy.OAuth2:
		return o.scheme == schemeBearer
	case policy.Basic:
		return o.scheme == schemeBasic
	case policy.APIKey:
		return u.key < maxPlaces && o.keys[u.key] != ""
	case policy.Certificate:
		return certificate
	}
	return false
}

// any reports whether there is a credential the operation may allow.
func (o *offer) any() bool { return o.scheme != schemeNone || o.nkeys > 0 }

// elsewhere reports whether there is an API key in a place of the API that the operation does not allow.
func (o *offer) elsewhere(g *Guard, call policy.Call, a *apiRules, op *opRules) bool {
	for i, p := range a.keys {
		if op.places&(1<<i) == 0 {
			if v, err := p.read(g, call); v != "" || err != nil {
				return true
			}
		}
	}
	return false
}

// parseAuthorization splits a credential header. A scheme without anything behind it is
// no credential.
func parseAuthorization(h string) (scheme, string) {
	h = strings.Trim(h, " \t")
	i := 0
	for i < len(h) && h[i] != ' ' && h[i] != '\t' {
		i++
	}
	if i == len(h) {
		if h == "" || strings.EqualFold(h, "Bearer") || strings.EqualFold(h, "Basic") {
			return schemeNone, ""
		}
		return schemeOther, ""
	}
	token := strings.TrimLeft(h[i:], " \t")
	switch {
	case strings.EqualFold(h[:i], "Bearer"):
		return schemeBearer, token
	case strings.EqualFold(h[:i], "Basic"):
		return schemeBasic, token
	}
	return schemeOther, ""
}

// another reports whether a header has more than one line.
func (g *Guard) another(call policy.Call, name string) bool {
	c := g.yields.Get().(*counter)
	c.n = 0
	call.HeaderValues(name, c.yield)
	n := c.n
	g.yields.Put(c)
	return n > 1
}

// counter counts what is yielded to it, up to two. It is pooled, since a function that is handed to
// an interface would be allocated in every call.
type counter struct {
	n     int
	yield func(string) bool
}

func newCounter() *counter {
	c := new(counter)
	c.yield = func(string) bool { c.n++; return c.n < 2 }
	return c
}

// read returns the API key at p, "" for none.
func (p place) read(g *Guard, call policy.Call) (string, error) {
	switch p.in {
	case policy.InHeader:
		v := call.Header(p.name)
		if v != "" && g.another(call, p.name) {
			return "", errTwice
		}
		return strings.Trim(v, " \t"), nil
	case policy.InQuery:
		return queryValue(call.Query(), p.name)
	default:
		return g.cookie(call, p.name)
	}
}

// cookie returns the value of a cookie, "" when it is absent.
func (g *Guard) cookie(call policy.Call, name string) (string, error) {
	line := call.Header("Cookie")
	if line == "" {
		return "", nil
	}
	if !g.another(call, "Cookie") {
		return cookieValue(line, name, "")
	}
	var v string
	var err error
	call.HeaderValues("Cookie", func(line string) bool { // HTTP/2 may split the field (RFC 9113 §8.2.3)
		v, err = cookieValue(line, name, v)
		return err == nil
	})
	return v, err
}

// cookieValue looks for a cookie in one line; v is what an earlier line had.
func cookieValue(line, name, v string) (string, error) {
	for line != "" {
		var pair string
		pair, line, _ = strings.Cut(line, ";")
		k, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
		if value = strings.Trim(value, `"`); k != name || value == "" {
			continue
		}
		if v != "" {
			return "", errTwice
		}
		v = value
	}
	return v, nil
}

// queryValue returns the decoded value of a query parameter, "" when it is absent.
func queryValue(query, name string) (string, error) {
	var v string
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		k, value, _ := strings.Cut(pair, "=")
		if k != name {
			if strings.IndexByte(k, '%') < 0 && strings.IndexByte(k, '+') < 0 {
				continue
			}
			if d, err := url.QueryUnescape(k); err != nil || d != name {
				continue
			}
		}
		d, err := url.QueryUnescape(value)
		if err != nil {
			return "", errors.New("the query parameter of the API key has a bad escape")
		}
		if d == "" {
			continue
		}
		if v != "" {
			return "", errTwice
		}
		v = d
	}
	return v, nil
}
