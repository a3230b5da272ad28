package auth

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"tidegate/policy"
)

// find returns a member as JSON. A member that is null counts as absent.
func (o object) find(name string) (raw string, ok bool) {
	for i := range o {
		if o[i].name == name {
			return o[i].raw, true
		}
	}
	return "", false
}

func (o object) present(name string) (raw string, ok bool) {
	raw, ok = o.find(name)
	return raw, ok && raw != "null"
}

// text returns a member as text: strings decoded, numbers and booleans as in JSON.
func (o object) text(name string) string {
	raw, ok := o.present(name)
	if !ok {
		return ""
	}
	return textOf(raw)
}

// texts returns a member as texts: one, or the elements of a list.
func (o object) texts(name string) (values []string, list bool) {
	raw, ok := o.present(name)
	if !ok {
		return nil, false
	}
	elements, list := readList(raw)
	if !list {
		return []string{textOf(raw)}, false
	}
	values = make([]string, 0, len(elements))
	for _, e := range elements {
		values = append(values, textOf(e))
	}
	return values, true
}

var errDate = errors.New("a time in the token is not a number")

// milliseconds is the size from which a time is in milliseconds: as seconds it would be
// the year 5138.
const milliseconds = 1e11

// date returns a NumericDate (RFC 7519 §2) in whole seconds.
func (o object) date(name string) (seconds int64, ok bool, err error) {
	raw, ok := o.present(name)
	if !ok {
		return 0, false, nil
	}
	f, err := strconv.ParseFloat(raw, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, false, errDate
	}
	if math.Abs(f) >= milliseconds {
		f /= 1000
	}
	const most = 1 << 53
	return int64(math.Floor(min(max(f, -most), most))), true, nil
}

// claims returns the claims after renaming.
func (o object) claims(renames []policy.ClaimRename) *policy.Claims {
	c := policy.NewClaims(len(o) + len(renames))
	for i := range o {
		if o[i].raw == "null" {
			continue
		}
		values, list := o.texts(o[i].name)
		c.Add(o[i].name, list, o[i].raw, values...)
	}
	for _, r := range renames {
		values, _ := o.texts(r.From)
		if values == nil {
			continue
		}
		cut := make([]string, len(values))
		for i, v := range values {
			cut[i] = strings.TrimPrefix(v, r.Prefix)
		}
		text := strings.Join(cut, " ")
		raw, err := json.Marshal(text)
		if err != nil {
			continue
		}
		c.Add(r.To, false, string(raw), text)
	}
	return c
}

// ParseClaims reads a JSON object as claims: the payload of a token, or what a key manager
// says of one (RFC 7662 §2.2). A member that appears twice is an error; one that is null counts
// as absent.
func ParseClaims(b []byte) (*policy.Claims, error) {
	o, err := readObject(b)
	if err != nil {
		return nil, err
	}
	return o.claims(nil), nil
}

// meets reports whether every rule holds.
func meets(c *policy.Claims, rules []policy.ClaimRule) bool {
	for _, r := range rules {
		have := c.Values(r.Name)
		if len(have) == 0 {
			return false
		}
		if len(r.Values) > 0 && !slices.ContainsFunc(have, func(v string) bool { return slices.Contains(r.Values, v) }) {
			return false
		}
	}
	return true
}
