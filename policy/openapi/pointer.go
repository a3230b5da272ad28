package openapi

import (
	"net/url"
	"strconv"
	"strings"
	"tidegate/policy/source"
)

// step goes from a value to a member of it.
func step(n *source.Node, name string) *source.Node {
	if n != nil && n.Kind == source.List {
		if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(n.List) {
			return n.List[i]
		}
		return nil
	}
	return n.Value(name)
}

// unescape decodes one token of a JSON pointer in a URI fragment (RFC 6901 §6).
func unescape(seg string) string {
	if s, err := url.PathUnescape(seg); err == nil {
		seg = s
	}
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(seg)
}

// escape is the inverse of unescape.
func escape(name string) string {
	name = strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
	return (&url.URL{Fragment: name}).EscapedFragment()
}

// SecretPath joins names to the path of a secret in a bundle: lower case, with "-" for
// what its path grammar does not allow.
func SecretPath(names ...string) string {
	for i, n := range names {
		names[i] = pathName(n)
	}
	return strings.Join(names, "/")
}

func pathName(s string) string {
	b := []byte(strings.ToLower(s))
	for i, c := range b {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			b[i] = '-'
		}
	}
	if t := string(b); t != "." && t != ".." && t != "" {
		return t
	}
	return "-"
}
