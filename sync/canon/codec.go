package canon

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"tidegate/policy/refusal"

	"github.com/fxamacker/cbor/v2"
)

// Raw is an encoded item that [Marshal] writes as it is and [Unmarshal] leaves alone.
type Raw = cbor.RawMessage

// Marshal returns the one encoding of v. Struct fields carry the tags of
// fxamacker/cbor (`cbor:"1,keyasint"`, `toarray`); nil slices and maps are written
// as empty ones. It is an error of the program if v holds what the profile does not
// allow, and Marshal says so: what it returns, [Check] accepts.
func Marshal(v any) ([]byte, error) {
	b, err := encoder.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	if err := Check(b, Within(math.MaxInt)); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}

// Unmarshal checks b and decodes it into v, a pointer. It returns the refusals of
// [Check], and E_FORMAT for a field that v does not know, that has another type or
// size, or that is missing.
//
// The last is shown by encoding v again: only what comes out the same byte for byte
// is accepted. So every field without `omitempty` is there, no optional field is
// written empty, and no fixed array was filled from a string of another length,
// which the decoder alone would let pass. After an error *v is of no use.
func Unmarshal(b []byte, v any, lim Limits) error {
	if err := Check(b, lim); err != nil {
		return err
	}
	if err := decoder.Unmarshal(b, v); err != nil {
		return refusal.New(refusal.Format, "field %s: %w", faulty(b, err), err)
	}
	again, err := encoder.Marshal(v)
	if err != nil {
		return refusal.New(refusal.Format, "decoded value: %w", err)
	}
	if !bytes.Equal(b, again) {
		return refusal.New(refusal.Format, "field %s", difference(b, again))
	}
	return nil
}

// faulty names the place of a decoding error as well as the decoder knows it.
func faulty(b []byte, err error) string {
	var unknown *cbor.UnknownFieldError
	if errors.As(err, &unknown) {
		return fmt.Sprintf("%s is unknown", keyAt(b, unknown.Index))
	}
	var kind *cbor.UnmarshalTypeError
	if errors.As(err, &kind) && kind.StructFieldName != "" {
		return fmt.Sprintf("%s is not as it should be", kind.StructFieldName)
	}
	return "of the wrong kind"
}

// keyAt names pair i of the map that the decoder stopped in. It does not say which
// map that is; mostly it is the outermost.
func keyAt(b []byte, i int) string {
	if pairs := topPairs(b); i < len(pairs) {
		return fmt.Sprintf("%s, or pair %d of a map inside,", notation(pairs[i].key), i+1)
	}
	return fmt.Sprintf("in pair %d of a map inside", i+1)
}

// difference names the first key of the outermost map in which b and what it
// decodes to differ.
func difference(b, again []byte) string {
	got, want := topPairs(b), topPairs(again)
	for i := 0; i < len(got) || i < len(want); i++ {
		switch {
		case i >= len(got), i < len(want) && bytes.Compare(want[i].key, got[i].key) < 0:
			return notation(want[i].key) + " is missing"
		case i >= len(want), bytes.Compare(got[i].key, want[i].key) < 0:
			return notation(got[i].key) + " is empty"
		case !bytes.Equal(got[i].value, want[i].value):
			return notation(got[i].key) + " has a part that is missing, empty or of the wrong length"
		}
	}
	return "has a part that is missing, empty or of the wrong length"
}

type pair struct{ key, value []byte }

// topPairs returns the pairs of the outermost map of b, none if b is no map.
func topPairs(b []byte) []pair {
	c := Walk(b)
	n, _ := c.Map()
	var pairs []pair
	for range n {
		key, _ := c.Raw()
		value, _ := c.Raw()
		pairs = append(pairs, pair{key, value})
	}
	return pairs
}

// notation writes a map key for people.
func notation(key []byte) string {
	c := Walk(key)
	if n, ok := c.Int(); ok {
		return fmt.Sprint(n)
	}
	if n, ok := c.Uint(); ok {
		return fmt.Sprint(n)
	}
	s, _ := c.Text()
	return fmt.Sprintf("%q", s)
}

var encoder = newEncoder()

func newEncoder() cbor.EncMode {
	o := cbor.CoreDetEncOptions()
	o.NilContainers = cbor.NilContainerAsEmpty
	o.TagsMd = cbor.TagsForbidden
	m, err := o.EncMode()
	if err != nil {
		panic("canon: encoder options: " + err.Error())
	}
	return m
}

// decoder repeats what [Check] has shown, as far as the library can, so that a hole
// in one of the two is not yet a hole.
var decoder = newDecoder()

func newDecoder() cbor.DecMode {
	reject := make([]func(*cbor.SimpleValueRegistry) error, 0, 256)
	for v := range 256 {
		if v != 20 && v != 21 && (v < 24 || v > 31) {
			reject = append(reject, cbor.WithRejectedSimpleValue(cbor.SimpleValue(v)))
		}
	}
	simple, err := cbor.NewSimpleValueRegistryFromDefaults(reject...)
	if err != nil {
		panic("canon: simple values: " + err.Error())
	}
	m, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   MaxDepth,
		MaxArrayElements:  MaxItems,
		MaxMapPairs:       MaxItems,
		IntDec:            cbor.IntDecConvertSignedOrFail,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		UTF8:              cbor.UTF8RejectInvalid,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		SimpleValues:      simple,
		NaN:               cbor.NaNDecodeForbidden,
		Inf:               cbor.InfDecodeForbidden,
		BignumTag:         cbor.BignumTagForbidden,
	}.DecMode()
	if err != nil {
		panic("canon: decoder options: " + err.Error())
	}
	return m
}
