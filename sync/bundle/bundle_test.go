package bundle_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/bundle/write"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
)

// readAll reads a bundle as a device does, but for the judgement of its signatures.
func readAll(r io.Reader) (*bundle.Manifest, error) {
	h, err := bundle.Read(r)
	if err != nil {
		return nil, err
	}
	msg, err := envelope.Parse(h.Manifest, envelope.Manifest)
	if err != nil {
		return nil, err
	}
	m, err := bundle.ParseManifest(msg.Payload)
	if err != nil {
		return nil, err
	}
	return m, h.Chunks(m, func(int, []byte) error { return nil })
}

func want(t *testing.T, err error, word refusal.Word, parts ...string) {
	t.Helper()
	if !refusal.Is(err, word) {
		got, _ := refusal.Of(err)
		t.Fatalf("word %q (%v), want %q", got, err, word)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

func TestABundleReadsBackAsItWasWritten(t *testing.T) {
	f := bundletest.New(t, "a")
	file := f.Bundle(t, 7, func(s *write.Spec) { s.Roots = f.Roots })
	h, m := bundletest.Open(t, file)
	if len(h.Roots) != 1 || !bytes.Equal(h.Roots[0], f.Roots[0]) {
		t.Errorf("%d roots", len(h.Roots))
	}
	if m.Seq != 7 || m.Product != "gate" || len(m.Files) != 2 {
		t.Errorf("manifest %+v", m)
	}
	if got := m.Size(int64(len(h.Bytes))); got != int64(len(file)) {
		t.Errorf("size by the manifest is %d, the file has %d bytes", got, len(file))
	}
	r := bundle.NewReader(m, bundle.NewFileSource(bytes.NewReader(file), m, int64(len(h.Bytes))))
	defer r.Close() //nolint:errcheck // only memory
	if got, err := r.ReadFile("policy.cbor", 100); err != nil || string(got) != "policy of bundle 7" {
		t.Errorf("policy.cbor is %q, %v", got, err)
	}
	got, err := r.ReadFile("schemas/common.json", 1<<20)
	if err != nil || !bytes.Equal(got, bytes.Repeat([]byte("{\"type\":\"object\"}\n"), 1000)) {
		t.Errorf("common.json has %d bytes, %v", len(got), err)
	}
	if f, _ := m.File("schemas/common.json"); f.Codec != bundle.Zstd {
		t.Errorf("common.json is stored %s", f.Codec)
	}
	if err := r.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	_, err = r.ReadFile("none", 1)
	want(t, err, refusal.Format)
	_, err = r.ReadFile("schemas/common.json", 17999)
	want(t, err, refusal.Limit)
}

func TestA1EmptyShortAndRandomFilesAreNotOurs(t *testing.T) {
	random := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(random)
	for _, b := range [][]byte{nil, {0}, {0xd9}, random, []byte("PK\x03\x04 a zip")} {
		_, err := bundle.Read(bytes.NewReader(b))
		want(t, err, refusal.Format, "magic")
	}
}

func TestA2OurMagicWithAnotherNumber(t *testing.T) {
	b := canon.Magic(bundle.Word)
	b[len(b)-1] = 2
	_, err := bundle.Read(bytes.NewReader(b))
	want(t, err, refusal.FormatVersion)
	_, err = bundle.Read(bytes.NewReader(canon.Magic("tide-root")))
	want(t, err, refusal.Format)
}

func TestA3AMetasetThatClaimsTooMuchCostsNothing(t *testing.T) {
	for _, n := range []uint64{bundle.MaxMetaset + 1, 1 << 31, 1 << 40, 1<<64 - 1} {
		b := canon.AppendBytesHead(canon.Magic(bundle.Word), n)
		got := allocated(func() {
			_, err := bundle.Read(bytes.NewReader(b))
			want(t, err, refusal.Limit)
		})
		if got > 64<<10 {
			t.Errorf("a metaset of %d bytes made us allocate %d", n, got)
		}
	}
	// The largest that may be claimed is allocated as it comes, not at once.
	b := canon.AppendBytesHead(canon.Magic(bundle.Word), bundle.MaxMetaset)
	if got := allocated(func() {
		_, err := bundle.Read(bytes.NewReader(append(b, 1, 2, 3)))
		want(t, err, refusal.Truncated)
	}); got > 256<<10 {
		t.Errorf("three bytes of a metaset made us allocate %d", got)
	}
}

// allocated returns the bytes that fn allocates; nothing else runs meanwhile.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestA4CutAtEveryByte(t *testing.T) {
	file := bundletest.New(t, "a").Bundle(t, 1, nil)
	for n := range len(file) {
		_, err := readAll(bytes.NewReader(file[:n]))
		word := refusal.Truncated
		if n < 3 {
			word = refusal.Format // nobody can say what it was to be
		}
		want(t, err, word)
	}
	if _, err := readAll(bytes.NewReader(file)); err != nil {
		t.Fatal(err)
	}
}

func TestA5NotTheShortestLength(t *testing.T) {
	f := bundletest.New(t, "a")
	file := f.Bundle(t, 1, nil)
	h, _ := bundletest.Open(t, file)
	magic := canon.Magic(bundle.Word)
	body := h.Bytes[len(magic)+3:] // behind a head of three bytes
	for name, b := range map[string][]byte{
		"metaset": bytes.Join([][]byte{magic, {0x5a, 0, 0, byte(len(body) >> 8), byte(len(body))}, body}, nil),
		"chunk":   append(bytes.Clone(h.Bytes), 0x58, 5, 1, 2, 3, 4, 5),
	} {
		_, err := readAll(bytes.NewReader(b))
		want(t, err, refusal.CBORCanon, "at byte")
		_ = name
	}
	// inside: the array of roots with a length in two bytes
	inside := append([]byte{0x85, 0x98, 0x00}, body[2:]...)
	_, err := bundle.Read(bytes.NewReader(canon.AppendBytes(bytes.Clone(magic), inside)))
	want(t, err, refusal.CBORCanon, "at byte 1")
}

// bend parses the manifest of bundle 1 after edit has bent it.
func bend(t *testing.T, edit func(bundletest.Map)) error {
	t.Helper()
	f := bundletest.New(t, "a")
	payload := bundletest.Edit(t, bundletest.Payload(t, f.Bundle(t, 1, nil)), edit)
	_, err := bundle.ParseManifest(payload)
	return err
}

func files(m bundletest.Map) []any { return m[uint64(16)].([]any) }

func file(m bundletest.Map, i int) map[any]any { return files(m)[i].(map[any]any) }

func TestA6A7A8FormOfTheManifest(t *testing.T) {
	deep := any(uint64(1))
	for range 9 {
		deep = []any{deep}
	}
	for name, c := range map[string]struct {
		payload []byte
		word    refusal.Word
	}{
		"unsorted keys":  {[]byte{0xa2, 0x02, 0x01, 0x01, 0x01}, refusal.CBORCanon},
		"duplicate key":  {[]byte{0xa2, 0x01, 0x01, 0x01, 0x01}, refusal.CBORCanon},
		"duplicate long": {[]byte{0xa2, 0x01, 0x01, 0x18, 0x01, 0x01}, refusal.CBORCanon},
		"indefinite":     {[]byte{0xbf, 0xff}, refusal.CBORCanon},
		"tag":            {[]byte{0xc1, 0x01}, refusal.CBORCanon},
		"float":          {[]byte{0xf9, 0x3c, 0x00}, refusal.CBORCanon},
		"null":           {[]byte{0xf6}, refusal.CBORCanon},
		"undefined":      {[]byte{0xf7}, refusal.CBORCanon},
		"simple(255)":    {[]byte{0xf8, 0xff}, refusal.CBORCanon},
		"bignum":         {[]byte{0xc2, 0x49, 1, 0, 0, 0, 0, 0, 0, 0, 0}, refusal.CBORCanon},
		"below -2^63":    {[]byte{0x3b, 0x80, 0, 0, 0, 0, 0, 0, 0}, refusal.CBORCanon},
		"too deep":       {bundletest.Encode(t, deep), refusal.Limit},
		"too many items": {bundletest.Encode(t, make([]bool, 65536)), refusal.Limit},
		"too long":       {make([]byte, bundle.MaxManifest+1), refusal.Limit},
		"no map":         {[]byte{0x01}, refusal.Format},
		"empty map":      {[]byte{0xa0}, refusal.Format},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := bundle.ParseManifest(c.payload)
			want(t, err, c.word)
		})
	}
}

