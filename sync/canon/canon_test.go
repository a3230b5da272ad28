package canon

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"tidegate/policy/refusal"

	"github.com/fxamacker/cbor/v2"
)

// wantRefusal wants err to carry the word and to say the reason; no reason means that
// there must be no error.
func wantRefusal(t *testing.T, err error, w refusal.Word, reason string) {
	t.Helper()
	switch {
	case reason == "" && err != nil:
		t.Errorf("got %v, want it accepted", err)
	case reason == "":
	case err == nil:
		t.Errorf("accepted, want %s: %s", w, reason)
	case !refusal.Is(err, w) || !strings.Contains(err.Error(), reason):
		got, _ := refusal.Of(err)
		t.Errorf("got %s: %v, want %s: %s", got, err, w, reason)
	}
}

func TestA5NonShortest(t *testing.T) {
	for _, v := range []struct{ name, hex, reason string }{
		{"integer in one byte", "1817", "byte 0: 23 is not in its shortest form"},
		{"integer in two bytes", "1900ff", "byte 0: 255 is not in its shortest form"},
		{"integer in four bytes", "1a0000ffff", "byte 0: 65535 is not in its shortest form"},
		{"integer in eight bytes", "1b00000000ffffffff", "byte 0: 4294967295 is not in its shortest form"},
		{"negative", "3800", "byte 0: 0 is not in its shortest form"},
		{"byte string in the head", "580101", "byte 0: 1 is not in its shortest form"},
		{"text inside an array", "8201780161", "byte 2: 1 is not in its shortest form"},
		{"array", "980101", "byte 0: 1 is not in its shortest form"},
		{"map", "b8010101", "byte 0: 1 is not in its shortest form"},
		{"map key", "a1180101", "byte 1: 1 is not in its shortest form"},
		{"shortest in one byte", "1818", ""},
		{"shortest in two bytes", "190100", ""},
		{"shortest in four bytes", "1a00010000", ""},
		{"shortest in eight bytes", "1b0000000100000000", ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			wantRefusal(t, Check(unhex(t, v.hex), Within(1<<10)), refusal.CBORCanon, v.reason)
		})
	}
}

func TestA6MapKeys(t *testing.T) {
	for _, v := range []struct{ name, hex, reason string }{
		{"unsorted integers", "a202000100", "byte 3: map keys are not sorted"},
		{"negative before positive", "a220000100", "byte 3: map keys are not sorted"},
		{"unsorted text", "a2616200616100", "byte 4: map keys are not sorted"},
		{"longer text before shorter", "a262616100616200", "byte 5: map keys are not sorted"},
		{"text before integer", "a26161000100", "byte 4: map keys are not sorted"},
		{"duplicate", "a201000101", "byte 3: map key stands twice"},
		{"duplicate text", "a2616100616101", "byte 4: map key stands twice"},
		{"duplicate by a longer head", "a20100180101", "byte 3: 1 is not in its shortest form"},
		{"bytes as key", "a1410000", "byte 1: map key is neither an integer nor text"},
		{"array as key", "a18000", "byte 1: map key is neither an integer nor text"},
		{"false as key", "a1f400", "byte 1: map key is neither an integer nor text"},
		{"sorted of all kinds", "a401002000616100626161f4", ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			wantRefusal(t, Check(unhex(t, v.hex), Within(1<<10)), refusal.CBORCanon, v.reason)
		})
	}
}

func TestA7Types(t *testing.T) {
	for _, v := range []struct{ name, hex, reason string }{
		{"indefinite bytes", "5f4100ff", "byte 0: indefinite length"},
		{"indefinite inside", "81 9f ff", "byte 1: indefinite length"},
		{"break alone", "ff", "byte 0: indefinite length"},
		{"tag 98", "d86280", "byte 0: tags are not allowed here"},
		{"tag 55799", "d9d9f700", "byte 0: tags are not allowed here"},
		{"bignum", "c24101", "byte 0: tags are not allowed here"},
		{"half float", "f93c00", "byte 0: floating-point number"},
		{"null", "f6", "byte 0: of the simple values"},
		{"undefined", "f7", "byte 0: of the simple values"},
		{"simple(19)", "f3", "byte 0: of the simple values"},
		{"simple(255)", "f8ff", "byte 0: of the simple values"},
		{"false in two bytes", "f814", "byte 0: 20 is not in its shortest form"},
		{"true in two bytes", "f815", "byte 0: 21 is not in its shortest form"},
		{"simple(32)", "f820", "byte 0: of the simple values"},
		{"-2^63", "3b7fffffffffffffff", ""},
		{"-2^63-1", "3b8000000000000000", "byte 0: integer below -2^63"},
		{"reserved 28", "1c", "byte 0: reserved value"},
		{"reserved 30", "fe", "byte 0: reserved value"},
	} {
		t.Run(v.name, func(t *testing.T) {
			wantRefusal(t, Check(unhex(t, strings.ReplaceAll(v.hex, " ", "")), Within(1<<10)), refusal.CBORCanon, v.reason)
		})
	}
}

