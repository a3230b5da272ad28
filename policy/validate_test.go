package policy

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// sound returns a set without a fault, with one of everything.
func sound(t *testing.T) *Set {
	t.Helper()
	pub := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	everywhere, err := ParseRange("10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	return &Set{
		Format: Format,
		Name:   "quay-7",
		APIs: []API{{
			Name: "meters", Version: "1.0", BasePath: "/meters/1.0", DefaultPath: "/meters", Default: true,
			Schemes: []Scheme{{Kind: OAuth2}, {Kind: APIKey, In: InHeader, Name: "X-API-Key"}},
			Plans:   []string{"Gold"}, Production: 1, CORS: &CORS{Origins: []string{"https://panel.example"}},
			Operations: []Operation{
				{
					Method: "GET", Template: "/readings/{id}", Security: []Alternative{{{Scheme: 0}}, {{Scheme: 1}}}, Scopes: []string{"read"}, Plan: "Guarded", Request: 1,
					Access: &Access{Allow: []Range{everywhere}, Times: []Hours{{Days: 2, From: 6 * time.Hour, To: 22 * time.Hour, Zone: "Europe/Oslo"}}},
				},
				{Method: "POST", Template: "/readings", Edit: &Transform{RequestHeaders: []Edit{{Kind: EditSet, Name: "X-Site", Value: "7"}}}},
			},
			Pos: Pos{"apis/meters.yaml", 2},
		}},
		Endpoints: []Endpoints{{
			Name: "meters", Targets: []Target{{URL: "https://backend.example:9443/api?k=v"}}, TLS: "quay",
			Breaker: &Breaker{Window: time.Minute, Volume: 10, Share: 0.5, Reset: time.Second},
			Health:  &Health{Path: "/up", Interval: time.Second}, Auth: &BackendAuth{Kind: BackendBasic, Username: "u"},
		}},
		TLS:     []TLS{{Name: "quay", Pins: [][]byte{make([]byte, 32)}}},
		Schemas: []Schema{{Parameters: []Parameter{{Name: "id", In: InPath}}}},
		Plans: []Plan{
			{Kind: ResourcePlan, Name: "Guarded", Limit: Limit{Count: 100, Window: time.Minute}, Groups: []Group{{
				Conditions: []Condition{{Kind: OnIP, Ranges: []Range{everywhere}}, {Kind: OnHeader, Name: "X-Shift", Pattern: "^night$"}},
				Limit:      Limit{Count: 10, Window: time.Minute},
			}}},
			{Kind: SubscriptionPlan, Name: "Gold", Limit: Limit{Count: 5, Window: 24 * time.Hour, Align: CalendarDay, Zone: "Europe/Oslo"}, Burst: Burst{Count: 20, Per: time.Second}},
			{Kind: ApplicationPlan, Name: "50PerMin", Limit: Limit{Count: 50, Window: time.Minute}},
			{Kind: CustomPlan, Name: "One", Limit: Limit{Count: 50, Window: time.Minute}, KeyTemplate: "$userId:$apiContext/$customProperty.site", When: []Equation{{"userId", "x"}}},
		},
		Issuers:       []Issuer{{Name: "plant", Issuer: "https://login.example", Keys: []Key{{PKIX: der}}, Algorithms: []string{"EdDSA"}, SingleKey: true}},
		Users:         []User{{Name: "fitter", Hash: "@sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709", Plan: "Gold"}},
		APIKeys:       APIKeys{Keys: []HashedKey{{Name: "a", Application: "2"}, {Name: "b", Hash: [32]byte{1}, APIs: []APIID{{"meters", "*"}}}}},
		Applications:  []Application{{ID: "2", Name: "Tablet", Plan: "50PerMin", Keys: []ConsumerKey{{Key: "k1"}}}},
		Subscriptions: []Subscription{{Application: "2", API: APIID{"meters", "1.0"}, Plan: "Gold"}},
		Blocked:       []Block{{Kind: BlockIP, Ranges: []Range{everywhere}, Invert: true}, {Kind: BlockUser, Value: "guest"}},
		Revoked:       []Revocation{{Kind: RevokedID}, {Kind: RevokedID, Hash: [16]byte{1}}},
	}
}

