package policy

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// CleanTemplate returns a path template in the form that [Operation] holds: with a slash
// in front and, unless it is "/", none at the end. It refuses what cannot be matched: a
// query, empty or dot segments, braces that do not pair, two parameters with nothing
// between them, a parameter twice, and "*" anywhere but as the last segment. A segment {;NAME}
// is a parameter of the style matrix (RFC 6570 §3.2.7): it stands for a segment of nothing but a matrix
// part.
func CleanTemplate(s string) (string, error) {
	switch {
	case s == "" || s[0] != '/':
		return "", fmt.Errorf("template %q does not begin with a slash", s)
	case len(s) > 1024:
		return "", errors.New("template longer than 1024 bytes")
	case strings.ContainsAny(s, "?#"):
		return "", fmt.Errorf("template %q has a query or a fragment: a path is matched without them", s)
	}
	if s = strings.TrimSuffix(s, "/"); s == "" {
		return "/", nil
	}
	var names []string
	for rest, more := s[1:], true; more; {
		var seg string
		seg, rest, more = strings.Cut(rest, "/")
		if err := checkSegment(seg, !more, &names); err != nil {
			return "", fmt.Errorf("template %q: %w", s, err)
		}
	}
	return s, nil
}

// checkSegment checks one segment and adds the names of its parameters to those before.
func checkSegment(seg string, last bool, names *[]string) error {
	switch {
	case seg == "":
		return errors.New("an empty segment")
	case seg == "*" && last:
		return nil
	case strings.Contains(seg, "*"):
		return errors.New(`"*" may only be the whole last segment`)
	}
	rest := seg
	for {
		literal, after, found := strings.Cut(rest, "{")
		if err := checkLiteral(literal); err != nil {
			return err
		}
		if !found {
			break
		}
		name, tail, closed := strings.Cut(after, "}")
		matrix := strings.HasPrefix(name, ";")
		name = strings.TrimPrefix(name, ";")
		switch {
		case matrix && closed && len(name)+3 != len(seg):
			return fmt.Errorf("%q: a parameter of the style matrix must be a whole segment", seg)
		case !closed || strings.Contains(name, "{"):
			return fmt.Errorf("braces do not pair in %q", seg)
		case name == "":
			return errors.New("a parameter without a name")
		case slices.Contains(*names, name):
			return fmt.Errorf("the parameter %q twice", name)
		case strings.HasPrefix(tail, "{"):
			return fmt.Errorf("two parameters with nothing between them in %q", seg)
		}
		*names = append(*names, name)
		rest = tail
	}
	return nil
}

func checkLiteral(s string) error {
	if strings.Contains(s, "}") {
		return fmt.Errorf("braces do not pair in %q", s)
	}
	plain := s
	if strings.Contains(s, "%") {
		var err error
		if plain, err = url.PathUnescape(s); err != nil {
			return fmt.Errorf("bad escape in %q", s)
		}
	}
	if plain == "." || plain == ".." {
		return fmt.Errorf("a segment %q", s)
	}
	for i := range len(plain) {
		if c := plain[i]; c < 0x20 || c == 0x7f || c == '\\' {
			return fmt.Errorf("a character %q", c)
		}
	}
	return nil
}

// TemplateShape returns a template with the names of its parameters taken out: two
// templates of one shape match the same paths. {;} stands for a matrix part.
func TemplateShape(template string) string {
	var b strings.Builder
	for {
		literal, after, found := strings.Cut(template, "{")
		b.WriteString(literal)
		if !found {
			return b.String()
		}
		if strings.HasPrefix(after, ";") {
			b.WriteString("{;}")
		} else {
			b.WriteString("{}")
		}
		_, template, _ = strings.Cut(after, "}")
	}
}

// CheckTarget returns what is wrong with the URL of a backend.
func CheckTarget(s string) error {
	u, err := url.Parse(strings.TrimPrefix(s, "srv+"))
	if err != nil {
		return fmt.Errorf("%q is not a URL", s)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%q: want http or https", s)
	case u.Opaque != "" || u.Hostname() == "":
		return fmt.Errorf("%q has no host", s)
	case u.User != nil:
		return fmt.Errorf("%q has a user: credentials belong to the secrets", s)
	case u.Fragment != "":
		return fmt.Errorf("%q has a fragment", s)
	case strings.ContainsAny(u.Host, " {}") || u.Port() == "0":
		return fmt.Errorf("%q has a bad host", s)
	}
	for _, seg := range strings.Split(u.Path, "/") {
		if seg == "." || seg == ".." {
			return fmt.Errorf("%q has a segment %q", s, seg)
		}
	}
	return nil
}
