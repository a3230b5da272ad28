package config

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"tidegate/policy"

	"github.com/pelletier/go-toml/v2"
)

// Prefix begins the name of every variable of the environment.
const Prefix = "TIDEGATE_"

// Sources are where a configuration comes from.
type Sources struct {
	File     string   // path; "" for none
	Optional bool     // a missing file is as good as an empty one
	Env      []string // as os.Environ
	Flags    []Flag   // in order; the last wins
}

// A Flag is one key set on the command line.
type Flag struct{ Key, Value string }

// Load reads all sources and returns a configuration within its ranges, or every fault joined.
func Load(s Sources) (*Config, error) {
	c := Default()
	var errs []error
	if s.File != "" {
		b, err := os.ReadFile(s.File)
		switch {
		case s.Optional && errors.Is(err, os.ErrNotExist):
		case err != nil:
			return nil, err
		default:
			errs = append(errs, c.parse(s.File, b)...)
		}
	}
	errs = append(errs, c.environment(s.Env)...)
	for _, f := range s.Flags {
		if err := c.set(f.Key, f.Value); err != nil {
			errs = append(errs, fmt.Errorf("--set %s: %w", f.Key, err))
		}
	}
	if len(errs) == 0 {
		errs = c.check()
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return c, nil
}

// parse reads one file strictly. Keys compare exactly.
func (c *Config) parse(name string, b []byte) []error {
	d := toml.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	err := d.Decode(c)
	var strict *toml.StrictMissingError
	var one *toml.DecodeError
	switch {
	case err == nil:
	case errors.As(err, &strict):
		var errs []error
		for i := range strict.Errors {
			row, _ := strict.Errors[i].Position()
			key := strings.Join(strict.Errors[i].Key(), ".")
			errs = append(errs, fmt.Errorf("%s:%d: unknown key %q%s", name, row, key, suggest(key)))
		}
		return errs
	case errors.As(err, &one):
		row, _ := one.Position()
		return []error{fmt.Errorf("%s:%d: %s", name, row, strings.TrimPrefix(one.Error(), "toml: "))}
	default:
		return []error{fmt.Errorf("%s: %w", name, err)}
	}
	return c.exactCase(name, b)
}

// exactCase refuses keys that differ from ours only in case: the decoder takes them.
func (c *Config) exactCase(name string, b []byte) []error {
	var tree map[string]any
	if err := toml.Unmarshal(b, &tree); err != nil {
		return []error{fmt.Errorf("%s: %w", name, err)}
	}
	known := Keys()
	var errs []error
	var walk func(prefix string, t map[string]any)
	walk = func(prefix string, t map[string]any) {
		for _, k := range slices.Sorted(maps.Keys(t)) {
			key := prefix + k
			if sub, ok := t[k].(map[string]any); ok {
				walk(key+".", sub)
				continue
			}
			if !slices.Contains(known, general(key)) {
				errs = append(errs, fmt.Errorf("%s: unknown key %q%s", name, key, suggest(key)))
			}
		}
	}
	walk("", tree)
	return errs
}

// general replaces the name in a key of endpoints by NAME.
func general(key string) string {
	parts := strings.Split(key, ".")
	if len(parts) >= 3 && parts[0] == "endpoints" {
		return "endpoints.NAME." + parts[len(parts)-1]
	}
	return key
}

// Keys returns every key, sorted; those of endpoints as "endpoints.NAME.url" and so on.
func Keys() []string {
	var keys []string
	walkFields(reflect.ValueOf(Default()).Elem(), "", func(key string, _ reflect.Value) { keys = append(keys, key) })
	for _, k := range []string{"url", "username", "password"} {
		keys = append(keys, "endpoints.NAME."+k)
	}
	slices.Sort(keys)
	return keys
}

// walkFields calls fn for every setting below v.
func walkFields(v reflect.Value, prefix string, fn func(key string, v reflect.Value)) {
	t := v.Type()
	for i := range t.NumField() {
		tag := t.Field(i).Tag.Get("toml")
		if tag == "" || tag == "-" {
			continue
		}
		f := v.Field(i)
		switch {
		case f.Kind() == reflect.Struct:
			walkFields(f, prefix+tag+".", fn)
		case f.Kind() == reflect.Map:
		default:
			fn(prefix+tag, f)
		}
	}
}

// environment applies every variable that begins with [Prefix].
func (c *Config) environment(env []string) []error {
	byName := map[string]string{}
	for _, k := range Keys() {
		byName[variable(k)] = k
	}
	var errs []error
	for _, kv := range slices.Sorted(slices.Values(env)) {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, Prefix) || name == Prefix+"CONFIG" {
			continue
		}
		key, ok := byName[name]
		if !ok {
			if key, ok = endpointKey(name); !ok {
				// Not an error: orchestrators put variables of their own beside ours.
				c.Warnings = append(c.Warnings, fmt.Sprintf("environment: unknown variable %s%s", name, suggestVariable(name)))
				continue
			}
		}
		if err := c.set(key, value); err != nil {
			errs = append(errs, fmt.Errorf("environment: %s: %w", name, err))
		}
	}
	return errs
}

