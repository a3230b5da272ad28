package canon

import (
	"bytes"
	"math"
	"testing"
)

func TestCursorReadsWhatAppendWrites(t *testing.T) {
	ints := []int64{0, 1, 23, 24, 255, 256, 65535, 65536, 1<<32 - 1, 1 << 32, math.MaxInt64, -1, -24, -25, -256, -257, math.MinInt64}
	b := AppendArray(nil, len(ints)+3)
	for _, n := range ints {
		b = AppendInt(b, n)
	}
	b = AppendUint(b, math.MaxUint64)
	b = AppendText(b, "tide")
	b = AppendBytes(AppendUint(AppendMap(b, 1), 7), []byte{1, 2})
	if err := Check(b, Within(1<<10)); err != nil {
		t.Fatal(err)
	}
	c := Walk(b)
	if n, ok := c.Array(); !ok || n != uint64(len(ints)+3) {
		t.Fatalf("Array() = %d, %v", n, ok)
	}
	for _, want := range ints {
		if n, ok := c.Int(); !ok || n != want {
			t.Errorf("Int() = %d, %v, want %d", n, ok, want)
		}
	}
	if n, ok := c.Int(); ok {
		t.Errorf("Int() took 2^64-1 for %d", n)
	}
	if n, ok := c.Uint(); !ok || n != math.MaxUint64 {
		t.Errorf("Uint() = %d, %v", n, ok)
	}
	if _, ok := c.Bytes(); ok {
		t.Error("Bytes() took text")
	}
	if s, ok := c.Text(); !ok || s != "tide" {
		t.Errorf("Text() = %q, %v", s, ok)
	}
	raw, ok := c.Raw()
	if want := []byte{0xa1, 7, 0x42, 1, 2}; !ok || !bytes.Equal(raw, want) {
		t.Errorf("Raw() = %x, %v, want %x", raw, ok, want)
	}
	if !c.End() {
		t.Error("End() = false at the end")
	}
}

func TestCursorOnBrokenBytes(t *testing.T) {
	for _, b := range [][]byte{nil, {0x82, 1}, {0x44, 1}, {0x5b, 255, 255, 255, 255, 255, 255, 255, 255}, {0x9b, 255, 255, 255, 255, 255, 255, 255, 255}, {0xbb, 255, 255, 255, 255, 255, 255, 255, 255, 1}} {
		c := Walk(b)
		if raw, ok := c.Raw(); ok {
			t.Errorf("Raw() of %x = %x, want nothing", b, raw)
		}
		if _, ok := c.Bytes(); ok {
			t.Errorf("Bytes() of %x, want nothing", b)
		}
	}
}
