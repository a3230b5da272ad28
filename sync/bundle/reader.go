package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"tidegate/policy/refusal"

	"github.com/klauspost/compress/zstd"
)

// A Source gives the stored bytes of a bundle. Chunk returns chunk i, which it has compared
// with its digest, in buf or elsewhere; it is used until the next call.
type Source interface {
	Chunk(i int, buf []byte) ([]byte, error)
}

// A Reader gives the files of a stored bundle. Each file is unpacked to at most the size
// that was signed, and its digest compared. It is for one goroutine, and so are the files
// opened from it, one at a time: they share a buffer of one chunk.
type Reader struct {
	m   *Manifest
	src Source
	buf []byte
	dec *zstd.Decoder
}

// NewReader returns a reader of the bundle m, whose chunks src gives.
func NewReader(m *Manifest, src Source) *Reader { return &Reader{m: m, src: src} }

// Manifest returns what is signed about the bundle.
func (r *Reader) Manifest() *Manifest { return r.m }

// Close frees what unpacking holds.
func (r *Reader) Close() error {
	if r.dec != nil {
		r.dec.Close()
		r.dec = nil
	}
	return nil
}

// ReadFile returns the content of a file of at most limit bytes. A path that the bundle
// does not hold is E_FORMAT, a larger file E_LIMIT, content that is not what was signed
// E_CODEC or E_DIGEST. A sealed file is returned as it is, sealed.
func (r *Reader) ReadFile(path string, limit int64) ([]byte, error) {
	f, ok := r.m.File(path)
	if !ok {
		return nil, refusal.New(refusal.Format, "path %q: the bundle holds no such file", path)
	}
	if f.Size > uint64(max(limit, 0)) {
		return nil, refusal.New(refusal.Limit, "path %q: %d bytes, at most %d are allowed", path, f.Size, limit)
	}
	in, err := r.Open(path)
	if err != nil {
		return nil, err
	}
	b := make([]byte, f.Size)
	if _, err := io.ReadFull(in, b); err != nil && err != io.EOF {
		if err == io.ErrUnexpectedEOF {
			err = refusal.New(refusal.Digest, "path %q: shorter than its size", path)
		}
		return nil, err
	}
	// The end is where size and digest are judged.
	if _, err := in.Read(make([]byte, 1)); err != io.EOF {
		return nil, err
	}
	return b, nil
}

// Open returns the content of a file as a stream. Only a stream that was read to its
// io.EOF is what was signed; before it, nobody knows. Opening another file ends it.
func (r *Reader) Open(path string) (io.Reader, error) {
	f, ok := r.m.File(path)
	if !ok {
		return nil, refusal.New(refusal.Format, "path %q: the bundle holds no such file", path)
	}
	stored := &storedReader{r: r, f: f}
	out := &fileReader{f: f, sum: sha256.New(), src: stored}
	if f.Codec == Zstd {
		frame := newFrameReader(stored, f.Size)
		if err := r.unpack(frame); err != nil {
			return nil, codecError(f, err)
		}
		out.src, out.frame = r.dec, frame
	}
	return out, nil
}

// unpack points the one decoder at src.
func (r *Reader) unpack(src io.Reader) error {
	if r.dec != nil {
		return r.dec.Reset(src)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(MaxWindow),
		zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	r.dec = d
	return d.Reset(src)
}

// Verify reads every file to its end. It is the codec part of the verification of a
// bundle.
func (r *Reader) Verify(ctx context.Context) error {
	buf := make([]byte, 32<<10)
	for _, f := range r.m.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		in, err := r.Open(f.Path)
		if err != nil {
			return err
		}
		for {
			_, err := in.Read(buf)
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// chunk returns the stored bytes of a chunk by its digest.
func (r *Reader) chunk(c Chunk) ([]byte, error) {
	i, ok := r.m.Place(c.Digest)
	if !ok {
		return nil, fmt.Errorf("chunk %s has no place in the bundle", c.Digest)
	}
	if r.buf == nil {
		r.buf = make([]byte, largest(r.m.chunks))
	}
	b, err := r.src.Chunk(i, r.buf)
	if err != nil {
		return nil, err
	}
	if uint64(len(b)) != c.Size {
		return nil, fmt.Errorf("chunk %d: got %d bytes, want %d", i, len(b), c.Size)
	}
	return b, nil
}

// A storedReader reads the stored bytes of one file, chunk by chunk.
type storedReader struct {
	r    *Reader
	f    *File
	next int
	rest []byte
}

func (s *storedReader) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.next == len(s.f.Chunks) {
			return 0, io.EOF
		}
		b, err := s.r.chunk(s.f.Chunks[s.next])
		if err != nil {
			return 0, err
		}
		s.rest = b
		s.next++
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// A fileReader reads the plain bytes of one file and judges them at the end.
type fileReader struct {
	f     *File
	src   io.Reader
	frame *frameReader // nil unless the file is compressed
	sum   hash.Hash
	n     uint64
	err   error
}

func (r *fileReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	// One byte more than the size shows a lie; more than that is never unpacked.
	if room := r.f.Size + 1 - r.n; uint64(len(p)) > room {
		p = p[:room]
	}
	n, err := r.src.Read(p)
	r.n += uint64(n) //nolint:gosec // a count
	r.sum.Write(p[:n])
	switch {
	case r.n > r.f.Size:
		r.err = refusal.New(refusal.Digest, "path %q: unpacks to more than its size of %d bytes", r.f.Path, r.f.Size)
		return 0, r.err
	case err == io.EOF:
		if r.err = r.judge(); r.err == nil {
			r.err = io.EOF
		}
	case err != nil:
		r.err = codecError(r.f, err)
	}
	return n, r.err
}

// judge compares what was read to the end.
func (r *fileReader) judge() error {
	if r.frame != nil {
		// The decoder may stop at the end of the frame; what follows is ours to see.
		if _, err := io.Copy(io.Discard, r.frame); err != nil {
			return codecError(r.f, err)
		}
	}
	if r.n != r.f.Size {
		return refusal.New(refusal.Digest, "path %q: has %d bytes, its size is %d", r.f.Path, r.n, r.f.Size)
	}
	if !bytes.Equal(r.sum.Sum(nil), r.f.Digest[:]) {
		return refusal.New(refusal.Digest, "path %q: the plain content is not what the manifest says", r.f.Path)
	}
	return nil
}

// codecError gives an error of the decoder its word; one that has a word keeps it, and so
// does one of the store behind it.
func codecError(f *File, err error) error {
	if _, coded := refusal.Of(err); coded {
		return refuseAt(fmt.Sprintf("path %q", f.Path), err)
	}
	return refusal.New(refusal.Codec, "path %q: %w", f.Path, err)
}

// NewFileSource returns the chunks of the bundle m that lies in file behind a head of n
// bytes.
func NewFileSource(file io.ReaderAt, m *Manifest, n int64) Source {
	return &fileSource{file: file, m: m, at: m.Offsets(n)}
}

type fileSource struct {
	file io.ReaderAt
	m    *Manifest
	at   []int64
}

func (s *fileSource) Chunk(i int, buf []byte) ([]byte, error) {
	c := s.m.chunks[i]
	if uint64(cap(buf)) < c.Size {
		buf = make([]byte, c.Size)
	}
	buf = buf[:c.Size]
	if _, err := s.file.ReadAt(buf, s.at[i]); err == io.EOF {
		return nil, refusal.New(refusal.Truncated, "ends inside chunk %d", i)
	} else if err != nil {
		return nil, MediaError(err)
	}
	return buf, c.Compare(i, buf)
}