// variable returns the name of the variable of a key.
func variable(key string) string {
	return Prefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// endpointKey reads TIDEGATE_ENDPOINTS_<NAME>_URL, …_USERNAME, …_PASSWORD.
func endpointKey(name string) (string, bool) {
	rest, ok := strings.CutPrefix(name, Prefix+"ENDPOINTS_")
	if !ok {
		return "", false
	}
	for _, k := range []string{"url", "username", "password"} {
		if n, ok := strings.CutSuffix(rest, "_"+strings.ToUpper(k)); ok && n != "" {
			return "endpoints." + n + "." + k, true
		}
	}
	return "", false
}

// set sets one key from text.
func (c *Config) set(key, value string) error {
	if rest, ok := strings.CutPrefix(key, "endpoints."); ok {
		i := strings.LastIndexByte(rest, '.')
		if i <= 0 {
			return fmt.Errorf("want endpoints.NAME.url, .username or .password")
		}
		return c.setEndpoint(strings.Trim(rest[:i], `"`), rest[i+1:], value)
	}
	var found reflect.Value
	walkFields(reflect.ValueOf(c).Elem(), "", func(k string, v reflect.Value) {
		if k == key {
			found = v
		}
	})
	if !found.IsValid() {
		return fmt.Errorf("unknown key %q%s", key, suggest(key))
	}
	return setValue(found, value)
}

func (c *Config) setEndpoint(name, field, value string) error {
	if c.Endpoints == nil {
		c.Endpoints = map[string]Endpoint{}
	}
	e := c.Endpoints[name]
	switch field {
	case "url":
		e.URL = strings.Fields(value)
	case "username":
		e.Username = value
	case "password":
		e.Password = value
	default:
		return fmt.Errorf("unknown key %q; want url, username or password", field)
	}
	c.Endpoints[name] = e
	return nil
}

func setValue(v reflect.Value, s string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(s))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("%q is not true or false", s)
		}
		v.SetBool(b)
	case reflect.Int64:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", s)
		}
		v.SetInt(n)
	case reflect.Float64:
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", s)
		}
		v.SetFloat(n)
	case reflect.Slice:
		v.Set(reflect.ValueOf(strings.Fields(strings.ReplaceAll(s, ",", " "))))
	default:
		return fmt.Errorf("cannot be set from text")
	}
	return nil
}