func TestA9UnknownFields(t *testing.T) {
	want(t, bend(t, func(m bundletest.Map) { m[uint64(23)] = uint64(1) }), refusal.Format, "field 23", "unknown")
	want(t, bend(t, func(m bundletest.Map) { m["x"] = uint64(1) }), refusal.Format)
	want(t, bend(t, func(m bundletest.Map) { file(m, 0)[uint64(6)] = uint64(1) }), refusal.Format)
	if err := bend(t, func(m bundletest.Map) { m[uint64(99)] = map[any]any{uint64(1000): []byte("proof")} }); err != nil {
		t.Errorf("an extension is refused: %v", err)
	}
}

func TestA10Paths(t *testing.T) {
	for _, path := range []string{
		"", ".", "..", "/etc/passwd", "a/", "a//b", "a/../b", "./a", "A", "a\x00b", "a\\b", "c:", "ä", "a b",
		strings.Repeat("a", bundle.MaxPath+1),
	} {
		want(t, bend(t, func(m bundletest.Map) { file(m, 0)[uint64(1)] = path }), refusal.Format, "path")
	}
	for _, path := range []string{"a", "a.b/c-d/e_f", "..a", "a..", "...", strings.Repeat("a", bundle.MaxPath)} {
		if err := bend(t, func(m bundletest.Map) { file(m, 0)[uint64(1)] = path }); err != nil {
			t.Errorf("path %q: %v", path, err)
		}
	}
	f := bundletest.New(t, "a")
	payload := bytes.Replace(bundletest.Payload(t, f.Bundle(t, 1, nil)), []byte("policy.cbor"), []byte("policy\xff\xfe\xfd\xfc\xfb"), 1)
	_, err := bundle.ParseManifest(payload)
	want(t, err, refusal.Format, "UTF-8")
}

