package canon

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"tidegate/policy/refusal"
)

// sequence returns a file of the word with the given byte strings.
func sequence(word string, parts ...[]byte) []byte {
	b := Magic(word)
	for _, p := range parts {
		b = AppendBytes(b, p)
	}
	return b
}

// readAll reads a file of two byte strings, the second as a stream.
func readAll(src io.Reader) ([][]byte, error) {
	r := NewReader(src)
	if err := r.Magic("tide-bundle"); err != nil {
		return nil, err
	}
	first, err := r.Bytes(1 << 20)
	if err != nil {
		return nil, err
	}
	n, err := r.ByteStringHead()
	if err == io.EOF {
		return [][]byte{first}, nil
	}
	if err != nil {
		return nil, err
	}
	second, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if uint64(len(second)) != n {
		return nil, errors.New("length and content differ")
	}
	return [][]byte{first, second}, r.End()
}

func TestMagicBytes(t *testing.T) {
	want := unhex(t, "d9d9f7826b746964652d62756e646c6501")
	if got := Magic("tide-bundle"); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestA1NotOurs(t *testing.T) {
	random := bytes.Repeat([]byte{0x93, 0x17, 0xd9, 0x00}, 1<<18)
	for _, v := range []struct {
		name string
		b    []byte
	}{
		{"empty", nil},
		{"one byte", []byte{0xd9}},
		{"1 MiB of something", random},
		{"zip", []byte("PK\x03\x04 and so on and so forth")},
		{"other CBOR", unhex(t, "d9d9f783010203040506070809")},
		{"another word", append(unhex(t, "d9d9f782"), "\x6brauc-bundle\x01"...)},
		{"no word", append(unhex(t, "d9d9f782"), "\x65tide-\x01"...)},
		{"bytes for the word", append(unhex(t, "d9d9f782"), "\x4btide-bundle\x01"...)},
	} {
		t.Run(v.name, func(t *testing.T) {
			_, err := readAll(bytes.NewReader(v.b))
			wantRefusal(t, err, refusal.Format, "magic: not a Tidegate file")
		})
	}
	_, err := readAll(bytes.NewReader(Magic("tide-root")))
	wantRefusal(t, err, refusal.Format, "magic: a tide-root file, want tide-bundle")
}

func TestA2Number2(t *testing.T) {
	b := sequence("tide-bundle", []byte("x"))
	for _, number := range []string{"\x02", "\x18\x64", "\x00"} {
		c := append(bytes.Clone(b[:16]), number...)
		_, err := readAll(bytes.NewReader(append(c, b[17:]...)))
		wantRefusal(t, err, refusal.FormatVersion, "tide-bundle")
	}
}

func TestA3AnnouncedLengthIsNotBelieved(t *testing.T) {
	huge := append(Magic("tide-bundle"), unhex(t, "5b0000010000000000")...)
	_, err := readAll(bytes.NewReader(huge))
	wantRefusal(t, err, refusal.Limit, "byte string of 1099511627776 bytes")

	// Within the limit, memory follows what arrives.
	short := append(append(Magic("tide-bundle"), unhex(t, "5a00200000")...), 1, 2, 3)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := NewReader(bytes.NewReader(short))
	if err := r.Magic("tide-bundle"); err != nil {
		t.Fatal(err)
	}
	_, err = r.Bytes(2 << 20)
	runtime.ReadMemStats(&after)
	wantRefusal(t, err, refusal.Truncated, "ends at byte 25, inside a byte string")
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 512<<10 {
		t.Errorf("allocated %d bytes for 3 that arrived", grown)
	}
}

func TestA4CutAnywhere(t *testing.T) {
	whole := sequence("tide-bundle", bytes.Repeat([]byte{7}, 300), []byte("chunk"))
	if _, err := readAll(bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	firstOnly := len(sequence("tide-bundle", bytes.Repeat([]byte{7}, 300)))
	for n := range whole {
		_, err := readAll(bytes.NewReader(whole[:n]))
		switch {
		case n < 3:
			wantRefusal(t, err, refusal.Format, "magic")
		case n == firstOnly: // between two items a sequence may end
			wantRefusal(t, err, "", "")
		default:
			wantRefusal(t, err, refusal.Truncated, "ends at byte")
		}
	}
}

func TestA11Trailing(t *testing.T) {
	b := append(sequence("tide-bundle", []byte("a"), []byte("b")), 0)
	_, err := readAll(bytes.NewReader(b))
	wantRefusal(t, err, refusal.Trailing, "at byte 21")
}

func TestReaderRefusesOtherItems(t *testing.T) {
	for _, v := range []struct {
		name, hex string
		word      refusal.Word
		reason    string
	}{
		{"text", "6161", refusal.Format, "item at byte 17 is not a byte string"},
		{"array", "80", refusal.Format, "item at byte 17 is not a byte string"},
		{"long head", "580161", refusal.CBORCanon, "byte 17: 1 is not in its shortest form"},
		{"indefinite", "5f4161ff", refusal.CBORCanon, "byte 17: indefinite length"},
		{"head cut", "59ff", refusal.Truncated, "ends at byte 19"},
		{"nothing", "", refusal.Truncated, "ends at byte 17"},
	} {
		t.Run(v.name, func(t *testing.T) {
			_, err := readAll(bytes.NewReader(append(Magic("tide-bundle"), unhex(t, v.hex)...)))
			wantRefusal(t, err, v.word, v.reason)
		})
	}
}

func TestReaderOverOddSources(t *testing.T) {
	whole := sequence("tide-bundle", bytes.Repeat([]byte{7}, 200<<10), bytes.Repeat([]byte{8}, 70<<10))
	for name, src := range map[string]io.Reader{
		"one byte a read":    iotest.OneByteReader(bytes.NewReader(whole)),
		"half a read":        iotest.HalfReader(bytes.NewReader(whole)),
		"end with the bytes": iotest.DataErrReader(bytes.NewReader(whole)),
	} {
		parts, err := readAll(src)
		if err != nil || len(parts) != 2 || len(parts[0]) != 200<<10 || len(parts[1]) != 70<<10 {
			t.Errorf("%s: %d parts, %v", name, len(parts), err)
		}
	}
	gone := errors.New("stick was pulled")
	for cut := 0; cut < len(whole); cut += 997 {
		_, err := readAll(io.MultiReader(bytes.NewReader(whole[:cut]), iotest.ErrReader(gone)))
		if !errors.Is(err, gone) {
			t.Fatalf("cut at %d: got %v, want the error of the source", cut, err)
		}
	}
}

func TestBytesUpToTheLimit(t *testing.T) {
	file := sequence("tide-bundle", []byte("12345"))
	for limit, word := range map[int]refusal.Word{5: "", 6: "", 4: refusal.Limit, 0: refusal.Limit, -1: refusal.Limit} {
		r := NewReader(bytes.NewReader(file))
		if err := r.Magic("tide-bundle"); err != nil {
			t.Fatal(err)
		}
		b, err := r.Bytes(limit)
		if got, _ := refusal.Of(err); got != word || err == nil && string(b) != "12345" {
			t.Errorf("limit %d: got %q, %v, want word %q", limit, b, err, word)
		}
	}
}

func TestReaderWantsStringsReadToTheEnd(t *testing.T) {
	r := NewReader(bytes.NewReader(sequence("tide-bundle", []byte("first"), []byte("second"))))
	if err := r.Magic("tide-bundle"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ByteStringHead(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ByteStringHead(); err == nil || !strings.Contains(err.Error(), "not read to its end") {
		t.Errorf("got %v, want a refusal to skip content", err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(sequence("tide-bundle", []byte("first"), []byte("second")))
	f.Add(append(Magic("tide-bundle"), 0x5b, 0, 0, 1))
	f.Add([]byte{0xd9, 0xd9, 0xf7})
	f.Fuzz(func(t *testing.T, b []byte) {
		parts, err := readAll(bytes.NewReader(b))
		if err == nil && !bytes.Equal(sequence("tide-bundle", parts...), b) {
			t.Fatalf("%x was read as %x", b, parts)
		}
		if err != nil {
			if _, ok := refusal.Of(err); !ok {
				t.Fatalf("error without a word: %v", err)
			}
		}
	})
}