// check looks at ranges and at words.
func (c *Config) check() []error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
	}
	for _, a := range []struct{ key, v string }{{"listen.http", c.Listen.HTTP}, {"listen.https", c.Listen.HTTPS}, {"admin.listen", c.Admin.Listen}} {
		if !hostPort(a.v) {
			bad(a.key, "%q is not host:port", a.v)
		}
	}
	if c.Listen.HTTP == "" && c.Listen.HTTPS == "" {
		bad("listen", "both http and https are empty: nothing would be served")
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		bad("tls", "cert_file and key_file go together")
	}
	for _, w := range []struct {
		key, v string
		of     []string
	}{
		{"tls.client_auth", c.TLS.ClientAuth, []string{"none", "optional", "require"}},
		{"throttle.without_store", c.Throttle.WithoutStore, []string{"closed", "open"}},
		{"events.detail", c.Events.Detail, []string{"all", "errors", "none"}},
		{"events.client_address", c.Events.ClientAddress, []string{"full", "prefix", "none"}},
		{"clock.trust", c.Clock.Trust, []string{"proof", "system"}},
		{"log.level", c.Log.Level, []string{"debug", "info", "warn", "error"}},
		{"log.format", c.Log.Format, []string{"auto", "text", "json"}},
		{"log.access", c.Log.Access, []string{"off", "combined", "json"}},
		{"mqtt.mode", c.MQTT.Mode, []string{"always", "window", "demand"}},
		{"usb.release", c.USB.Release, []string{"ack", "written"}},
	} {
		if !slices.Contains(w.of, w.v) {
			bad(w.key, "%q is not one of %s", w.v, strings.Join(w.of, ", "))
		}
	}
	for _, r := range []struct {
		key        string
		v, lo, hi  int64
		zeroIsFine bool
	}{
		{"limits.header_bytes", int64(c.Limits.HeaderBytes), 1 << 10, 1 << 20, false},
		{"limits.uri_bytes", int64(c.Limits.URIBytes), 256, 64 << 10, false},
		{"limits.connections", c.Limits.Connections, 1, 1 << 20, false},
		{"limits.requests_in_flight", c.Limits.RequestsFlight, 1, 1 << 20, false},
		{"limits.validate_bytes", int64(c.Limits.ValidateBytes), 1 << 10, 64 << 20, false},
		{"events.max_bytes", int64(c.Events.MaxBytes), 16 << 20, 256 << 20, false},
		{"throttle.keys", c.Throttle.Keys, 1_000, 1_000_000, false},
		{"cache.tokens", c.Cache.Tokens, 1, 1_000_000, true},
		{"bundles.quota", int64(c.Bundles.Quota), 1 << 20, 256 << 20, false},
		{"memory.limit", int64(c.Memory.Limit), 32 << 20, 1 << 40, true},
		{"upstream.max_idle", c.Upstream.MaxIdle, 1, 65536, false},
		{"upstream.max_active", c.Upstream.MaxActive, 1, 65536, false},
		{"upstream.max_wait", c.Upstream.MaxWait, 1, 65536, true},
		{"log.access_memory", int64(c.Log.Memory), 64 << 10, 64 << 20, true},
		{"mqtt.piece_bytes", int64(c.MQTT.PieceBytes), 4 << 10, 64 << 10, false},
	} {
		if (r.v < r.lo || r.v > r.hi) && !(r.zeroIsFine && r.v == 0) {
			bad(r.key, "%d is not between %d and %d", r.v, r.lo, r.hi)
		}
	}
	if c.Log.PerDay != 0 && c.Log.Memory == 0 {
		bad("log.access_per_day", "it bounds what goes to standard output beside log.access_memory, which is 0")
	}
	if c.Log.Sample < 0 || c.Log.Sample > 1 {
		bad("log.sample", "%v is not between 0 and 1", c.Log.Sample)
	}
	if s := c.Events.Interval.Std(); s < 1e9 || s > 600e9 {
		bad("events.interval", "%v is not between 1s and 10m", s)
	}
	if s := c.Throttle.FlushEvery.Std(); s < 1e9 || s > 300e9 {
		bad("throttle.flush_every", "%v is not between 1s and 5m", s)
	}
	c.trusted = nil
	for _, t := range c.Listen.TrustedProxies {
		r, err := policy.ParseRange(t)
		if err != nil {
			bad("listen.trusted_proxies", "%v", err)
			continue
		}
		c.trusted = append(c.trusted, r)
	}
	return errs
}

// Override returns the override of a group by its name, exact or as the environment
// spells it.
func (c *Config) Override(name string) (Endpoint, bool) {
	if e, ok := c.Endpoints[name]; ok {
		return e, true
	}
	e, ok := c.Endpoints[EnvName(name)]
	return e, ok
}

// EnvName returns a group's name as it stands in variables: upper case, all but A–Z and
// 0–9 as "_".
func EnvName(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
}

// suggest returns `; did you mean "x"?` for the nearest key, if one is near.
func suggest(key string) string {
	return nearest(general(key), Keys())
}

func suggestVariable(name string) string {
	var all []string
	for _, k := range Keys() {
		all = append(all, variable(k))
	}
	return nearest(name, all)
}

func nearest(word string, words []string) string {
	best, at := len(word)/2+1, ""
	for _, w := range words {
		if d := distance(word, w); d < best {
			best, at = d, w
		}
	}
	if at == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", at)
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost = 1 + min(prev, row[j], row[j+1])
			}
			prev, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