func TestA11MoreAfterTheEnd(t *testing.T) {
	f := bundletest.New(t, "a")
	b := f.Bundle(t, 1, nil)
	_, err := readAll(bytes.NewReader(append(bytes.Clone(b), 0)))
	want(t, err, refusal.Trailing)
	h, _ := bundletest.Open(t, b)
	_, err = readAll(bytes.NewReader(append(bytes.Clone(b), h.Bytes[len(canon.Magic(bundle.Word)):]...)))
	want(t, err, refusal.Trailing)
	_, err = bundle.ParseHead(append(bytes.Clone(h.Bytes), 1))
	want(t, err, refusal.Trailing)
}

func TestA12TagsOfTheMetaset(t *testing.T) {
	f := bundletest.New(t, "a")
	h, _ := bundletest.Open(t, f.Bundle(t, 1, nil))
	untagged := h.Manifest[2:]
	for name, env := range map[string][]byte{
		"none":  untagged,
		"18":    append([]byte{0xd2}, untagged...),
		"17":    append([]byte{0xd1}, untagged...),
		"twice": append([]byte{0xd8, 98}, h.Manifest...),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := bundle.Read(bytes.NewReader(bundletest.Forge(nil, env)))
			want(t, err, refusal.Format, "cose")
		})
	}
}

func TestThePlacesOfLaterReleasesMustBeEmpty(t *testing.T) {
	f := bundletest.New(t, "a")
	h, _ := bundletest.Open(t, f.Bundle(t, 1, nil))
	for i, name := range map[int]string{1: "head", 2: "revokes", 4: "approvals"} {
		m := canon.AppendArray(nil, 5)
		for k := range 5 {
			switch {
			case k == 3:
				m = append(m, h.Manifest...)
			case k == i:
				m = append(canon.AppendArray(m, 1), h.Manifest...)
			default:
				m = canon.AppendArray(m, 0)
			}
		}
		_, err := bundle.Read(bytes.NewReader(canon.AppendBytes(canon.Magic(bundle.Word), m)))
		want(t, err, refusal.FormatVersion, name)
	}
	want(t, bend(t, func(m bundletest.Map) { m[uint64(15)] = []any{"base", make([]byte, 32)} }), refusal.FormatVersion, "overlay")
}

func TestA17OtherPayloads(t *testing.T) {
	f := bundletest.New(t, "a")
	msg, err := envelope.Parse(f.Roots[0], envelope.Root)
	if err != nil {
		t.Fatal(err)
	}
	_, err = bundle.ParseManifest(msg.Payload)
	want(t, err, refusal.Format, "type")
	want(t, bend(t, func(m bundletest.Map) { m[uint64(1)] = "root" }), refusal.Format, "type")
}

