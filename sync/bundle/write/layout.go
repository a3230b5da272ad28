package write

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"

	"github.com/klauspost/compress/zstd"
)

// minZstd is the size below which compressing cannot win: frame heads cost about as much.
const minZstd = 64

// A chunker cuts what is written to it into chunks and hands each on.
type chunker struct {
	buf  []byte
	emit func(data []byte, digest bundle.Digest) error
}

// A packer stores files one after another; its buffer and encoders serve all of them.
type packer struct {
	buf     []byte
	encoder map[bool]*zstd.Encoder // by single segment
}

func newPacker() *packer {
	return &packer{buf: make([]byte, 0, bundle.ChunkBytes), encoder: make(map[bool]*zstd.Encoder)}
}

func (c *chunker) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), cap(c.buf)-len(c.buf))
		c.buf = append(c.buf, p[:k]...)
		p = p[k:]
		if len(c.buf) == cap(c.buf) {
			if err := c.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (c *chunker) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	err := c.emit(c.buf, sha256.Sum256(c.buf))
	c.buf = c.buf[:0]
	return err
}

// collect returns a function that gathers chunks in list.
func collect(list *[]bundle.Chunk) func([]byte, bundle.Digest) error {
	return func(data []byte, digest bundle.Digest) error {
		*list = append(*list, bundle.Chunk{Size: uint64(len(data)), Digest: digest})
		return nil
	}
}

// layOut reads a file and chooses how it is stored: compressed if that saves a twentieth.
func (p *packer) layOut(f File, sealed bool) (bundle.File, error) {
	entry := bundle.File{Path: f.Path, Codec: bundle.Raw, Chunks: []bundle.Chunk{}}
	size, digest, err := measure(f)
	if err != nil {
		return entry, err
	}
	entry.Size, entry.Digest = uint64(size), digest //nolint:gosec // not negative
	if sealed {
		entry.Codec = bundle.Sealed
	} else if size >= minZstd {
		var packed []bundle.Chunk
		if err := p.store(f, bundle.Zstd, entry, collect(&packed)); err != nil {
			return entry, err
		}
		if n := total(packed); n+n/20 < entry.Size {
			entry.Codec, entry.Chunks = bundle.Zstd, packed
			return entry, nil
		}
	}
	return entry, p.store(f, entry.Codec, entry, collect(&entry.Chunks))
}

func total(chunks []bundle.Chunk) (n uint64) {
	for _, c := range chunks {
		n += c.Size
	}
	return n
}

// measure returns size and digest of the plain content.
func measure(f File) (int64, bundle.Digest, error) {
	in, err := f.Open()
	if err != nil {
		return 0, bundle.Digest{}, fmt.Errorf("path %q: %w", f.Path, err)
	}
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(in, bundle.MaxContent+1))
	if err = errors.Join(err, in.Close()); err != nil {
		return 0, bundle.Digest{}, fmt.Errorf("path %q: %w", f.Path, err)
	}
	if n > bundle.MaxContent {
		return 0, bundle.Digest{}, refusal.New(refusal.Limit, "path %q: more than %d bytes", f.Path, bundle.MaxContent)
	}
	return n, sum(h), nil
}

func sum(h hash.Hash) bundle.Digest { return bundle.Digest(h.Sum(nil)) }

// store reads a file, whose size and digest are those of entry, and emits its chunks as they
// are stored. A file that is another one by now is an error.
func (p *packer) store(f File, codec bundle.Codec, entry bundle.File, emit func([]byte, bundle.Digest) error) error {
	file, err := f.Open()
	if err != nil {
		return fmt.Errorf("path %q: %w", f.Path, err)
	}
	defer file.Close() //nolint:errcheck // only read
	h := sha256.New()
	in := io.TeeReader(file, h)
	c := &chunker{buf: p.buf[:0], emit: emit}
	if codec == bundle.Zstd {
		err = p.pack(c, in, entry.Size)
	} else {
		_, err = io.Copy(c, in)
	}
	if err == nil {
		err = c.flush()
	}
	if sum(h) != entry.Digest {
		return changed(f)
	}
	var word *refusal.Error
	if err != nil && !errors.As(err, &word) {
		err = fmt.Errorf("path %q: %w", f.Path, err)
	}
	return err
}

func changed(f File) error {
	return refusal.New(refusal.Digest, "path %q: the file changed while the bundle was built", f.Path)
}

// pack compresses in to w as one frame that states its size.
func (p *packer) pack(w io.Writer, in io.Reader, size uint64) error {
	single := size <= 256 // below that a frame states its size only so
	enc := p.encoder[single]
	if enc == nil {
		var err error
		if enc, err = newEncoder(single); err != nil {
			return err
		}
		p.encoder[single] = enc
	}
	enc.ResetContentSize(w, int64(size)) //nolint:gosec // at most MaxContent
	if _, err := io.Copy(enc, in); err != nil {
		return errors.Join(err, enc.Close())
	}
	return enc.Close()
}

// newEncoder returns the encoder of all builds. Its settings are part of the format: another
// level is another digest.
func newEncoder(single bool) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithWindowSize(bundle.MaxWindow),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(true),
		zstd.WithSingleSegment(single))
}