func TestA8Limits(t *testing.T) {
	deep := func(n int) []byte { return append(bytes.Repeat([]byte{0x81}, n-1), 0) }
	wide := func(items int) []byte {
		return append(AppendArray(nil, items-1), make([]byte, items-1)...)
	}
	for _, v := range []struct {
		name   string
		b      []byte
		lim    Limits
		reason string
	}{
		{"depth 8", deep(8), Within(100), ""},
		{"depth 9", deep(9), Within(100), "deeper than 8 levels at byte 8"},
		{"depth of a map value", unhex(t, "a10081a100a100a10000"), Limits{5, 100, 100}, "deeper than 5 levels at byte 8"},
		{"65536 items", wide(65536), Within(1 << 20), ""},
		{"65537 items", wide(65537), Within(1 << 20), "more than 65536 items"},
		{"keys count", unhex(t, "a201000200"), Limits{8, 4, 100}, "more than 4 items at byte 4"},
		{"as long as allowed", []byte{0x42, 1, 2}, Within(3), ""},
		{"a byte too long", []byte{0x42, 1, 2}, Within(2), "3 bytes of CBOR, at most 2"},
		{"announces 2^63 elements", unhex(t, "9b8000000000000000"), Within(100), ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			err := Check(v.b, v.lim)
			if v.name == "announces 2^63 elements" {
				wantRefusal(t, err, refusal.CBORCanon, "byte 9: ends where an item should begin")
				return
			}
			wantRefusal(t, err, refusal.Limit, v.reason)
		})
	}
}

func TestOneItem(t *testing.T) {
	for _, v := range []struct{ name, hex, reason string }{
		{"nothing", "", "byte 0: ends where an item should begin"},
		{"two items", "0000", "byte 1: more bytes after the item"},
		{"head cut", "19ff", "byte 0: ends inside the head"},
		{"string cut", "4401", "byte 0: string is longer than what is left"},
		{"string of 2^64-1", "5bffffffffffffffff00", "byte 0: string is longer than what is left"},
		{"array cut", "8201", "byte 2: ends where an item should begin"},
		{"map cut after a key", "a101", "byte 2: ends where an item should begin"},
	} {
		t.Run(v.name, func(t *testing.T) {
			wantRefusal(t, Check(unhex(t, v.hex), Within(1<<10)), refusal.CBORCanon, v.reason)
		})
	}
}

func TestA10TextIsUTF8(t *testing.T) {
	for _, v := range []struct{ name, hex, reason string }{
		{"stray byte", "61ff", "text at byte 0 is not UTF-8"},
		{"overlong", "8162c080", "text at byte 1 is not UTF-8"},
		{"surrogate", "63eda080", "text at byte 0 is not UTF-8"},
		{"as a map key", "a161ff00", "text at byte 1 is not UTF-8"},
		{"in bytes it is nobody's business", "41ff", ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			wantRefusal(t, Check(unhex(t, v.hex), Within(1<<10)), refusal.Format, v.reason)
		})
	}
}

func TestA12TagOfASign(t *testing.T) {
	for _, v := range []struct {
		name, hex string
		word      refusal.Word
		reason    string
	}{
		{"tag 98", "d86280", "", ""},
		{"none", "80", refusal.Format, "cose: no tag at byte 0"},
		{"tag 18", "d280", refusal.Format, "cose: tag 18 at byte 0"},
		{"tag 17", "d180", refusal.Format, "cose: tag 17 at byte 0"},
		{"twice", "d862d86280", refusal.Format, "cose: a second tag at byte 2"},
		{"tag 98 then 18", "d862d280", refusal.Format, "cose: a second tag at byte 2"},
		{"longer than needed", "d9006280", refusal.CBORCanon, "98 is not in its shortest form"},
		{"deeper", "d86281d86280", refusal.CBORCanon, "byte 3: tags are not allowed here"},
		{"nothing behind it", "d862", refusal.CBORCanon, "byte 2: ends where an item should begin"},
	} {
		t.Run(v.name, func(t *testing.T) {
			wantRefusal(t, CheckSign(unhex(t, v.hex), Within(1<<10)), v.word, v.reason)
		})
	}
}

func TestMetasetPlaces(t *testing.T) {
	const sign = "d86280"
	for _, v := range []struct {
		name, hex string
		word      refusal.Word
		reason    string
	}{
		{"smallest", "85 80 80 80 " + sign + " 80", "", ""},
		{"all places", "85 82" + sign + sign + "81" + sign + "81" + sign + sign + "81" + sign, "", ""},
		{"four elements", "84 80 80 80" + sign, refusal.Format, "metaset: want an array of 5"},
		{"a map", "a0", refusal.Format, "metaset: want an array of 5"},
		{"tagged itself", "d862 85 80 80 80" + sign + "80", refusal.Format, "metaset: want an array of 5"},
		{"manifest untagged", "85 80 80 80 80 80", refusal.Format, "cose: no tag at byte 4"},
		{"root untagged", "85 8180 80 80" + sign + "80", refusal.Format, "cose: no tag at byte 2"},
		{"roots tagged", "85" + sign + "80 80" + sign + "80", refusal.Format, "metaset: want an array of COSE_Sign at byte 1"},
		{"approvals missing", "85 80 80 80" + sign + "00", refusal.Format, "metaset: want an array of COSE_Sign at byte 7"},
		{"tag inside a sign", "85 80 80 80 d86281d28080", refusal.CBORCanon, "byte 7: tags are not allowed here"},
	} {
		t.Run(v.name, func(t *testing.T) {
			b := unhex(t, strings.ReplaceAll(v.hex, " ", ""))
			wantRefusal(t, CheckMetaset(b, Within(1<<10)), v.word, v.reason)
		})
	}
}

