package canon

import (
	"encoding/hex"
	"testing"
	"tidegate/policy/refusal"
)

// appendixA holds all examples of RFC 8949 appendix A, in its order, and simple(24),
// which stood in RFC 7049 and is no longer well-formed. No reason means that the
// profile accepts the bytes.
var appendixA = []struct {
	notation, hex, reason string
}{
	{"0", "00", ""},
	{"1", "01", ""},
	{"10", "0a", ""},
	{"23", "17", ""},
	{"24", "1818", ""},
	{"25", "1819", ""},
	{"100", "1864", ""},
	{"1000", "1903e8", ""},
	{"1000000", "1a000f4240", ""},
	{"1000000000000", "1b000000e8d4a51000", ""},
	{"18446744073709551615", "1bffffffffffffffff", ""},
	{"18446744073709551616", "c249010000000000000000", "tags are not allowed here"},
	{"-18446744073709551616", "3bffffffffffffffff", "integer below -2^63"},
	{"-18446744073709551617", "c349010000000000000000", "tags are not allowed here"},
	{"-1", "20", ""},
	{"-10", "29", ""},
	{"-100", "3863", ""},
	{"-1000", "3903e7", ""},
	{"0.0", "f90000", "floating-point number"},
	{"-0.0", "f98000", "floating-point number"},
	{"1.0", "f93c00", "floating-point number"},
	{"1.1", "fb3ff199999999999a", "floating-point number"},
	{"1.5", "f93e00", "floating-point number"},
	{"65504.0", "f97bff", "floating-point number"},
	{"100000.0", "fa47c35000", "floating-point number"},
	{"3.4028234663852886e+38", "fa7f7fffff", "floating-point number"},
	{"1.0e+300", "fb7e37e43c8800759c", "floating-point number"},
	{"5.960464477539063e-8", "f90001", "floating-point number"},
	{"0.00006103515625", "f90400", "floating-point number"},
	{"-4.0", "f9c400", "floating-point number"},
	{"-4.1", "fbc010666666666666", "floating-point number"},
	{"Infinity", "f97c00", "floating-point number"},
	{"NaN", "f97e00", "floating-point number"},
	{"-Infinity", "f9fc00", "floating-point number"},
	{"Infinity", "fa7f800000", "floating-point number"},
	{"NaN", "fa7fc00000", "floating-point number"},
	{"-Infinity", "faff800000", "floating-point number"},
	{"Infinity", "fb7ff0000000000000", "floating-point number"},
	{"NaN", "fb7ff8000000000000", "floating-point number"},
	{"-Infinity", "fbfff0000000000000", "floating-point number"},
	{"false", "f4", ""},
	{"true", "f5", ""},
	{"null", "f6", "only false and true"},
	{"undefined", "f7", "only false and true"},
	{"simple(16)", "f0", "only false and true"},
	{"simple(24)", "f818", "24 is not in its shortest form"},
	{"simple(255)", "f8ff", "only false and true"},
	{`0("2013-03-21T20:04:00Z")`, "c074323031332d30332d32315432303a30343a30305a", "tags are not allowed here"},
	{"1(1363896240)", "c11a514b67b0", "tags are not allowed here"},
	{"1(1363896240.5)", "c1fb41d452d9ec200000", "tags are not allowed here"},
	{"23(h'01020304')", "d74401020304", "tags are not allowed here"},
	{"24(h'6449455446')", "d818456449455446", "tags are not allowed here"},
	{`32("http://www.example.com")`, "d82076687474703a2f2f7777772e6578616d706c652e636f6d", "tags are not allowed here"},
	{"h''", "40", ""},
	{"h'01020304'", "4401020304", ""},
	{`""`, "60", ""},
	{`"a"`, "6161", ""},
	{`"IETF"`, "6449455446", ""},
	{`"\"\\"`, "62225c", ""},
	{`"\u00fc"`, "62c3bc", ""},
	{`"\u6c34"`, "63e6b0b4", ""},
	{`"\ud800\udd51"`, "64f0908591", ""},
	{"[]", "80", ""},
	{"[1, 2, 3]", "83010203", ""},
	{"[1, [2, 3], [4, 5]]", "8301820203820405", ""},
	{"[1, ..., 25]", "98190102030405060708090a0b0c0d0e0f101112131415161718181819", ""},
	{"{}", "a0", ""},
	{"{1: 2, 3: 4}", "a201020304", ""},
	{`{"a": 1, "b": [2, 3]}`, "a26161016162820203", ""},
	{`["a", {"b": "c"}]`, "826161a161626163", ""},
	{`{"a": "A", ..., "e": "E"}`, "a56161614161626142616361436164614461656145", ""},
	{"(_ h'0102', h'030405')", "5f42010243030405ff", "indefinite length"},
	{`(_ "strea", "ming")`, "7f657374726561646d696e67ff", "indefinite length"},
	{"[_ ]", "9fff", "indefinite length"},
	{"[_ 1, [2, 3], [_ 4, 5]]", "9f018202039f0405ffff", "indefinite length"},
	{"[_ 1, [2, 3], [4, 5]]", "9f01820203820405ff", "indefinite length"},
	{"[1, [2, 3], [_ 4, 5]]", "83018202039f0405ff", "indefinite length"},
	{"[1, [_ 2, 3], [4, 5]]", "83019f0203ff820405", "indefinite length"},
	{"[_ 1, ..., 25]", "9f0102030405060708090a0b0c0d0e0f101112131415161718181819ff", "indefinite length"},
	{`{_ "a": 1, "b": [_ 2, 3]}`, "bf61610161629f0203ffff", "indefinite length"},
	{`["a", {_ "b": "c"}]`, "826161bf61626163ff", "indefinite length"},
	{`{_ "Fun": true, "Amt": -2}`, "bf6346756ef563416d7421ff", "indefinite length"},
}

func TestRFC8949AppendixA(t *testing.T) {
	accepted := 0
	for _, v := range appendixA {
		t.Run(v.notation, func(t *testing.T) {
			err := Check(unhex(t, v.hex), Within(1<<10))
			wantRefusal(t, err, refusal.CBORCanon, v.reason)
			if err == nil {
				accepted++
			}
		})
	}
	if accepted != 35 || len(appendixA) != 82 {
		t.Errorf("accepted %d of %d examples, want 35 of 82", accepted, len(appendixA))
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
