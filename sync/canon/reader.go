package canon

import (
	"bytes"
	"errors"
	"io"
	"tidegate/policy/refusal"
)

// selfDescribed is tag 55799 (RFC 8949 §3.4.6) and the head of an array of two, with
// which all our files begin.
var selfDescribed = [4]byte{0xd9, 0xd9, 0xf7, 0x82}

// maxWord is the longest word of a magic: its head is one byte.
const maxWord = 23

// Magic returns the first bytes of a file of ours: self-described CBOR
// ["tide-bundle", 1] for the word "tide-bundle".
func Magic(word string) []byte {
	b := AppendText(append([]byte(nil), selfDescribed[:]...), word)
	return AppendUint(b, 1)
}

// A Reader reads a file that is a CBOR sequence (RFC 8742): a magic, then byte
// strings, then the end. It reads each byte once and forward only, allocates in
// step with what really arrives, and passes errors of the source on, wrapped, but
// for an early end, which is E_TRUNCATED. It is for one goroutine.
type Reader struct {
	src  io.Reader
	off  int64  // bytes taken from src
	body uint64 // bytes left of the byte string whose head was read
}

// NewReader returns a reader at the start of src, which need not be buffered for
// large byte strings but should be for small ones.
func NewReader(src io.Reader) *Reader { return &Reader{src: src} }

// Offset returns the number of bytes read so far.
func (r *Reader) Offset() int64 { return r.off }

// fill reads len(p) bytes, and returns those it got when the source ends before.
func (r *Reader) fill(p []byte) (int, error) {
	n, err := io.ReadFull(r.src, p)
	r.off += int64(n)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

func (r *Reader) truncated(what string) error {
	return refusal.New(refusal.Truncated, "ends at byte %d, inside %s", r.off, what)
}

// Word reads the magic, whatever file of ours this is, and returns its word. A file
// that is not ours is E_FORMAT; a format of ours with another number than 1 is
// E_FORMAT_VERSION. A file that ends inside the magic is E_TRUNCATED once the tag of
// its first three bytes is there, before that it is not ours.
func (r *Reader) Word() (string, error) {
	var b [len(selfDescribed) + 1 + maxWord + 1]byte
	n, err := r.fill(b[:5])
	if err != nil && err != io.EOF {
		return "", err
	}
	if n < 3 || !bytes.HasPrefix(selfDescribed[:], b[:min(n, 4)]) {
		return "", refusal.New(refusal.Format, "magic: not a Tidegate file")
	}
	if n < 5 {
		return "", r.truncated("the magic")
	}
	length := int(b[4]) - majorText<<5
	if length < 1 || length > maxWord {
		return "", refusal.New(refusal.Format, "magic: not a Tidegate file")
	}
	rest := b[5 : 5+length+1]
	n, err = r.fill(rest)
	if err != nil && err != io.EOF {
		return "", err
	}
	const ours = "tide-"
	known := min(n, length, len(ours))
	if string(rest[:known]) != ours[:known] || length <= len(ours) {
		return "", refusal.New(refusal.Format, "magic: not a Tidegate file")
	}
	if n < len(rest) {
		return "", r.truncated("the magic")
	}
	word, version := string(rest[:length]), rest[length]
	if version != 1 {
		return "", refusal.New(refusal.FormatVersion, "magic: %s of a format this program does not know", word).
			WithHint("update this program")
	}
	return word, nil
}

// Magic reads the magic and wants the given word; a file of ours of another kind is
// E_FORMAT.
func (r *Reader) Magic(word string) error {
	got, err := r.Word()
	if err != nil {
		return err
	}
	if got != word {
		return refusal.New(refusal.Format, "magic: a %s file, want %s", got, word)
	}
	return nil
}

// ByteStringHead reads the head of the next byte string and returns its length, from
// 0 to 2^64−1; the content is then read by [Reader.Read]. Where the sequence ends it
// returns io.EOF. A head that is not the shortest is E_CBOR_CANON, an item of another
// kind E_FORMAT.
func (r *Reader) ByteStringHead() (uint64, error) {
	if r.body > 0 {
		return 0, errors.New("canon: the byte string before was not read to its end")
	}
	at := r.off
	var b [9]byte
	if _, err := r.fill(b[:1]); err != nil {
		return 0, err
	}
	size := 1
	if info := b[0] & 31; info >= 24 && info <= 27 {
		size += 1 << (info - 24)
	}
	if _, err := r.fill(b[1:size]); err == io.EOF {
		return 0, r.truncated("the head of a byte string")
	} else if err != nil {
		return 0, err
	}
	major, n, _, why := head(b[:size])
	if why != "" {
		return 0, refusal.New(refusal.CBORCanon, "CBOR is not canonical at byte %d: %s", at, why)
	}
	if major != majorBytes {
		return 0, refusal.New(refusal.Format, "item at byte %d is not a byte string", at)
	}
	r.body = n
	return n, nil
}

// Read reads from the byte string whose head was read last, and returns io.EOF at
// its end. A source that ends before is E_TRUNCATED.
func (r *Reader) Read(p []byte) (int, error) {
	if r.body == 0 {
		return 0, io.EOF
	}
	if uint64(len(p)) > r.body {
		p = p[:r.body]
	}
	n, err := r.src.Read(p)
	r.off += int64(n)
	r.body -= uint64(n)
	if err == io.EOF {
		err = nil
		if r.body > 0 {
			err = r.truncated("a byte string")
		}
	}
	return n, err
}

// firstStep is what [Reader.Bytes] allocates before it has seen a byte of a string.
const firstStep = 64 << 10

// Bytes reads one whole byte string of at most limit bytes; a longer one is E_LIMIT
// before anything is allocated, no string at all is E_TRUNCATED. Memory grows with
// what arrives: a length that lies costs 64 KiB or twice what is really there.
func (r *Reader) Bytes(limit int) ([]byte, error) {
	n, err := r.ByteStringHead()
	if err == io.EOF {
		return nil, refusal.New(refusal.Truncated, "ends at byte %d, where a byte string should begin", r.off)
	}
	if err != nil {
		return nil, err
	}
	if n > uint64(max(limit, 0)) {
		return nil, refusal.New(refusal.Limit, "byte string of %d bytes before byte %d, at most %d are allowed", n, r.off, limit)
	}
	b := make([]byte, 0, min(int(n), firstStep))
	for len(b) < int(n) {
		if len(b) == cap(b) {
			grown := make([]byte, len(b), min(int(n), 2*cap(b)))
			copy(grown, b)
			b = grown
		}
		m, err := io.ReadFull(r, b[len(b):cap(b)])
		b = b[:len(b)+m]
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// End wants the source to end here; a byte more is E_TRAILING.
func (r *Reader) End() error {
	at := r.off
	var b [1]byte
	switch _, err := r.fill(b[:]); err {
	case io.EOF:
		return nil
	case nil:
		return refusal.New(refusal.Trailing, "more bytes after the end, at byte %d", at)
	default:
		return err
	}
}
