package throttle

import (
	"fmt"
	"strings"
	"tidegate/policy"
)

// A template is the key of a custom plan: fixed text and variables.
type template []part

type part struct {
	text     string
	variable variable // no: text
}

// A variable is one value of a call.
type variable struct {
	what  what
	claim string // of customProperty
}

type what uint8

const (
	no what = iota
	resourceKey
	userID
	apiContext
	apiVersion
	appTenant
	apiTenant
	appID
	clientIP
	customProperty
)

// names are those of API Manager; longer ones come before their beginnings.
var names = []struct {
	name string
	what what
}{
	{"resourceKey", resourceKey},
	{"userId", userID},
	{"apiContext", apiContext},
	{"apiVersion", apiVersion},
	{"appTenant", appTenant},
	{"apiTenant", apiTenant},
	{"appId", appID},
	{"clientIp", clientIP},
}

const propertyPrefix = "customProperty."

// parseVariable reads a variable's name without "$".
func parseVariable(s string) (variable, error) {
	s = strings.TrimPrefix(s, "$")
	if name, ok := strings.CutPrefix(s, propertyPrefix); ok && name != "" {
		return variable{customProperty, name}, nil
	}
	for _, n := range names {
		if n.name == s {
			return variable{what: n.what}, nil
		}
	}
	return variable{}, fmt.Errorf("unknown variable %q: want resourceKey, userId, apiContext, apiVersion, appTenant, apiTenant, appId, clientIp or customProperty.<claim>", s)
}

// parseTemplate reads a key template such as "$userId:$apiContext". A variable's name
// ends at the first character that cannot be part of it; that of a claim may be a URL,
// and ends with a letter, a digit or "_".
func parseTemplate(s string) (template, error) {
	if s == "" {
		return nil, fmt.Errorf("is empty: all calls would share one counter; write $apiContext or another variable")
	}
	var t template
	for s != "" {
		i := strings.IndexByte(s, '$')
		if i < 0 {
			return append(t, part{text: s}), nil
		}
		if i > 0 {
			t = append(t, part{text: s[:i]})
		}
		name := nameAt(s[i+1:])
		v, err := parseVariable(name)
		if err != nil {
			return nil, err
		}
		t = append(t, part{variable: v})
		s = s[i+1+len(name):]
	}
	return t, nil
}

// nameAt returns the name at the beginning of s.
func nameAt(s string) string {
	if strings.HasPrefix(s, propertyPrefix) {
		i := len(propertyPrefix)
		for i < len(s) && (word(s[i]) || strings.IndexByte(".:/#-", s[i]) >= 0) {
			i++
		}
		for i > len(propertyPrefix) && !word(s[i-1]) {
			i--
		}
		return s[:i]
	}
	for i := range len(s) {
		c := s[i] | 0x20
		if c < 'a' || c > 'z' {
			return s[:i]
		}
	}
	return s
}

func word(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// own reports whether a key holds something of one caller alone.
func (t template) own() bool {
	for _, p := range t {
		switch p.variable.what {
		case userID, appID, clientIP:
			return true
		}
	}
	return false
}

func (t template) fill(b []byte, o *Operation, call policy.Call, who *policy.Principal) []byte {
	for i := range t {
		if t[i].variable.what == no {
			b = append(b, t[i].text...)
		} else {
			b = t[i].variable.fill(b, o, call, who)
		}
	}
	return b
}

// fill appends the value of v; nothing when the call has none.
func (v *variable) fill(b []byte, o *Operation, call policy.Call, who *policy.Principal) []byte {
	switch v.what {
	case resourceKey:
		return o.appendResource(b)
	case apiContext:
		return append(b, o.base...)
	case apiVersion:
		return append(b, o.version...)
	case apiTenant:
		return append(b, o.tenant...)
	case clientIP:
		return appendClient(b, call.Client())
	}
	if who == nil {
		return b
	}
	switch v.what {
	case userID:
		return appendUser(b, who)
	case appID:
		return append(b, who.ApplicationID...)
	case appTenant:
		return append(b, tenantOf(who.ApplicationOwner)...)
	case customProperty:
		for i, s := range who.Claims.Values(v.claim) {
			if i > 0 {
				b = append(b, ' ')
			}
			b = append(b, s...)
		}
	}
	return b
}
