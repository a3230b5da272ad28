package changes

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"tidegate/policy"
	"time"
)

// meters is a set as the sample project makes it.
func meters() *policy.Set {
	return &policy.Set{
		Format: policy.Format, Name: "meters",
		APIs: []policy.API{{
			Name: "meters", Version: "1.0", BasePath: "/meters/1.0", Production: 1,
			Schemes: []policy.Scheme{{Kind: policy.OAuth2}, {Kind: policy.APIKey, In: policy.InHeader, Name: "X-API-Key"}},
			Operations: []policy.Operation{
				{Method: "GET", Template: "/status"},
				{Method: "GET", Template: "/readings", Security: []policy.Alternative{{{Scheme: 0}}, {{Scheme: 1}}}, Plan: "5PerMin"},
			},
		}},
		Endpoints:     []policy.Endpoints{{Name: "meters", Targets: []policy.Target{{URL: "http://10.0.0.5"}}}},
		Plans:         []policy.Plan{{Kind: policy.ResourcePlan, Name: "5PerMin", Limit: policy.Limit{Count: 5, Window: time.Minute}}},
		Users:         []policy.User{{Name: "eva", Hash: "$argon2id$one"}},
		Applications:  []policy.Application{{ID: "1", Name: "till"}, {ID: "2", Name: "kiosk"}},
		Subscriptions: []policy.Subscription{{Application: "1", API: policy.APIID{Name: "meters", Version: "1.0"}}},
		APIKeys:       policy.APIKeys{Keys: []policy.HashedKey{{Hash: [32]byte{0xab, 0xcd, 0xef, 1}, Name: "till", Application: "1"}}},
		Revoked:       []policy.Revocation{{Kind: policy.RevokedID}},
	}
}

