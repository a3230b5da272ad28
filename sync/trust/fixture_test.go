package trust

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
)

// Times of the tests, in seconds since 1970.
const (
	built = 1_700_000_000 // of the program
	day   = 24 * 3600
)

var domain = Domain{'f', 'l', 'e', 'e', 't'}

// signer returns test key n; the same key each time.
func signer(n int) envelope.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "trust test key %d", n))
	return envelope.PrivateKey(ed25519.NewKeyFromSeed(seed[:]))
}

func signers(n ...int) []envelope.Signer {
	var s []envelope.Signer
	for _, k := range n {
		s = append(s, signer(k))
	}
	return s
}

// keys returns a role of epoch 0 with the test keys.
func keys(threshold int, n ...int) Role {
	r := Role{Threshold: threshold}
	for _, k := range n {
		r.Keys = append(r.Keys, Key{Name: fmt.Sprint("key ", k), Public: signer(k).Public()})
	}
	return r
}

// root returns a good root: key 0 signs roots, keys 20 and 21 bundles (1 of 2), key
// 26 the time, key 27 acknowledgements.
func root(version uint64) *Root {
	return &Root{
		Domain: domain, Version: version, Issued: built + version*day,
		Roles: map[RoleNumber]Role{
			RoleRoot: keys(1, 0), RoleRelease: keys(1, 20, 21),
			RoleTime: keys(1, 26), RoleCollector: keys(1, 27),
		},
	}
}

// with returns a copy of r after the change.
func (r *Root) with(change func(*Root)) *Root {
	c := *r
	c.Roles = make(map[RoleNumber]Role, len(r.Roles))
	for n, role := range r.Roles {
		c.Roles[n] = role
	}
	change(&c)
	return &c
}

// epoch sets the epoch of a role.
func epoch(n RoleNumber, e uint64) func(*Root) {
	return func(r *Root) {
		role := r.Roles[n]
		role.Epoch = e
		r.Roles[n] = role
	}
}

// seal signs the root with the test keys.
func seal(t testing.TB, r *Root, by ...int) []byte {
	t.Helper()
	payload, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return sign(t, envelope.Root, payload, by...)
}

func sign(t testing.TB, kind envelope.Kind, payload []byte, by ...int) []byte {
	t.Helper()
	env, err := envelope.Sign(kind, payload, signers(by...)...)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// pinned returns a state with the root, signed by the test keys.
func pinned(t testing.TB, r *Root, by ...int) State {
	t.Helper()
	s, _, err := Pin(envelope.File(envelope.Root, seal(t, r, by...)), built)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// follow adds the root, signed by the test keys, and wants it accepted.
func follow(t testing.TB, s State, r *Root, by ...int) State {
	t.Helper()
	next, _, err := s.AddRoot(seal(t, r, by...))
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// record returns the stored form of the state and its roots, to compare states.
func record(t testing.TB, s State) string {
	t.Helper()
	b, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantRefusal wants err to carry the word and say the reason; no word means no error.
func wantRefusal(t *testing.T, err error, w refusal.Word, reason string) {
	t.Helper()
	switch {
	case w == "" && err != nil:
		t.Errorf("got %v, want it accepted", err)
	case w == "":
	case err == nil:
		t.Errorf("accepted, want %s: %s", w, reason)
	case !refusal.Is(err, w) || !strings.Contains(err.Error(), reason):
		got, _ := refusal.Of(err)
		t.Errorf("got %s: %v, want %s: %s", got, err, w, reason)
	}
}

// wantWarning wants exactly the warnings with the words.
func wantWarnings(t *testing.T, got Warnings, want ...refusal.Word) {
	t.Helper()
	var words []refusal.Word
	for _, w := range got {
		words = append(words, w.Word)
	}
	if fmt.Sprint(words) != fmt.Sprint(want) {
		t.Errorf("warnings %v, want %v", words, want)
	}
}

// object is the smallest payload there is: the common fields alone.
func object(t testing.TB, c Common) []byte {
	t.Helper()
	b, err := canon.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// offer returns a bundle that the device below takes.
func offer(seq uint64, content byte) Offer {
	return Offer{
		Digest: Digest{content}, Domain: domain, Product: "gate", Channel: "stable",
		Seq: seq, Issued: built + seq, Hardware: []string{"any"}, Selectors: []Selector{EveryDevice()},
	}
}

var device = Device{
	ID: DeviceID{1, 2, 3}, Product: "gate", Channel: "stable",
	Hardware: []string{"linux-arm64"}, Labels: []string{"north", "plant"}, Version: [3]uint64{1, 2, 3},
}