func TestTagCountsAsALevel(t *testing.T) {
	b := unhex(t, "d862818100")
	if err := CheckSign(b, Limits{Depth: 4, Items: 10, Bytes: 10}); err != nil {
		t.Errorf("tag, array, array, integer in 4 levels: %v", err)
	}
	wantRefusal(t, CheckSign(b, Limits{Depth: 3, Items: 10, Bytes: 10}), refusal.Limit, "deeper than 3 levels")
}

// manifestLike returns canonical bytes of about the given size in the shape of a
// manifest: files with a path, sizes and digests.
func manifestLike(size int) []byte {
	var files []byte
	n := 0
	for len(files) < size {
		files = AppendMap(files, 5)
		files = AppendText(AppendUint(files, 1), fmt.Sprintf("apis/file-%05d.yaml", n))
		files = AppendUint(AppendUint(files, 2), uint64(1000+n))
		files = AppendBytes(AppendUint(files, 3), bytes.Repeat([]byte{byte(n)}, 32))
		files = AppendUint(AppendUint(files, 4), 1)
		files = AppendArray(AppendUint(files, 5), 1)
		files = AppendUint(AppendArray(files, 2), 900)
		files = AppendBytes(files, bytes.Repeat([]byte{byte(n + 1)}, 32))
		n++
	}
	b := AppendUint(AppendMap(nil, 1), 16)
	return append(AppendArray(b, n), files...)
}

func TestCheckAllocatesNothing(t *testing.T) {
	b := manifestLike(64 << 10)
	lim := Within(1 << 20)
	if n := testing.AllocsPerRun(10, func() {
		if err := Check(b, lim); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Check allocated %v times, want 0", n)
	}
}

func BenchmarkCheck1MiB(b *testing.B) {
	m := manifestLike(1 << 20)
	lim := Limits{Depth: MaxDepth, Items: 1 << 20, Bytes: 2 << 20}
	b.SetBytes(int64(len(m)))
	b.ReportAllocs()
	for b.Loop() {
		if err := Check(m, lim); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzCheck shows that what Check accepts has one encoding: decoded by an unrelated
// decoder and encoded again it is the same bytes.
func FuzzCheck(f *testing.F) {
	for _, v := range appendixA {
		f.Add(unhex(f, v.hex))
	}
	f.Add(manifestLike(1 << 10))
	lenient, err := cbor.DecOptions{}.DecMode()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if Check(b, Within(1<<16)) != nil {
			return
		}
		var v any
		if err := lenient.Unmarshal(b, &v); err != nil {
			t.Fatalf("accepted %x, which the decoder refuses: %v", b, err)
		}
		again, err := encoder.Marshal(v)
		if err != nil {
			t.Fatalf("accepted %x, which does not encode: %v", b, err)
		}
		if !bytes.Equal(b, again) {
			t.Fatalf("accepted %x, encoded again it is %x", b, again)
		}
		c := Walk(b)
		if raw, ok := c.Raw(); !ok || !bytes.Equal(raw, b) || !c.End() {
			t.Fatalf("cursor reads %x of %x", raw, b)
		}
	})
}

// FuzzTagged shows the same for the places of tags: with each tag 98 cut out, what
// is accepted is what Check accepts.
func FuzzTagged(f *testing.F) {
	f.Add(unhex(f, "d86280"))
	f.Add(unhex(f, "85808080d8628080"))
	f.Add(unhex(f, "8581d8628081d8628080d8628080"))
	f.Fuzz(func(t *testing.T, b []byte) {
		lim := Within(1 << 16)
		if CheckSign(b, lim) == nil {
			if !bytes.HasPrefix(b, []byte{0xd8, 0x62}) {
				t.Fatalf("accepted %x as COSE_Sign without its tag", b)
			}
			if err := Check(b[2:], lim); err != nil {
				t.Fatalf("behind the tag of %x: %v", b, err)
			}
		}
		if CheckMetaset(b, lim) == nil {
			c := Walk(b)
			c.Array()
			for i := range 5 {
				n := uint64(1)
				if i != 3 {
					n, _ = c.Array()
				}
				for range n {
					raw, ok := c.Raw()
					if !ok {
						t.Fatalf("metaset %x does not split", b)
					}
					if err := CheckSign(raw, lim); err != nil {
						t.Fatalf("metaset %x has a part %x: %v", b, raw, err)
					}
				}
			}
			if !c.End() {
				t.Fatalf("metaset %x has a rest", b)
			}
		}
	})
}
