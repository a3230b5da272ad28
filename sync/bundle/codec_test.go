package bundle_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/canon"

	"github.com/klauspost/compress/zstd"
)

// stored is a bundle of one file whose stored bytes are given, whatever they are.
type stored struct {
	chunks [][]byte
}

func (s stored) Chunk(i int, _ []byte) ([]byte, error) { return s.chunks[i], nil }

// pack makes a manifest with one file "a" of the given plain size and digest, stored as b.
func pack(t testing.TB, codec bundle.Codec, size uint64, plain []byte, b []byte) *bundle.Reader {
	t.Helper()
	m := base(t)
	file := bundle.File{Path: "a", Size: size, Digest: sha256.Sum256(plain), Codec: codec}
	var src stored
	for len(b) > 0 {
		n := min(len(b), bundle.ChunkBytes)
		file.Chunks = append(file.Chunks, bundle.Chunk{Size: uint64(n), Digest: sha256.Sum256(b[:n])})
		src.chunks = append(src.chunks, b[:n])
		b = b[n:]
	}
	m.Files = []bundle.File{file}
	m.Total = 0
	seen := map[bundle.Digest]bool{}
	var distinct [][]byte
	for i, c := range file.Chunks {
		if !seen[c.Digest] {
			seen[c.Digest] = true
			m.Total += c.Size
			distinct = append(distinct, src.chunks[i])
		}
	}
	payload, err := canon.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = bundle.ParseManifest(payload); err != nil {
		t.Fatal(err)
	}
	return bundle.NewReader(m, stored{distinct})
}

// base returns the manifest of bundle 1 to be changed. Making it takes longer than a test of
// one frame, so its bytes are kept.
func base(t testing.TB) *bundle.Manifest {
	t.Helper()
	basePayload.once.Do(func() {
		basePayload.b = bundletest.Payload(t, bundletest.New(t, "a").Bundle(t, 1, nil))
	})
	m, err := bundle.ParseManifest(basePayload.b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var basePayload struct {
	once sync.Once
	b    []byte
}

func frame(t testing.TB, plain []byte, o ...zstd.EOption) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil, append([]zstd.EOption{zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1 << 20)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(plain, nil)
}

func TestF3F5F6FilesThatDoNotUnpackToWhatWasSigned(t *testing.T) {
	plain := bytes.Repeat([]byte("tide "), 1000)
	good := frame(t, plain)
	noSize := func() []byte {
		var b bytes.Buffer
		enc, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
		if err != nil {
			t.Fatal(err)
		}
		// A frame that is begun before its size is known does not state it.
		for range 300 {
			if _, err := enc.Write(plain); err != nil {
				t.Fatal(err)
			}
		}
		if err := enc.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}()
	edit := func(at int, x byte) []byte { b := bytes.Clone(good); b[at] ^= x; return b }
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}
	for name, c := range map[string]struct {
		size uint64
		b    []byte
		word refusal.Word
	}{
		"size lies, one less":      {4999, good, refusal.Codec},
		"size lies, one more":      {5001, good, refusal.Codec},
		"two frames":               {10000, append(bytes.Clone(good), good...), refusal.Codec},
		"frame and a byte":         {5000, append(bytes.Clone(good), 0), refusal.Codec},
		"frame and an empty frame": {5000, append(bytes.Clone(good), frame(t, nil)...), refusal.Codec},
		"skippable in front":       {5000, append(bytes.Clone(skippable), good...), refusal.Codec},
		"skippable behind":         {5000, append(bytes.Clone(good), skippable...), refusal.Codec},
		"cut":                      {5000, good[:len(good)-1], refusal.Codec},
		"cut in the head":          {5000, good[:5], refusal.Codec},
		"only a magic":             {5000, good[:4], refusal.Codec},
		"bad checksum":             {5000, edit(len(good)-1, 1), refusal.Codec},
		"no frame":                 {5000, []byte("this is no frame at all"), refusal.Codec},
		"reserved bit":             {5000, edit(4, 1<<3), refusal.Codec},
		"dictionary":               {5000, edit(4, 1), refusal.Codec},
		"no content size":          {1500000, noSize, refusal.Codec},
		"window above 1 MiB":       {4 << 20, frame(t, make([]byte, 4<<20), zstd.WithWindowSize(4<<20), zstd.WithSingleSegment(false)), refusal.Codec},
		"single segment of 2 MiB":  {2 << 20, frame(t, make([]byte, 2<<20), zstd.WithWindowSize(4<<20), zstd.WithSingleSegment(true)), refusal.Codec},
	} {
		t.Run(name, func(t *testing.T) {
			r := pack(t, bundle.Zstd, c.size, plain, c.b)
			_, err := r.ReadFile("a", 16<<20)
			want(t, err, c.word)
			want(t, r.Verify(t.Context()), c.word)
		})
	}
	t.Run("plain digest", func(t *testing.T) {
		_, err := pack(t, bundle.Zstd, 5000, []byte("other"), good).ReadFile("a", 5000)
		want(t, err, refusal.Digest, "plain")
		_, err = pack(t, bundle.Raw, 5000, []byte("other"), plain).ReadFile("a", 5000)
		want(t, err, refusal.Digest, "plain")
	})
	t.Run("the good one", func(t *testing.T) {
		got, err := pack(t, bundle.Zstd, 5000, plain, good).ReadFile("a", 5000)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	})
}

// A frame whose head states the signed size and whose blocks unpack to far more.
func TestF3ABombIsNotUnpackedPastSizePlusOne(t *testing.T) {
	// Single segment, one byte of size: 200; then 1000 blocks of 128 KiB of one repeated byte.
	bomb := []byte{0x28, 0xb5, 0x2f, 0xfd, 1 << 5, 200}
	for i := range 1000 {
		last := byte(0)
		if i == 999 {
			last = 1
		}
		h := uint32(128<<10)<<3 | 1<<1 | uint32(last)
		bomb = append(bomb, byte(h), byte(h>>8), byte(h>>16), 'x')
	}
	r := pack(t, bundle.Zstd, 200, nil, bomb)
	got := allocated(func() {
		_, err := r.ReadFile("a", 200)
		if w, ok := refusal.Of(err); !ok || w != refusal.Codec && w != refusal.Digest {
			t.Errorf("a bomb: %v", err)
		}
	})
	if got > 8<<20 {
		t.Errorf("a bomb of %d bytes made us allocate %d", len(bomb), got)
	}

	// Whatever unpacks, no more than one byte beyond the size is taken from it.
	endless := &countedReader{Reader: rand.NewChaCha8([32]byte{1})}
	n, err := bundle.Unpacked(&bundle.File{Path: "a", Size: 200}, endless).Read(make([]byte, 4096))
	want(t, err, refusal.Digest, "more than its size")
	if n != 0 || endless.n != 201 {
		t.Errorf("%d bytes were taken and %d given, want 201 and 0", endless.n, n)
	}
}

// A countedReader counts the bytes that are read from it.
type countedReader struct {
	io.Reader
	n int
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += n
	return n, err
}

func TestEveryBitFlippedInAFrameIsFound(t *testing.T) {
	plain := []byte("a short text, a short text, a short text, a short text and an end")
	good := frame(t, plain)
	for i := range len(good) * 8 {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		got, err := pack(t, bundle.Zstd, uint64(len(plain)), plain, b).ReadFile("a", 1<<20)
		if err == nil && !bytes.Equal(got, plain) {
			t.Errorf("bit %d: unpacks to %q", i, got)
		}
		if _, coded := refusal.Of(err); err != nil && !coded {
			t.Errorf("bit %d: no word in %v", i, err)
		}
	}
}
