package canon

import (
	"bytes"
	"math"
	"reflect"
	"testing"
	"tidegate/policy/refusal"
)

type inner struct {
	_    struct{} `cbor:",toarray"`
	Name string
	Sum  [4]byte
}

type outer struct {
	Kind  string            `cbor:"1,keyasint"`
	Count uint64            `cbor:"2,keyasint"`
	Parts []inner           `cbor:"3,keyasint"`
	Note  string            `cbor:"4,keyasint,omitempty"`
	More  map[uint64][]byte `cbor:"99,keyasint,omitempty"`
}

func TestMarshalRoundTrip(t *testing.T) {
	in := outer{
		Kind: "x", Count: math.MaxUint64,
		Parts: []inner{{Name: "a", Sum: [4]byte{1, 2, 3, 4}}},
		More:  map[uint64][]byte{300: {1}, 2: {2}},
	}
	b, err := Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	want := unhex(t, "a4016178021bffffffffffffffff038182616144010203041863a202410219012c4101")
	if !bytes.Equal(b, want) {
		t.Errorf("got %x, want %x", b, want)
	}
	var out outer
	if err := Unmarshal(b, &out, Within(100)); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, out) {
		t.Errorf("got %+v, want %+v", out, in)
	}
}

func TestMarshalKeepsTheProfile(t *testing.T) {
	for _, v := range []any{1.5, math.NaN(), nil, (*int)(nil), "\xff", map[bool]int{true: 1}, Raw{0x18, 0x01}, Raw{0xd8, 0x62, 0x80}} {
		if b, err := Marshal(v); err == nil {
			t.Errorf("Marshal(%#v) = %x, want an error", v, b)
		}
	}
	b, err := Marshal(struct {
		List []int `cbor:"1,keyasint"`
	}{})
	if err != nil || !bytes.Equal(b, []byte{0xa1, 1, 0x80}) {
		t.Errorf("nil slice: got %x, %v, want an empty array", b, err)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	for _, v := range []struct {
		name, hex string
		word      refusal.Word
		reason    string
	}{
		{"as it should be", "a3016178020103 80", "", ""},
		{"not canonical", "a3016178021801 0380", refusal.CBORCanon, "shortest"},
		{"unknown field", "a4016178020103800500", refusal.Format, "field 5, or pair 4 of a map inside, is unknown"},
		{"field missing", "a201617802 01", refusal.Format, "field 3 is missing"},
		{"first field missing", "a202010380", refusal.Format, "field 1 is missing"},
		{"optional field empty", "a40161780201038004 60", refusal.Format, "field 4 is empty"},
		{"wrong type", "a30100020103 80", refusal.Format, "field"},
		{"negative for unsigned", "a3016178022003 80", refusal.Format, "field"},
		{"fixed bytes too short", "a30161780201038182616143010203", refusal.Format, "field 3 has a part"},
		{"fixed bytes too long", "a30161780201038182616145 0102030405", refusal.Format, "field 3 has a part"},
		{"bytes for text", "a30141780201 0380", refusal.Format, "field"},
		{"array too short", "a3016178020103818161 61", refusal.Format, "field"},
		{"no map", "80", refusal.Format, "field"},
	} {
		t.Run(v.name, func(t *testing.T) {
			var out outer
			b := unhex(t, string(bytes.ReplaceAll([]byte(v.hex), []byte(" "), nil)))
			wantRefusal(t, Unmarshal(b, &out, Within(100)), v.word, v.reason)
		})
	}
}

// The decoder by itself must refuse what it can, should Check ever have a hole.
func TestDecoderIsStrictByItself(t *testing.T) {
	for _, h := range []string{"9fff", "d86280", "f6", "f8ff", "f97e00", "a201000100", "61ff", "0000", "c24101"} {
		var v any
		if err := decoder.Unmarshal(unhex(t, h), &v); err == nil {
			t.Errorf("decoder took %s for %v", h, v)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add(unhex(f, "a3016178020103818261614401020304"))
	f.Add(unhex(f, "a301617802010380"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v outer
		if Unmarshal(b, &v, Within(1<<16)) != nil {
			return
		}
		again, err := Marshal(v)
		if err != nil || !bytes.Equal(b, again) {
			t.Fatalf("%x decodes to %+v, which encodes to %x, %v", b, v, again, err)
		}
	})
}
