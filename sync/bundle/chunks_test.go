package bundle_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"
	"testing/iotest"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/bundle/write"
)

func TestF1AChunkWithAnotherContent(t *testing.T) {
	f := bundletest.New(t, "a")
	big := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{2}).Read(big)
	b := f.Bundle(t, 1, func(s *write.Spec) { s.Files = append(s.Files, write.Bytes("zz", big)) })
	h, m := bundletest.Open(t, b)
	for i, at := range m.Offsets(int64(len(h.Bytes))) {
		for _, k := range []int64{0, int64(m.Chunks()[i].Size) / 2, int64(m.Chunks()[i].Size) - 1} {
			c := bytes.Clone(b)
			c[at+k] ^= 1
			_, err := readAll(bytes.NewReader(c))
			want(t, err, refusal.Digest, fmt.Sprintf("chunk %d ", i))
		}
	}
}

func TestF2ChunksOfAnotherLength(t *testing.T) {
	f := bundletest.New(t, "a")
	b := f.Bundle(t, 1, nil)
	h, _ := bundletest.Open(t, b)
	chunks := bundletest.Chunks(t, b)
	for name, c := range map[string]struct {
		chunks [][]byte
		word   refusal.Word
	}{
		"shorter":      {[][]byte{chunks[0][1:], chunks[1]}, refusal.Format},
		"longer":       {[][]byte{append(bytes.Clone(chunks[0]), 0), chunks[1]}, refusal.Format},
		"last missing": {chunks[:1], refusal.Truncated},
		"swapped":      {[][]byte{chunks[1], chunks[0]}, refusal.Format},
		"one more":     {[][]byte{chunks[0], chunks[1], chunks[1]}, refusal.Trailing},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readAll(bytes.NewReader(bundletest.Forge(h.Roots, h.Manifest, c.chunks...)))
			want(t, err, c.word)
		})
	}
}

func TestF9EqualChunksAreStoredOnce(t *testing.T) {
	f := bundletest.New(t, "a")
	blocks := make([]byte, 2<<20)
	rand.NewChaCha8([32]byte{3}).Read(blocks)
	same := bytes.Repeat(blocks, 3) // repeated beyond the window of the compressor
	b := f.Bundle(t, 1, func(s *write.Spec) { s.Files = []write.File{write.Bytes("a", same), write.Bytes("b", same)} })
	_, m := bundletest.Open(t, b)
	for _, file := range m.Files {
		if file.Codec != bundle.Raw {
			t.Fatalf("%s is stored %s", file.Path, file.Codec)
		}
	}
	if len(m.Chunks()) != 2 || m.Total != 2<<20 || len(m.Files[1].Chunks) != 6 {
		t.Errorf("%d chunks, total %d", len(m.Chunks()), m.Total)
	}
	if _, err := readAll(bytes.NewReader(b)); err != nil {
		t.Error(err)
	}
}

func TestF10SizesAroundAChunk(t *testing.T) {
	f := bundletest.New(t, "a")
	for _, size := range []int{0, 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 2 << 20} {
		content := make([]byte, size)
		rand.NewChaCha8([32]byte{4}).Read(content)
		b := f.Bundle(t, 1, func(s *write.Spec) { s.Files = []write.File{write.Bytes("a", content)} })
		h, m := bundletest.Open(t, b)
		if _, err := readAll(bytes.NewReader(b)); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if got, want := len(m.Files[0].Chunks), (size+1<<20-1)>>20; got != want {
			t.Errorf("%d bytes make %d chunks, want %d", size, got, want)
		}
		r := bundle.NewReader(m, bundle.NewFileSource(bytes.NewReader(b), m, int64(len(h.Bytes))))
		if got, err := r.ReadFile("a", 4<<20); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes read back as %d, %v", size, len(got), err)
		}
	}
}

// faultyReader gives b, but at byte at the error, and goes on after it.
type faultyReader struct {
	b    []byte
	at   int
	err  error
	read int
}

func (r *faultyReader) Read(p []byte) (int, error) {
	if r.read == r.at && r.err != nil {
		err := r.err
		r.err = nil
		return 0, err
	}
	end := len(r.b)
	if r.err != nil && r.read < r.at {
		end = r.at
	}
	n := copy(p, r.b[r.read:min(end, len(r.b))])
	r.read += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func TestG2ErrorsOfTheMedium(t *testing.T) {
	f := bundletest.New(t, "a")
	b := f.Bundle(t, 1, nil)
	own := refusal.New(refusal.MediaSlow, "stalled")
	for name, c := range map[string]struct {
		err  error
		word refusal.Word
	}{
		"EIO": {syscall.EIO, refusal.MediaIO}, "ENODEV": {syscall.ENODEV, refusal.MediaGone}, "ENXIO": {syscall.ENXIO, refusal.MediaGone},
		"other": {errors.New("x"), refusal.MediaIO}, "own word": {own, refusal.MediaSlow},
	} {
		t.Run(name, func(t *testing.T) {
			for _, at := range []int{0, 3, 17, 18, 100, len(b) / 2, len(b) - 1, len(b)} {
				_, err := readAll(&faultyReader{b: b, at: at, err: c.err})
				want(t, err, c.word)
			}
		})
	}
	_, err := readAll(&faultyReader{b: b, at: 200, err: context.Canceled})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a read that was called off: %v", err)
	}
	for _, at := range []int{0, 3, 17, 18, len(b) - 1} {
		if _, err := readAll(&faultyReader{b: b, at: at, err: syscall.EINTR}); err != nil {
			t.Errorf("interrupted at %d: %v", at, err)
		}
	}
	for name, r := range map[string]io.Reader{
		"one byte": iotest.OneByteReader(bytes.NewReader(b)), "halves": iotest.HalfReader(bytes.NewReader(b)),
		"data with EOF": iotest.DataErrReader(bytes.NewReader(b)),
	} {
		if _, err := readAll(r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = readAll(stuck{})
	want(t, err, refusal.MediaIO)
}

// stuck answers nothing at all, for ever.
type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }
