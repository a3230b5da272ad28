package envelope

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
)

// signer returns test key n; the same key each time.
func signer(n int) PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "envelope test key %d", n))
	return PrivateKey(ed25519.NewKeyFromSeed(seed[:]))
}

// role returns the keys of a role with a threshold.
func role(t testing.TB, threshold int, keys ...int) Keys {
	t.Helper()
	var public []PublicKey
	for _, n := range keys {
		public = append(public, signer(n).Public())
	}
	k, err := NewKeys("release", threshold, public...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// entry is one signature of a hand-made message, each part as raw bytes.
type entry struct {
	protected, unprotected, signature []byte
}

// message is a hand-made message, each part as raw bytes.
type message struct {
	tag, body, unprotected, payload []byte
	entries                         []entry
}

var payload = []byte{0xa1, 0x01, 0x68, 'm', 'a', 'n', 'i', 'f', 'e', 's', 't'}

// good returns a message as Sign makes it, in parts.
func good(signers ...int) message {
	m := message{
		tag:         []byte{0xd8, 0x62},
		body:        canon.AppendBytes(nil, Manifest.protected()),
		unprotected: []byte{0xa0},
		payload:     canon.AppendBytes(nil, payload),
	}
	for _, n := range signers {
		m.entries = append(m.entries, signedWith(n, header(-8, signer(n).Public())))
	}
	return m
}

// header returns {1: alg, 4: kid}.
func header(alg int64, pub PublicKey) []byte {
	id := pub.ID()
	b := canon.AppendInt(canon.AppendUint(canon.AppendMap(nil, 2), 1), alg)
	return canon.AppendBytes(canon.AppendUint(b, 4), id[:])
}

// signedWith returns a true signature of the payload under the given header.
func signedWith(n int, protected []byte) entry {
	sig, _ := signer(n).Sign(toBeSigned(Manifest, protected, payload))
	return entry{canon.AppendBytes(nil, protected), []byte{0xa0}, canon.AppendBytes(nil, sig)}
}

func (m message) bytes() []byte {
	b := slices.Concat(m.tag, canon.AppendArray(nil, 4), m.body, m.unprotected, m.payload, canon.AppendArray(nil, len(m.entries)))
	for _, e := range m.entries {
		b = slices.Concat(b, canon.AppendArray(nil, 3), e.protected, e.unprotected, e.signature)
	}
	return b
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
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

func TestHandMadeIsWhatSignMakes(t *testing.T) {
	want, err := Sign(Manifest, payload, signer(1), signer(2))
	if err != nil {
		t.Fatal(err)
	}
	if got := good(1, 2).bytes(); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestForm(t *testing.T) {
	bstr := func(h string) []byte { return canon.AppendBytes(nil, unhex(t, h)) }
	many := func(n int) func(*message) {
		return func(m *message) {
			m.entries = nil
			for i := range n {
				m.entries = append(m.entries, signedWith(i, header(-8, signer(i).Public())))
			}
		}
	}
	for _, v := range []struct {
		id, name string
		break_   func(*message)
		word     refusal.Word
		reason   string
	}{
		{"", "as it should be", func(*message) {}, "", ""},
		{"A12", "no tag", func(m *message) { m.tag = nil }, refusal.Format, "cose: no tag"},
		{"A12", "tag 18", func(m *message) { m.tag = unhex(t, "d2") }, refusal.Format, "cose: tag 18"},
		{"A12", "tag 17", func(m *message) { m.tag = unhex(t, "d1") }, refusal.Format, "cose: tag 17"},
		{"A12", "tag twice", func(m *message) { m.tag = unhex(t, "d862d862") }, refusal.Format, "cose: a second tag"},
		{"A14", "body header bare map", func(m *message) { m.body = Manifest.protected() }, refusal.Format, "cose: protected header of the body is not a byte string"},
		{"A14", "body header empty", func(m *message) { m.body = bstr("") }, refusal.Format, "cose: protected header"},
		{"A14", "body header empty map", func(m *message) { m.body = bstr("a0") }, refusal.Format, "cose: protected header is not a map with something in it"},
		{"A14", "body header not canonical", func(m *message) { m.body = bstr("a1180360") }, refusal.Format, "shortest"},
		{"A14", "body header with alg", func(m *message) { m.body = bstr("a201270360") }, refusal.Format, "more or other"},
		{"A14", "body unprotected", func(m *message) { m.unprotected = unhex(t, "a10127") }, refusal.Format, "unprotected header of the body"},
		{"A14", "signature unprotected kid", func(m *message) { m.entries[0].unprotected = unhex(t, "a1044101") }, refusal.Format, "unprotected header"},
		{"A14", "signature header bare map", func(m *message) { m.entries[0].protected = unhex(t, "a10127") }, refusal.Format, "not a byte string"},
		{"A14", "signature header empty", func(m *message) { m.entries[0].protected = bstr("") }, refusal.Format, "protected header"},
		{"A14", "signature header empty map", func(m *message) { m.entries[0].protected = bstr("a0") }, refusal.Format, "not a map with something in it"},
		{"A14", "crit, known", func(m *message) { m.entries[0].protected = bstr("a2012702 8101") }, refusal.Format, "other than alg and kid"},
		{"A14", "crit, unknown", func(m *message) { m.entries[0].protected = bstr("a2012702 811903e7") }, refusal.Format, "other than alg and kid"},
		{"A14", "crit, empty", func(m *message) { m.entries[0].protected = bstr("a201270280") }, refusal.Format, "other than alg and kid"},
		{"A14", "crit in the body", func(m *message) { m.body = bstr("a202810303 60") }, refusal.Format, "more or other"},
		{"A14", "x5chain", func(m *message) { m.entries[0].protected = bstr("a2012718214100") }, refusal.Format, "other than alg and kid"},
		{"A14", "text label", func(m *message) { m.entries[0].protected = bstr("a1616100") }, refusal.Format, "other than alg and kid"},
		{"A14", "alg as bytes", func(m *message) { m.entries[0].protected = bstr("a1014127") }, refusal.Format, "alg is neither"},
		{"A14", "kid as text", func(m *message) { m.entries[0].protected = bstr("a1046131") }, refusal.Format, "kid is not"},
		{"A15", "0 signatures", many(0), refusal.SigNone, "manifest is not signed"},
		{"A15", "16 signatures", many(16), "", ""},
		{"A15", "17 signatures", many(17), refusal.Limit, "17 signatures, at most 16"},
		{"", "signature of 8 KiB", func(m *message) { m.entries[0].signature = canon.AppendBytes(nil, make([]byte, 8192)) }, "", ""},
		{"", "signature above 8 KiB", func(m *message) { m.entries[0].signature = canon.AppendBytes(nil, make([]byte, 8193)) }, refusal.Limit, "signature 1: 8193 bytes"},
		{"", "signature as text", func(m *message) { m.entries[0].signature = []byte{0x60} }, refusal.Format, "signature is not a byte string"},
		{"", "payload detached", func(m *message) { m.payload = []byte{0xf6} }, refusal.CBORCanon, "simple values"},
		{"", "payload as text", func(m *message) { m.payload = []byte{0x60} }, refusal.Format, "payload is not a byte string"},
		{"", "payload above 1 MiB", func(m *message) { m.payload = canon.AppendBytes(nil, make([]byte, 1<<20+1)) }, refusal.Limit, "payload of 1048577 bytes"},
		{"", "signature by the same key twice", func(m *message) { m.entries = append(m.entries, m.entries[0]) }, refusal.Format, "signatures 1 and 2 name the same key"},
		{"", "unknown key twice", func(m *message) {
			m.entries = append(m.entries, entry{bstr("a2012704414f"), []byte{0xa0}, bstr("00")}, entry{bstr("a2012704414f"), []byte{0xa0}, bstr("01")})
		}, refusal.Format, "signatures 2 and 3 name the same key"},
		{"A17", "root for manifest", func(m *message) { m.body = canon.AppendBytes(nil, Root.protected()) }, refusal.Format, `type: content type is "application/vnd.tidegate.root+cbor"`},
		{"", "content type as number", func(m *message) { m.body = bstr("a10300") }, refusal.Format, "more or other"},
		{"A5", "long head", func(m *message) { m.tag = unhex(t, "d90062") }, refusal.CBORCanon, "byte 0"},
	} {
		t.Run(strings.TrimSpace(v.id+" "+v.name), func(t *testing.T) {
			m := good(1)
			v.break_(&m)
			_, err := Parse(m.bytes(), Manifest)
			wantRefusal(t, err, v.word, v.reason)
		})
	}
	t.Run("array of 3", func(t *testing.T) {
		_, err := Parse(unhex(t, "d862 83 40 a0 40"), Manifest)
		wantRefusal(t, err, refusal.Format, "cose: want an array of 4")
	})
	t.Run("a byte more", func(t *testing.T) {
		_, err := Parse(append(good(1).bytes(), 0), Manifest)
		wantRefusal(t, err, refusal.CBORCanon, "more bytes")
	})
}

// TestB16CoseWG runs the published sign and sign1 examples, passing and failing ones:
// none is of our profile, each is refused for its form.
func TestB16CoseWG(t *testing.T) {
	f, err := os.Open("testdata/cose-wg.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		v := strings.Split(s.Text(), " | ")
		n++
		t.Run(v[0], func(t *testing.T) {
			_, err := Parse(unhex(t, v[3]), Manifest)
			wantRefusal(t, err, refusal.Word(v[1]), v[2])
		})
	}
	if n != 27 {
		t.Errorf("%d examples, want 27", n)
	}
}

// TestSigStructure takes Ed25519 example eddsa-01 of cose-wg/Examples, whose form we
// refuse, as proof of the bytes that we sign.
func TestSigStructure(t *testing.T) {
	got := sigStructure(unhex(t, "a10300"), unhex(t, "a10127"), nil, []byte("This is the content."))
	want := unhex(t, "85695369676e617475726543a1030043a101274054546869732069732074686520636f6e74656e742e")
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	key := unhex(t, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
	sig := unhex(t, "77f3eacd11852c4bf9cb1d72fabe6b26fba1d76092b2b5b7ec83b83557652264e69690dbc1172ddc0bf88411c0d25a507fdb247a20c40d5e245fabd3fc9ec106")
	if !ed25519.Verify(key, got, sig) {
		t.Error("published signature does not verify over our bytes")
	}
}

func TestNamed(t *testing.T) {
	m := good(2, 1)
	m.entries = append(m.entries, signedWith(3, unhex(t, "a10127"))) // names no key
	p, err := Parse(m.bytes(), Manifest)
	if err != nil {
		t.Fatal(err)
	}
	want := []KeyID{signer(2).Public().ID(), signer(1).Public().ID()}
	if got := p.Named(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestTBSNamesKindThreeTimes(t *testing.T) {
	pub := signer(1).Public()
	if bytes.Equal(TBS(Manifest, payload, pub), TBS(Root, payload, pub)) {
		t.Error("a manifest and a root of the same payload are signed alike")
	}
	tbs := TBS(Manifest, payload, pub)
	for _, part := range []string{"application/vnd.tidegate.manifest+cbor", "tidegate/manifest/v1"} {
		if !bytes.Contains(tbs, []byte(part)) {
			t.Errorf("%q is not signed", part)
		}
	}
	if err := canon.Check(tbs, canon.Within(1<<10)); err != nil {
		t.Error(err)
	}
}

func TestFiles(t *testing.T) {
	one, two := good(1).bytes(), good(2).bytes()
	read := func(kind Kind, b []byte) ([][]byte, error) { return ReadFile(kind, bytes.NewReader(b)) }

	got, err := read(Root, File(Root, one, two))
	if err != nil || len(got) != 2 || !bytes.Equal(got[0], one) || !bytes.Equal(got[1], two) {
		t.Errorf("two roots: got %d, %v", len(got), err)
	}
	if got, err := read(Device, File(Device, one)); err != nil || len(got) != 1 || !bytes.Equal(got[0], one) {
		t.Errorf("one enrolment: got %d, %v", len(got), err)
	}
	_, err = read(Device, File(Device, one, two))
	wantRefusal(t, err, refusal.Trailing, "more bytes after the device")
	_, err = read(Root, File(Root))
	wantRefusal(t, err, refusal.Truncated, "before the first root")
	_, err = read(Root, File(Device, one))
	wantRefusal(t, err, refusal.Format, "magic: a tide-device file, want tide-root")
	_, err = read(Root, File(Root, make([]byte, MaxRoot+1)))
	wantRefusal(t, err, refusal.Limit, "root of 16385 bytes")
	_, err = read(Root, File(Root, slices.Repeat([][]byte{one}, 33)...))
	wantRefusal(t, err, refusal.Limit, "more than 32 roots")
	whole := File(Root, one)
	_, err = read(Root, whole[:len(whole)-1])
	wantRefusal(t, err, refusal.Truncated, "inside a byte string")
}

func FuzzParse(f *testing.F) {
	f.Add(good(1).bytes())
	f.Add(good(1, 2, 3).bytes())
	f.Add([]byte{0xd8, 0x62, 0x84})
	keys := role(f, 2, 1, 2, 3)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b, Manifest)
		if err != nil {
			if _, ok := refusal.Of(err); !ok {
				t.Fatalf("error without a word: %v", err)
			}
			return
		}
		again, err := m.encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("parsed %x, encodes to %x, %v", b, again, err)
		}
		if c, err := m.Verify(keys); err == nil && !bytes.Equal(m.Payload, payload) {
			t.Fatalf("%v signed %x, which no key ever did", c.Signers, m.Payload)
		}
	})
}