func TestA18A19Sums(t *testing.T) {
	const big = uint64(1) << 63
	for name, edit := range map[string]func(bundletest.Map){
		"total too high":         func(m bundletest.Map) { m[uint64(17)] = m[uint64(17)].(uint64) + 1 },
		"total too low":          func(m bundletest.Map) { m[uint64(17)] = uint64(0) },
		"total wraps":            func(m bundletest.Map) { m[uint64(17)] = ^uint64(0) },
		"file above 2 GiB":       func(m bundletest.Map) { file(m, 1)[uint64(2)] = uint64(1) << 31 },
		"file above 4 GiB":       func(m bundletest.Map) { file(m, 1)[uint64(2)] = uint64(1)<<32 + 18000 },
		"file of 2^63":           func(m bundletest.Map) { file(m, 1)[uint64(2)] = big },
		"sizes wrap to a small":  func(m bundletest.Map) { file(m, 0)[uint64(2)] = big; file(m, 1)[uint64(2)] = big },
		"unpacked above 256 MiB": func(m bundletest.Map) { file(m, 1)[uint64(2)] = uint64(bundle.MaxContent) },
		"too many files": func(m bundletest.Map) {
			var list []any
			for i := range bundle.MaxFiles + 1 {
				list = append(list, map[any]any{uint64(1): fmt.Sprintf("%05d", i), uint64(2): uint64(0), uint64(3): make([]byte, 32), uint64(4): uint64(0), uint64(5): []any{}})
			}
			m[uint64(16)], m[uint64(17)] = list, uint64(0)
		},
	} {
		t.Run(name, func(t *testing.T) { want(t, bend(t, edit), refusal.Limit) })
	}
}

