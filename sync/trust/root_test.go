package trust

import (
	"bytes"
	"reflect"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
)

func TestRootRoundTrip(t *testing.T) {
	r := root(9).with(func(r *Root) {
		r.Expires = built + 6*year
		r.Minimums = []Minimum{{Product: "a", Channel: "stable"}, {Product: "gate", Channel: "beta", Seq: 4}}
		r.Revoked = []Digest{{1}, {2}}
		r.Extensions = map[uint64][]byte{1: {0xff}}
		other := canon.AppendInt(canon.AppendInt(canon.AppendMap(nil, 1), 1), 7)
		mixed := keys(1, 20)
		mixed.Keys = append(mixed.Keys, Key{Name: "tomorrow", Other: other})
		r.Roles[RoleRelease] = mixed
		r.Roles[RoleNumber(3)] = Role{Epoch: 1, Threshold: 1, Keys: []Key{{Name: "site", Other: other}}}
	})
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRoot(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v, want %+v", got, r)
	}
	if k, ok := got.Keys(RoleRelease); !ok || k.Threshold() != 1 {
		t.Errorf("release: %v, %v", k, ok)
	}
	if _, ok := got.Keys(RoleNumber(4)); ok {
		t.Error("a role that the root does not have has keys")
	}
}

// TestRootRules writes roots past the checks of Marshal, as another program could.
func TestRootRules(t *testing.T) {
	twice := keys(1, 20, 20)
	seventeen := Role{Threshold: 1}
	for n := range 17 {
		seventeen.Keys = append(seventeen.Keys, Key{Public: signer(n).Public()})
	}
	threshold := func(n int) func(*Root) {
		return func(r *Root) { r.Roles[RoleRelease] = keys(n, 20, 21) }
	}
	onlyOther := Role{Threshold: 1, Keys: []Key{{Other: []byte{0xa1, 0x01, 0x07}}}}
	one := func(k Key) func(*Root) {
		return func(r *Root) { r.Roles[RoleRelease] = Role{Threshold: 1, Keys: []Key{k}} }
	}
	raw := func(b ...byte) func(*Root) { return one(Key{Other: b}) }
	goodKey := signer(1).Public()
	for _, v := range []struct {
		name   string
		change func(*Root)
		word   refusal.Word
		reason string
	}{
		{"as it should be", func(*Root) {}, "", ""},
		{"version 0", func(r *Root) { r.Version = 0 }, refusal.Root, "versions count from 1"},
		{"no root role", func(r *Root) { delete(r.Roles, RoleRoot) }, refusal.Root, "role root is missing"},
		{"no release role", func(r *Root) { delete(r.Roles, RoleRelease) }, refusal.Root, "role release is missing"},
		{"no time role", func(r *Root) { delete(r.Roles, RoleTime) }, "", ""},
		{"requires approvals", func(r *Root) { r.Requirements = []uint64{1} }, refusal.FormatVersion, "requires [1]"},
		{"requires what nobody knows", func(r *Root) { r.Requirements = []uint64{99} }, refusal.FormatVersion, "requires [99]"},
		{"B7 key twice", func(r *Root) { r.Roles[RoleRelease] = twice }, refusal.Root, "stands twice"},
		{"B8 threshold 0", threshold(0), refusal.Root, "threshold 0"},
		{"B8 threshold above keys", threshold(3), refusal.Root, "threshold 3 with 2"},
		{"B8 threshold negative", threshold(-1), refusal.Root, "threshold -1"},
		{"no keys", func(r *Root) { r.Roles[RoleRelease] = Role{Threshold: 1} }, refusal.Root, "0 keys"},
		{"17 keys", func(r *Root) { r.Roles[RoleRelease] = seventeen }, refusal.Root, "17 keys"},
		{"no usable key", func(r *Root) { r.Roles[RoleRelease] = onlyOther }, refusal.Root, "threshold 1 with 0 usable"},
		{"no usable key in an unknown role", func(r *Root) { r.Roles[RoleNumber(9)] = onlyOther }, "", ""},
		{"unknown role, threshold above keys", func(r *Root) { r.Roles[RoleNumber(9)] = keys(2, 1) }, refusal.Root, "threshold 2 with 1"},
		{"unknown role, key twice", func(r *Root) { r.Roles[RoleNumber(9)] = twice }, refusal.Root, "stands twice"},
		{"key of small order", one(Key{Public: envelope.PublicKey{1}}), refusal.Root, "small order"},
		{"key is no map", raw(0x80), refusal.Root, "not a map"},
		{"key without type", raw(0xa1, 0x20, 0x06), refusal.Root, "no key type"},
		{"key with text label", raw(0xa1, 0x61, 'a', 0x06), refusal.Root, "label is not an integer"},
		{"key with text value", raw(0xa1, 0x01, 0x61, 'a'), refusal.Root, "neither an integer nor bytes"},
		{"Ed25519 key without x", raw(0xa2, 0x01, 0x01, 0x20, 0x06), refusal.Root, "want 32 and 3"},
		{"Ed25519 key of 1 byte", raw(0xa3, 0x01, 0x01, 0x20, 0x06, 0x21, 0x41, 0x00), refusal.Root, "of 1 bytes"},
		{"Ed25519 key with a field more", raw(append([]byte{0xa4, 0x01, 0x01, 0x03, 0x27, 0x20, 0x06, 0x21, 0x58, 0x20}, goodKey[:]...)...), refusal.Root, "32 bytes and 4 fields"},
		{"minimums not sorted", func(r *Root) {
			r.Minimums = []Minimum{{Product: "gate", Channel: "b"}, {Product: "gate", Channel: "a"}}
		}, refusal.Root, "ascending"},
		{"minimum twice", func(r *Root) {
			r.Minimums = []Minimum{{Product: "gate", Channel: "a"}, {Product: "gate", Channel: "a", Seq: 1}}
		}, refusal.Root, "ascending"},
		{"minimum above the epoch", func(r *Root) { r.Minimums = []Minimum{{Product: "gate", Channel: "a", Epoch: 1}} }, refusal.Root, "above the release epoch"},
		{"minimum of no name", func(r *Root) { r.Minimums = []Minimum{{Product: "Gate", Channel: "a"}} }, refusal.Root, "not a name"},
		{"revoked not sorted", func(r *Root) { r.Revoked = []Digest{{2}, {1}} }, refusal.Root, "ascending"},
		{"revoked twice", func(r *Root) { r.Revoked = []Digest{{1}, {1}} }, refusal.Root, "ascending"},
	} {
		t.Run(v.name, func(t *testing.T) {
			_, err := ParseRoot(unchecked(t, root(3).with(v.change)))
			wantRefusal(t, err, v.word, v.reason)
			if _, err := root(3).with(v.change).Marshal(); (err == nil) != (v.word == "") {
				t.Errorf("Marshal: %v", err)
			}
		})
	}
}