func TestChangesAreToldInTheWordsOfPeople(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(*policy.Set)
		want []string
	}{
		{"nothing", func(*policy.Set) {}, nil},
		{"an operation comes", func(s *policy.Set) {
			s.APIs[0].Operations = append(s.APIs[0].Operations, policy.Operation{Method: "POST", Template: "/alarms", Security: []policy.Alternative{{{Scheme: 0, Scopes: []string{"alarms"}}}}, Scopes: []string{"a", "b"}, Plan: "5PerMin"})
		}, []string{"+ operation POST /meters/1.0/alarms: token with alarms, scope a or b, plan 5PerMin"}},
		{"an operation goes", func(s *policy.Set) { s.APIs[0].Operations = s.APIs[0].Operations[1:] }, []string{"- operation GET /meters/1.0/status"}},
		{"the order of operations changes", func(s *policy.Set) { slices.Reverse(s.APIs[0].Operations) }, nil},
		{"an operation opens", func(s *policy.Set) { s.APIs[0].Operations[1].Security, s.APIs[0].Operations[1].Plan = nil, "" }, []string{
			"~ operation GET /meters/1.0/readings: credentials token or API key in header X-API-Key → open to all, plan 5PerMin → none",
		}},
		{"an API goes", func(s *policy.Set) { s.APIs, s.Subscriptions = nil, nil }, []string{
			"- API meters 1.0", "- operation GET /meters/1.0/status", "- operation GET /meters/1.0/readings", "- subscription till to meters 1.0",
		}},
		{"an API comes", func(s *policy.Set) {
			s.APIs = append(s.APIs, policy.API{Name: "tides", Version: "2", BasePath: "/tides", Production: 1, Operations: []policy.Operation{{Method: "GET", Template: "/now"}}})
		}, []string{"+ API tides 2: at /tides, backend meters", "+ operation GET /tides/now: open to all"}},
		{"an API moves", func(s *policy.Set) { s.APIs[0].BasePath = "/m" }, []string{"~ API meters 1.0: path /meters/1.0 → /m"}},
		{"a backend moves", func(s *policy.Set) { s.Endpoints[0].Targets[0].URL = "http://10.0.0.6" }, []string{"~ backend meters: addresses +http://10.0.0.6 -http://10.0.0.5"}},
		{"backends change places", func(s *policy.Set) { // the reference moves with the group
			s.Endpoints = append([]policy.Endpoints{{Name: "other", Targets: []policy.Target{{URL: "http://10.0.0.9"}}}}, s.Endpoints...)
			s.APIs[0].Production = 2
		}, []string{"+ backend other: http://10.0.0.9"}},
		{"a limit changes", func(s *policy.Set) { s.Plans[0].Limit = policy.Limit{Count: 10, Window: time.Hour} }, []string{"~ resource plan 5PerMin: limit 5 in 1m → 10 in 1h"}},
		{"plans come", func(s *policy.Set) {
			s.Plans = append(s.Plans, policy.Plan{Kind: policy.SubscriptionPlan, Name: "5PerMin", Limit: policy.Limit{Unit: policy.Bytes, Count: 1024, Window: 24 * time.Hour, Align: policy.CalendarDay, Zone: "Europe/Oslo"}, Burst: policy.Burst{Count: 2, Per: time.Second}})
		}, []string{"+ subscription plan 5PerMin: 1024 bytes in 24h of a calendar day in Europe/Oslo, burst 2 in 1s"}},
		{"a key of another application", func(s *policy.Set) { s.APIKeys.Keys[0].Application = "2" }, []string{"~ API key till (sha256 abcdef01…): application till → kiosk"}},
		{"a key is made anew", func(s *policy.Set) { s.APIKeys.Keys[0].Hash[0] = 0x11 }, []string{"+ API key till (sha256 11cdef01…): of till", "- API key till (sha256 abcdef01…)"}},
		{"a password", func(s *policy.Set) { s.Users[0].Hash = "$argon2id$two" }, []string{"~ user eva: password"}},
		{"a subscription is blocked", func(s *policy.Set) { s.Subscriptions[0].State = policy.Blocked }, []string{"~ subscription till to meters 1.0: state none → BLOCKED"}},
		{"an address is blocked", func(s *policy.Set) {
			s.Blocked = []policy.Block{{Kind: policy.BlockIP, Ranges: []policy.Range{{From: netip.MustParseAddr("10.1.0.0"), To: netip.MustParseAddr("10.1.255.255")}}}}
		}, []string{"+ block address 10.1.0.0-10.1.255.255"}},
		{"revocations", func(s *policy.Set) {
			s.Revoked = []policy.Revocation{{Kind: policy.RevokedID, Until: 9}, {Kind: policy.RevokedKey, Hash: [16]byte{1}}, {Kind: policy.RevokedKey, Hash: [16]byte{2}}, {Kind: policy.RevokedUser}}
		}, []string{"+ revocations: 1 of users, 2 of API keys", "~ revocations: 1 of token ids"}},
		{"the form of refusals", func(s *policy.Set) { s.Faults = policy.FaultsProblem }, []string{"~ settings: form of refusals wso2 → problem"}},
		{"something that has no word of its own", func(s *policy.Set) { s.Plans[0].When = []policy.Equation{{Variable: "appId", Value: "1"}} }, []string{"~ resource plan 5PerMin: other settings"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			to := meters()
			tc.edit(to)
			var got []string
			for _, c := range Between(meters(), to) {
				got = append(got, c.String())
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}

func TestTheFirstBundleBringsAllOfIt(t *testing.T) {
	for _, c := range Between(nil, meters()) {
		if c.How != Added {
			t.Errorf("%s: got %s, want %s", c, c.How, Added)
		}
	}
	for _, c := range Between(meters(), nil) {
		if c.How != Removed {
			t.Errorf("%s: got %s, want %s", c, c.How, Removed)
		}
	}
}

func TestNothingSecretIsTold(t *testing.T) {
	for _, c := range Between(nil, meters()) {
		if strings.Contains(fmt.Sprintf("%+v", c), "argon2id") {
			t.Errorf("a hash of a password is told: %s", c)
		}
	}
	to := meters()
	to.Users[0].Hash = "$argon2id$two"
	if got := fmt.Sprintf("%+v", Between(meters(), to)); strings.Contains(got, "argon2id") {
		t.Errorf("a hash of a password is told: %s", got)
	}
}

// A filler gives every field of a value a value of its own.
type filler struct{ n int }

func (f *filler) fill(v reflect.Value) {
	f.n++
	switch v.Type() {
	case reflect.TypeFor[policy.EndpointRef](), reflect.TypeFor[policy.SchemaRef]():
		v.SetUint(1)
		return
	case reflect.TypeFor[policy.Pos]():
		return
	case reflect.TypeFor[netip.Addr]():
		v.Set(reflect.ValueOf(netip.AddrFrom4([4]byte{10, 0, byte(f.n >> 8), byte(f.n)})))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("t", f.n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8:
		v.SetUint(1)
	case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(f.n%1000 + 2))
	case reflect.Int32, reflect.Int64:
		v.SetInt(int64(f.n%1000 + 2))
	case reflect.Float64:
		v.SetFloat(float64(f.n))
	case reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 { // a hash
			v.Index(0).SetUint(uint64(f.n % 256))
			return
		}
		for i := range v.Len() {
			f.fill(v.Index(i))
		}
	case reflect.Slice:
		n := 1
		switch v.Type().Elem() {
		case reflect.TypeFor[policy.Endpoints](), reflect.TypeFor[policy.Schema](), reflect.TypeFor[policy.Scheme]():
			n = 2 // what refers to one of them can refer to another
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			f.fill(v.Index(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type() == reflect.TypeFor[policy.Use]() && v.Type().Field(i).Name == "Scheme" {
				continue // an index: zero is one
			}
			f.fill(v.Field(i))
		}
	default:
		panic(v.Type())
	}
}

// leaves calls visit with each value inside of v that can be altered, and its path.
func leaves(v reflect.Value, path string, visit func(path string, v reflect.Value)) {
	if t := v.Type(); t == reflect.TypeFor[policy.Pos]() {
		return
	} else if t == reflect.TypeFor[netip.Addr]() {
		visit(path, v)
		return
	}
	switch v.Kind() {
	case reflect.Array, reflect.Slice:
		for i := range v.Len() {
			leaves(v.Index(i), fmt.Sprintf("%s[%d]", path, i), visit)
		}
		if v.Kind() == reflect.Slice {
			visit(path, v)
		}
	case reflect.Pointer:
		leaves(v.Elem(), path, visit)
		visit(path, v)
	case reflect.Struct:
		for i := range v.NumField() {
			leaves(v.Field(i), path+"."+v.Type().Field(i).Name, visit)
		}
	default:
		visit(path, v)
	}
}

// alter gives v another value.
func alter(v reflect.Value) {
	switch {
	case v.Type() == reflect.TypeFor[netip.Addr]():
		v.Set(reflect.ValueOf(netip.MustParseAddr("192.0.2.1")))
	case v.Kind() == reflect.String:
		v.SetString(v.String() + "x")
	case v.Kind() == reflect.Bool:
		v.SetBool(!v.Bool())
	case v.CanUint():
		v.SetUint(v.Uint() + 1)
	case v.CanInt():
		v.SetInt(v.Int() + 1)
	case v.CanFloat():
		v.SetFloat(v.Float() + 1)
	case v.Kind() == reflect.Slice, v.Kind() == reflect.Pointer:
		v.SetZero()
	default:
		panic(v.Type())
	}
}

// A field that somebody adds to a bundle tomorrow must not change unseen.
func TestNoFieldOfABundleChangesUnseen(t *testing.T) {
	full := func() *policy.Set {
		s := new(policy.Set)
		new(filler).fill(reflect.ValueOf(s).Elem())
		s.APIs[0].Schemes[1].Kind = policy.Basic
		return s
	}
	without := func(path string) bool {
		switch path {
		case ".Format", ".Name": // the manifest tells both
			return true
		case ".APIs", ".Schemas", ".Endpoints": // what refers to them would have nothing to refer to
			return true
		}
		return strings.HasSuffix(path, ".Schemes") || strings.HasPrefix(path, ".Schemas[1]") // nothing refers to the second
	}
	base := full()
	var paths []string
	leaves(reflect.ValueOf(full()).Elem(), "", func(path string, _ reflect.Value) { paths = append(paths, path) })
	if len(paths) < 250 {
		t.Fatalf("%d places to alter, which cannot be all", len(paths))
	}
	for _, p := range paths {
		if without(p) {
			continue
		}
		to := full()
		leaves(reflect.ValueOf(to).Elem(), "", func(path string, v reflect.Value) {
			if path == p {
				alter(v)
			}
		})
		if len(Between(base, to)) == 0 {
			t.Errorf("%s changes unseen", p)
		}
	}
	// Of two that change, neither hides the other: both are told, or "other settings" is.
	for _, first := range []string{".Plans[0].Limit.Count", ".APIs[0].Plan", ".APIs[0].Operations[0].Plan", ".Endpoints[0].Host", ".Issuers[0].Issuer", ".Applications[0].Owner", ".AuthHeader"} {
		object := first[:strings.LastIndex(first, ".")]
		object = strings.TrimSuffix(object, ".Limit")
		one := changed(t, full, first)
		for _, p := range paths {
			if without(p) || !strings.HasPrefix(p, object+".") || strings.HasPrefix(p, first) || strings.HasPrefix(first, p) || strings.Contains(p[len(object)+1:], "[") || strings.HasPrefix(p, ".Plans[0].Limit") {
				continue
			}
			both, alone := Between(base, changed(t, full, first, p)), Between(base, one)
			if fmt.Sprint(both) == fmt.Sprint(alone) {
				t.Errorf("%s changes unseen beside %s", p, first)
			}
		}
	}
	if got := Between(base, full()); len(got) != 0 {
		t.Errorf("the same set twice: %v", got)
	}
}

// changed returns a set in which what is at some paths is altered.
func changed(t *testing.T, full func() *policy.Set, paths ...string) *policy.Set {
	t.Helper()
	s, n := full(), 0
	leaves(reflect.ValueOf(s).Elem(), "", func(path string, v reflect.Value) {
		if slices.Contains(paths, path) {
			alter(v)
			n++
		}
	})
	if n != len(paths) {
		t.Fatalf("%d of %v are there", n, paths)
	}
	return s
}