func TestTheRulesThatTheGrammarCannotSay(t *testing.T) {
	label := func(s ...any) []any { return append([]any{uint64(2)}, s...) }
	for name, edit := range map[string]func(bundletest.Map){
		"seq 0":                   func(m bundletest.Map) { m[uint64(4)] = uint64(0) },
		"product not a name":      func(m bundletest.Map) { m[uint64(10)] = "Gate" },
		"channel empty":           func(m bundletest.Map) { m[uint64(22)] = "" },
		"name too long":           func(m bundletest.Map) { m[uint64(13)] = strings.Repeat("a", 65) },
		"version too long":        func(m bundletest.Map) { m[uint64(14)] = strings.Repeat("1", 65) },
		"version with a line end": func(m bundletest.Map) { m[uint64(14)] = "1\n2" },
		"domain too short":        func(m bundletest.Map) { m[uint64(2)] = make([]byte, 15) },
		"domain too long":         func(m bundletest.Map) { m[uint64(2)] = make([]byte, 17) },
		"field missing":           func(m bundletest.Map) { delete(m, uint64(17)) },
		"expires 0":               func(m bundletest.Map) { m[uint64(6)] = uint64(0) },
		"no hardware":             func(m bundletest.Map) { m[uint64(11)] = []any{} },
		"hardware twice":          func(m bundletest.Map) { m[uint64(11)] = []any{"any", "any"} },
		"hardware unsorted":       func(m bundletest.Map) { m[uint64(11)] = []any{"bbb", "aaa"} },
		"hardware by text order":  func(m bundletest.Map) { m[uint64(11)] = []any{"aaaa", "bb"} },
		"E2 no selectors":         func(m bundletest.Map) { m[uint64(12)] = []any{} },
		"E9 device twice":         func(m bundletest.Map) { d := []any{uint64(1), make([]byte, 16)}; m[uint64(12)] = []any{d, d} },
		"selector unsorted":       func(m bundletest.Map) { m[uint64(12)] = []any{label("a"), []any{uint64(0)}} },
		"selector unknown":        func(m bundletest.Map) { m[uint64(12)] = []any{[]any{uint64(3)}} },
		"selector with more":      func(m bundletest.Map) { m[uint64(12)] = []any{[]any{uint64(0), uint64(0)}} },
		"selector without labels": func(m bundletest.Map) { m[uint64(12)] = []any{label()} },
		"labels unsorted":         func(m bundletest.Map) { m[uint64(12)] = []any{label("b", "a")} },
		"label twice":             func(m bundletest.Map) { m[uint64(12)] = []any{label("a", "a")} },
		"device id of 15 bytes":   func(m bundletest.Map) { m[uint64(12)] = []any{[]any{uint64(1), make([]byte, 15)}} },
		"paths unsorted":          func(m bundletest.Map) { l := files(m); l[0], l[1] = l[1], l[0] },
		"path twice":              func(m bundletest.Map) { file(m, 1)[uint64(1)] = "policy.cbor" },
		"codec unknown":           func(m bundletest.Map) { file(m, 0)[uint64(4)] = uint64(3) },
		"raw with another size":   func(m bundletest.Map) { file(m, 0)[uint64(2)] = uint64(17) },
		"empty but compressed":    func(m bundletest.Map) { file(m, 1)[uint64(2)] = uint64(0) },
		"digest of 31 bytes":      func(m bundletest.Map) { file(m, 0)[uint64(3)] = make([]byte, 31) },
		"digest of 33 bytes":      func(m bundletest.Map) { file(m, 0)[uint64(3)] = make([]byte, 33) },
		"chunk of 0 bytes":        func(m bundletest.Map) { file(m, 0)[uint64(5)] = []any{[]any{uint64(0), make([]byte, 32)}} },
		"chunk above 1 MiB":       func(m bundletest.Map) { file(m, 1)[uint64(5)] = []any{[]any{uint64(1<<20 + 1), make([]byte, 32)}} },
		"chunk with more":         func(m bundletest.Map) { file(m, 1)[uint64(5)] = []any{[]any{uint64(1), make([]byte, 32), uint64(1)}} },
		"short chunk in the middle": func(m bundletest.Map) {
			file(m, 1)[uint64(5)] = []any{[]any{uint64(5), make([]byte, 32)}, []any{uint64(5), bytes.Repeat([]byte{1}, 32)}}
		},
		"one digest, two lengths": func(m bundletest.Map) {
			file(m, 1)[uint64(5)] = []any{[]any{uint64(5), file(m, 0)[uint64(5)].([]any)[0].([]any)[1]}}
		},
		"sealed, no recipient": func(m bundletest.Map) { file(m, 0)[uint64(4)] = uint64(2) },
		"recipient, not sealed": func(m bundletest.Map) {
			m[uint64(18)] = []any{[]any{uint64(32), uint64(1), uint64(3), make([]byte, 32), make([]byte, 80)}}
		},
		"empty recipients": func(m bundletest.Map) { m[uint64(18)] = []any{} },
		"probe to elsewhere": func(m bundletest.Map) {
			m[uint64(19)] = []any{[]any{"GET", "http://x/", []any{uint64(200)}, uint64(1000)}}
		},
		"probe with a line end": func(m bundletest.Map) {
			m[uint64(19)] = []any{[]any{"GET", "/ HTTP/1.1\r\nX: y", []any{uint64(200)}, uint64(1000)}}
		},
		"probe of a method":     func(m bundletest.Map) { m[uint64(19)] = []any{[]any{"DELETE", "/", []any{uint64(200)}, uint64(1000)}} },
		"probe without status":  func(m bundletest.Map) { m[uint64(19)] = []any{[]any{"GET", "/", []any{}, uint64(1000)}} },
		"probe status 99":       func(m bundletest.Map) { m[uint64(19)] = []any{[]any{"GET", "/", []any{uint64(99)}, uint64(1000)}} },
		"probe without timeout": func(m bundletest.Map) { m[uint64(19)] = []any{[]any{"GET", "/", []any{uint64(200)}, uint64(0)}} },
		"least version of four": func(m bundletest.Map) { m[uint64(20)] = []any{uint64(1), uint64(2), uint64(3), uint64(4)} },
		"least version of two":  func(m bundletest.Map) { m[uint64(20)] = []any{uint64(1), uint64(2)} },
		"activation mode":       func(m bundletest.Map) { m[uint64(21)] = []any{uint64(2), uint64(60), uint64(3)} },
		"window 0":              func(m bundletest.Map) { m[uint64(21)] = []any{uint64(0), uint64(0), uint64(3)} },
		"attempts 0":            func(m bundletest.Map) { m[uint64(21)] = []any{uint64(0), uint64(60), uint64(0)} },
		"attempts 10":           func(m bundletest.Map) { m[uint64(21)] = []any{uint64(0), uint64(60), uint64(10)} },
		"empty extensions":      func(m bundletest.Map) { m[uint64(99)] = map[any]any{} },
	} {
		t.Run(name, func(t *testing.T) { want(t, bend(t, edit), refusal.Format) })
	}
	if err := bend(t, func(m bundletest.Map) {
		m[uint64(12)] = []any{[]any{uint64(1), make([]byte, 16)}, label("a"), label("a", "b")}
		m[uint64(11)] = []any{"bb", "aaaa"}
		m[uint64(19)] = []any{[]any{"GET", "/health?x=1", []any{uint64(200), uint64(204)}, uint64(1000)}}
		m[uint64(20)] = []any{uint64(1), uint64(2), uint64(3)}
		m[uint64(21)] = []any{uint64(1), uint64(60), uint64(9)}
		m[uint64(6)] = uint64(bundletest.Issued + 1000)
	}); err != nil {
		t.Errorf("all optional fields: %v", err)
	}
}