func TestSoundSetHasNoFaults(t *testing.T) {
	if err := sound(t).Validate(); err != nil {
		t.Error(err)
	}
}

func TestFaults(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(*Set)
		want  string
	}{
		{"format", func(s *Set) { s.Format = 2 }, "bundle: format 2, want 1"},
		{"form of faults", func(s *Set) { s.Faults = 9 }, "unknown form of faults 9"},

		{"name", func(s *Set) { s.APIs[0].Name = "a\n" }, "the name (info.title) has a control character"},
		{"same API", func(s *Set) { s.APIs = append(s.APIs, s.APIs[0]) }, `apis/meters.yaml:2: API "meters" 1.0: defined twice, first in apis/meters.yaml:2`},
		{"two defaults", func(s *Set) {
			b := s.APIs[0]
			b.Version, b.BasePath = "2.0", "/meters/2.0"
			s.APIs = append(s.APIs, b)
		}, `API "meters" 2.0: its default path "/meters" is also answered by API "meters" 1.0 in apis/meters.yaml:2`},
		{"default over another base path", func(s *Set) {
			b := s.APIs[0]
			b.Name, b.BasePath, b.Default, b.DefaultPath = "other", "/meters", false, ""
			s.APIs = append(s.APIs, b)
		}, `its base path "/meters" is also that of API "meters" 1.0`},
		{"base path", func(s *Set) { s.APIs[0].BasePath = "meters/" }, `base path "meters/": want /segments`},
		{"base path with a parameter", func(s *Set) { s.APIs[0].BasePath = "/m/{id}" }, `base path "/m/{id}": want /segments`},
		{"default path", func(s *Set) { s.APIs[0].Default = false }, "a default path without being the default version"},
		{"host", func(s *Set) { s.APIs[0].Hosts = []string{"Quay:80"} }, `host "Quay:80": want a name in lower case`},
		{"header", func(s *Set) { s.APIs[0].AuthHeader = "X Auth" }, `header "X Auth" is not a name`},
		{"optional", func(s *Set) { s.APIs[0].Optional = true }, "mutual TLS is not mandatory: anybody could call"},
		{"mutual TLS", func(s *Set) { s.APIs[0].MutualTLS = MutualOptional }, "mutual TLS without any client certificates"},
		{"client authority", func(s *Set) { s.APIs[0].ClientCAs = []string{"x"} }, `unknown client authority "x"`},
		{"scheme", func(s *Set) { s.APIs[0].Schemes[1].Name = "" }, "an API key needs a place and a name"},
		{"header of a scheme", func(s *Set) { s.APIs[0].Schemes[1].Name = "a b" }, `"a b" is not a name of a header`},
		{"API plan", func(s *Set) { s.APIs[0].Plan = "Gold" }, `unknown plan "Gold"`},
		{"subscription plans", func(s *Set) { s.APIs[0].Plans = []string{"Guarded"} }, `unknown plan "Guarded"`},
		{"endpoint reference", func(s *Set) { s.APIs[0].Production = 2 }, "refers to endpoint 2 of 1"},
		{"no endpoint", func(s *Set) { s.APIs[0].Production = 0 }, "no endpoint: calls would have nowhere to go"},
		{"wildcard with credentials", func(s *Set) { s.APIs[0].CORS = &CORS{Origins: []string{"*"}, Credentials: true} }, `origin "*" with credentials`},
		{"no origin", func(s *Set) { s.APIs[0].CORS.Origins = nil }, "CORS without any origin"},
		{"cache", func(s *Set) { s.APIs[0].Cache = &Cache{} }, "a cache of 0 seconds"},

		{"method", func(s *Set) { s.APIs[0].Operations[0].Method = "get" }, `method "get" cannot be served`},
		{"CONNECT", func(s *Set) { s.APIs[0].Operations[0].Method = "CONNECT" }, `method "CONNECT" cannot be served`},
		{"template", func(s *Set) { s.APIs[0].Operations[0].Template = "/a/{b" }, `braces do not pair`},
		{"slash", func(s *Set) { s.APIs[0].Operations[0].Template = "/a/" }, `template "/a/" ends in a slash`},
		{"conflict", func(s *Set) {
			op := s.APIs[0].Operations[0]
			op.Template = "/readings/{other}"
			s.APIs[0].Operations = append(s.APIs[0].Operations, op)
		}, "GET /readings/{other}: conflicts with GET /readings/{id}"},
		{"empty alternative", func(s *Set) { s.APIs[0].Operations[0].Security = []Alternative{{}} }, "an alternative that asks for no credential"},
		{"scheme index", func(s *Set) { s.APIs[0].Operations[0].Security = []Alternative{{{Scheme: 2}}} }, "security refers to scheme 2 of 2"},
		{"scope", func(s *Set) { s.APIs[0].Operations[0].Scopes = []string{"a b"} }, `scope "a b"`},
		{"operation plan", func(s *Set) { s.APIs[0].Operations[0].Plan = "x" }, `GET /readings/{id}: unknown plan "x"`},
		{"two plans", func(s *Set) { s.APIs[0].Plan = "Guarded" }, `a plan "Guarded" beside that of the API`},
		{"schema reference", func(s *Set) { s.APIs[0].Operations[0].Response = 7 }, "refers to schema 7 of 1"},
		{"hours", func(s *Set) { s.APIs[0].Operations[0].Access.Times[0].To = 25 * time.Hour }, "hours: want days"},
		{"zone of hours", func(s *Set) { s.APIs[0].Operations[0].Access.Times[0].Zone = "Local" }, "zone Local means another time on each device"},
		{"range", func(s *Set) { s.APIs[0].Operations[0].Access.Deny = []Range{{}} }, "?-? is not a range"},
		{"mapped range", func(s *Set) {
			a := netip.MustParseAddr("::ffff:10.0.0.1")
			s.APIs[0].Operations[0].Access.Deny = []Range{{a, a}}
		}, "is not a range"},
		{"framing header", func(s *Set) { s.APIs[0].Operations[1].Edit.RequestHeaders[0].Name = "content-length" }, "the header content-length belongs to the gateway"},
		{"line break", func(s *Set) { s.APIs[0].Operations[1].Edit.RequestHeaders[0].Value = "a\r\nb" }, "the value of X-Site has a line break"},
		{"fixed status", func(s *Set) { s.APIs[0].Operations[1].Edit.Fixed = &Fixed{Status: 99} }, "a fixed answer with status 99"},
		{"pointer", func(s *Set) { s.APIs[0].Operations[1].Edit.DropFields = []string{"a"} }, `"a" is not a JSON pointer`},
		{"messages", func(s *Set) { s.APIs[0].Operations[0].Messages = &Messages{Bytes: -1} }, "negative limits of messages"},
		{"parameter", func(s *Set) { s.Schemas[0].Parameters[0].In = 0 }, "a parameter without a place"},

		{"endpoint twice", func(s *Set) { s.Endpoints = append(s.Endpoints, s.Endpoints[0]) }, `endpoint "meters": defined twice`},
		{"no targets", func(s *Set) { s.Endpoints[0].Targets = nil }, "no targets"},
		{"target", func(s *Set) { s.Endpoints[0].Targets[0].URL = "ftp://x" }, `target "ftp://x": want http or https`},
		{"TLS profile", func(s *Set) { s.Endpoints[0].TLS = "x" }, `unknown TLS profile "x"`},
		{"timeouts", func(s *Set) { s.Endpoints[0].Timeout, s.Endpoints[0].Overall = time.Minute, time.Second }, "contradicts itself: a try may take 1m0s"},
		{"retries", func(s *Set) { s.Endpoints[0].Retry.Count = 11 }, "11 more tries"},
		{"status", func(s *Set) { s.Endpoints[0].Retry.Statuses = []uint16{42} }, "42 is not a status"},
		{"breaker window", func(s *Set) { s.Endpoints[0].Breaker.Window = 0 }, "breaker: a window of 0s"},
		{"breaker buckets", func(s *Set) { s.Endpoints[0].Breaker.Bucket = time.Nanosecond }, "buckets: want at most 1000"},
		{"breaker share", func(s *Set) { s.Endpoints[0].Breaker.Share = 2 }, "breaker: a share of 2"},
		{"breaker volume", func(s *Set) { s.Endpoints[0].Breaker.Volume = 0 }, "opens without having seen a call"},
		{"health", func(s *Set) { s.Endpoints[0].Health.Path = "up" }, `health: the path "up"`},
		{"ejection", func(s *Set) { s.Endpoints[0].Eject = &Ejection{} }, "eject: want failures"},
		{"proxy", func(s *Set) { s.Endpoints[0].Proxy = "socks5://x" }, "is not an http URL"},
		{"credential", func(s *Set) { s.Endpoints[0].Auth.Kind = 0 }, "credential: unknown kind 0"},
		{"token URL", func(s *Set) { s.Endpoints[0].Auth.Kind = BackendOAuth2 }, "credential: token URL"},
		{"TLS version", func(s *Set) { s.TLS[0].MinVersion = 0x301 }, "TLS version 0x301"},
		{"pin", func(s *Set) { s.TLS[0].Pins[0] = nil }, "a pin of 0 bytes"},
		{"CA", func(s *Set) { s.TLS[0].CAs = [][]byte{{1}} }, "certificate 1 does not parse"},
		{"half a client certificate", func(s *Set) { s.TLS[0].ClientKey = "x" }, "come together"},
		{"name of nobody", func(s *Set) { s.TLS[0].AnyName, s.TLS[0].ServerName = true, "x" }, "contradicts itself: a server name"},

		{"plan kind", func(s *Set) { s.Plans[0].Kind = 9 }, `plan "Guarded": unknown kind 9`},
		{"plan twice", func(s *Set) { s.Plans = append(s.Plans, s.Plans[0]) }, "defined twice in resourcePolicies"},
		{"Unlimited", func(s *Set) { s.Plans[0].Name = "unlimited" }, "Unlimited cannot be defined"},
		{"negative count", func(s *Set) { s.Plans[0].Limit.Count = -1 }, "a count of -1"},
		{"count that overflows", func(s *Set) { s.Plans[0].Limit.Count = 1 << 62 }, "is more than can be counted"},
		{"count without a window", func(s *Set) { s.Plans[0].Limit.Window = 0 }, "a count of 100 without a window"},
		{"fraction of a second", func(s *Set) { s.Plans[0].Limit.Window = time.Second / 2 }, "a window of 500ms: want whole seconds"},
		{"negative window", func(s *Set) { s.Plans[0].Limit.Window = -time.Second }, "a window of -1s"},
		{"endless window", func(s *Set) { s.Plans[0].Limit.Window = 1 << 62 / time.Second * time.Second }, "longer than ten years"},
		{"calendar", func(s *Set) { s.Plans[1].Limit.Window = time.Hour }, "cannot follow the calendar"},
		{"zone", func(s *Set) { s.Plans[1].Limit.Zone = "Mars/Olympus" }, `zone "Mars/Olympus" does not load`},
		{"zone for nothing", func(s *Set) { s.Plans[0].Limit.Zone = "UTC" }, "has no effect on a window"},
		{"burst of nothing", func(s *Set) { s.Plans[1].Burst.Count = 0 }, "a burst of 0 never admits a call"},
		{"burst per nothing", func(s *Set) { s.Plans[1].Burst.Per = 0 }, "a burst per 0s"},
		{"burst that divides to zero", func(s *Set) { s.Plans[1].Burst = Burst{Count: 10, Per: 5} }, "more than one call a nanosecond"},
		{"contradiction", func(s *Set) { s.Plans[1].Soft, s.Plans[1].OnFailure = true, FailClosed }, "contradicts itself"},
		{"nothing limited", func(s *Set) { s.Plans[2].Limit = Limit{} }, "limits nothing"},
		{"limit that is not there", func(s *Set) { s.Plans[2].Limit, s.Plans[2].Concurrent, s.Plans[2].Soft = Limit{}, 1, true }, "a limit that it does not have"},
		{"group without conditions", func(s *Set) { s.Plans[0].Groups[0].Conditions = nil }, "group 1: no conditions"},
		{"group without a limit", func(s *Set) { s.Plans[0].Groups[0].Limit = Limit{} }, "group 1: no limit"},
		{"pattern", func(s *Set) { s.Plans[0].Groups[0].Conditions[1].Pattern = "(?!x)" }, `pattern "(?!x)" does not compile`},
		{"condition of nothing", func(s *Set) { s.Plans[0].Groups[0].Conditions[1].Name = "" }, "a condition without a name"},
		{"no key template", func(s *Set) { s.Plans[3].KeyTemplate = "" }, "keyTemplate is missing"},
		{"variable", func(s *Set) { s.Plans[3].KeyTemplate = "$user" }, `unknown variable "$user"`},
		{"variable compared", func(s *Set) { s.Plans[3].When[0].Variable = "x" }, `unknown variable "x"`},
		{"template of no custom plan", func(s *Set) { s.Plans[0].KeyTemplate = "$userId" }, "belong to custom plans"},

		{"issuer", func(s *Set) { s.Issuers[0].Issuer = "" }, "the text of the claim iss, is missing"},
		{"issuer twice", func(s *Set) {
			s.Issuers = append(s.Issuers, s.Issuers[0])
			s.Issuers[1].Name = "x"
		}, `the claim iss "https://login.example" belongs to two issuers`},
		{"no algorithms", func(s *Set) { s.Issuers[0].Algorithms = nil }, "no algorithms"},
		{"none", func(s *Set) { s.Issuers[0].Algorithms = []string{"none"} }, `algorithm "none" is not allowed`},
		{"HMAC", func(s *Set) { s.Issuers[0].Algorithms = []string{"HS256"} }, `algorithm "HS256" is not allowed`},
		{"algorithm without a key", func(s *Set) { s.Issuers[0].Algorithms = []string{"EdDSA", "ES256"} }, "algorithm ES256 has no key"},
		{"no keys", func(s *Set) { s.Issuers[0].Keys, s.Issuers[0].SingleKey = nil, false }, "no keys: no token of it could be verified"},
		{"broken key", func(s *Set) { s.Issuers[0].Keys[0].PKIX = []byte{1} }, "key 1: does not parse"},
		{"key of another algorithm", func(s *Set) { s.Issuers[0].Keys[0].Algorithm = "RS256" }, "key 1: cannot verify RS256"},
		{"leeway", func(s *Set) { s.Issuers[0].Leeway = 61 }, "a leeway of 61 s"},
		{"grace", func(s *Set) { s.Issuers[0].Unproven = UnprovenGrace }, "needs its length"},
		{"introspection", func(s *Set) { s.Introspection = &Introspection{URL: "x"} }, "introspection: url"},
		{"backend JWT", func(s *Set) { s.BackendJWT = &BackendJWT{Enabled: true, Algorithm: "none", Key: "k"} }, `backend_jwt: algorithm "none"`},
		{"user", func(s *Set) { s.Users[0].Name = "a:b" }, "a name with a colon cannot log in"},
		{"hash", func(s *Set) { s.Users[0].Hash = "secret" }, "the hash is of no known form"},
		{"authority", func(s *Set) { s.ClientCAs = []ClientCA{{Name: "a"}} }, `client authority "a": no certificates`},

		{"application twice", func(s *Set) { s.Applications = append(s.Applications, s.Applications[0]) }, `application "2": defined twice`},
		{"application plan", func(s *Set) { s.Applications[0].Plan = "Gold" }, `application "2": unknown plan "Gold"`},
		{"consumer key twice", func(s *Set) {
			s.Applications = append(s.Applications, Application{ID: "3", Name: "x", Keys: []ConsumerKey{{Key: "k1"}}})
		}, `the consumer key "k1" also belongs to application "2"`},
		{"subscriber", func(s *Set) { s.Subscriptions[0].Application = "9" }, `unknown application "9"`},
		{"subscribed API", func(s *Set) { s.Subscriptions[0].API.Version = "9" }, `unknown API "meters" 9`},
		{"plan that the API does not allow", func(s *Set) {
			s.Plans = append(s.Plans, Plan{Kind: SubscriptionPlan, Name: "Silver", Limit: Limit{Count: 1, Window: time.Second}})
			s.Subscriptions[0].Plan = "Silver"
		}, `the API may not be subscribed under the plan "Silver"`},
		{"subscription twice", func(s *Set) { s.Subscriptions = append(s.Subscriptions, s.Subscriptions[0]) }, "given twice"},
		{"key order", func(s *Set) { s.APIKeys.Keys[1].Hash = [32]byte{} }, "given twice, or not in order"},
		{"application of a key", func(s *Set) { s.APIKeys.Keys[0].Application = "9" }, `API key "a": unknown application "9"`},
		{"API of a key", func(s *Set) { s.APIKeys.Keys[1].APIs[0].Name = "x" }, `API key "b": unknown API "x" *`},
		{"block", func(s *Set) { s.Blocked[1].Kind = 0 }, "block condition 2: unknown kind 0"},
		{"inverted user", func(s *Set) { s.Blocked[1].Invert = true }, "only conditions on addresses can be inverted"},
		{"inverted everything", func(s *Set) { s.Blocked[0].Ranges = []Range{mustRange("0.0.0.0/0")} }, "it blocks nobody"},
		{"application without owner", func(s *Set) { s.Blocked[1] = Block{Kind: BlockApplication, Value: "x"} }, `"x": want owner:application`},
		{"revocation order", func(s *Set) { s.Revoked[1].Hash = [16]byte{} }, "not ascending, or one of them twice"},
		{"revocation kind", func(s *Set) { s.Revoked[1].Kind = 99 }, "unknown kind 99"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := sound(t)
			tt.spoil(s)
			err := s.Validate()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func mustRange(s string) Range {
	r, err := ParseRange(s)
	if err != nil {
		panic(err)
	}
	return r
}

func TestValidateReportsEveryFault(t *testing.T) {
	s := sound(t)
	s.APIs[0].Operations[0].Plan = "Silver"
	s.Plans[1].Limit.Count = -1
	s.Endpoints[0].Targets[0].URL = "x"
	s.Users[0].Hash = "x"
	err := s.Validate()
	var many interface{ Unwrap() []error }
	if !errors.As(err, &many) || len(many.Unwrap()) != 4 {
		t.Fatalf("got %v, want four faults", err)
	}
	for _, e := range many.Unwrap() {
		var f *Fault
		if !errors.As(e, &f) || f.Object == "" || f.Message == "" {
			t.Errorf("%v is no fault with an object", e)
		}
	}
}

func TestFaultsTellTheirPlace(t *testing.T) {
	for _, tt := range []struct {
		fault Fault
		want  string
	}{
		{Fault{Message: "m"}, "m"},
		{Fault{Object: "o", Message: "m"}, "o: m"},
		{Fault{Pos: Pos{"f", 0}, Object: "o", Message: "m"}, "f: o: m"},
		{Fault{Pos: Pos{"f", 3}, Object: "o", Message: "m"}, "f:3: o: m"},
	} {
		if got := tt.fault.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