// unchecked encodes a root without asking whether it is right.
func unchecked(t testing.TB, r *Root) []byte {
	t.Helper()
	b, err := canon.Marshal(r.wire())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRootForm(t *testing.T) {
	good := unchecked(t, root(3))
	if _, err := ParseRoot(good); err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		name    string
		payload []byte
		word    refusal.Word
		reason  string
	}{
		{"a manifest", object(t, Common{Type: "manifest", Domain: domain, Seq: 1}), refusal.Format, `type: payload is a "manifest"`},
		{"roles missing", object(t, Common{Type: "root", Domain: domain, Seq: 1}), refusal.Root, "field 30 is missing"},
		{"field too many", append(bytes.Replace(good, []byte{0xa6}, []byte{0xa7}, 1), 0x18, 0x64, 0x00), refusal.Root, "100"},
		{"cut", good[:len(good)-1], refusal.CBORCanon, "left"},
		{"a byte more", append(bytes.Clone(good), 0), refusal.CBORCanon, "more bytes"},
		{"empty", nil, refusal.CBORCanon, "byte 0"},
	} {
		t.Run(v.name, func(t *testing.T) {
			_, err := ParseRoot(v.payload)
			wantRefusal(t, err, v.word, v.reason)
		})
	}
	w := root(3).wire()
	w.Epoch = 1
	b, err := canon.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseRoot(b)
	wantRefusal(t, err, refusal.Root, "epoch 1 of its own")
}

func TestSortSets(t *testing.T) {
	r := root(1).with(func(r *Root) {
		r.Minimums = []Minimum{{Product: "gate", Channel: "stable"}, {Product: "gate", Channel: "beta"}, {Product: "b", Channel: "x"}}
		r.Revoked = []Digest{{3}, {1}, {2}}
	})
	r.SortSets()
	if _, err := r.Marshal(); err != nil {
		t.Error(err)
	}
	if r.Minimums[0].Product != "b" || r.Minimums[1].Channel != "beta" || r.Revoked[0] != (Digest{1}) {
		t.Errorf("sorted to %v, %v", r.Minimums, r.Revoked)
	}
}

func TestDeviceID(t *testing.T) {
	id := DeviceIDOf(signer(1).Public())
	text := id.String()
	if len(text) != 26 {
		t.Errorf("%q has %d characters, want 26", text, len(text))
	}
	for _, s := range []string{text, string(bytes.ToUpper([]byte(text)))} {
		if got, err := ParseDeviceID(s); err != nil || got != id {
			t.Errorf("ParseDeviceID(%q) = %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", text[:25], text + "a", "0" + text[1:], text[:25] + "9", text[:25] + "b"} {
		if got, err := ParseDeviceID(s); err == nil {
			t.Errorf("ParseDeviceID(%q) = %s, want it refused", s, got)
		}
	}
}

func FuzzParseRoot(f *testing.F) {
	f.Add(unchecked(f, root(1)))
	f.Add(unchecked(f, root(2).with(func(r *Root) {
		r.Minimums = []Minimum{{Product: "gate", Channel: "stable"}}
		r.Revoked = []Digest{{1}}
		r.Extensions = map[uint64][]byte{5: {1}}
		r.Roles[RoleNumber(9)] = Role{Threshold: 1, Keys: []Key{{Other: []byte{0xa1, 0x01, 0x07}}}}
	})))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRoot(b)
		if err != nil {
			if _, ok := refusal.Of(err); !ok {
				t.Fatalf("error without a word: %v", err)
			}
			return
		}
		again, err := r.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("parsed %x, encodes to %x, %v", b, again, err)
		}
		for _, n := range []RoleNumber{RoleRoot, RoleRelease} {
			if k, ok := r.Keys(n); !ok || k.Threshold() < 1 {
				t.Fatalf("role %s has no keys in %x", n, b)
			}
		}
	})
}
