package wire

import (
	"bytes"
	"io"
)

var (
	errChunkSize   = &refusal{400, "malformed chunk size"}
	errChunkLine   = &refusal{400, "chunk line is too long"}
	errChunkEnd    = &refusal{400, "chunk does not end in CR LF"}
	errTrailer     = &refusal{400, "malformed trailer"}
	errTrailerLong = &refusal{400, "trailers are too long"}
)

// Bounds of chunked framing. Real extensions are rare and short; a sender that writes
// more of them than this wastes our time.
const (
	maxChunkLine  = 256
	maxExtensions = 16 << 10
	maxTrailers   = 4 << 10
	maxTrailer    = 32 // fields
)

// How a body ends.
const (
	endNone    = iota // there is none
	endLength         // after left bytes
	endChunked        // RFC 9112 §7.1
	endClose          // with the connection; responses only
)

// A source yields what comes from a connection next; it blocks for at least one byte.
type source interface{ fill(p []byte) (int, error) }

// A body reads a message's body out of a connection. It begins in what was read together
// with the head and may refill the rest of the head's block, but not the head, whose strings
// are in use.
type body struct {
	src  source
	pool *buffers
	area []byte // may be refilled
	r, w int    // area[r:w] is unread
	big  *block // area's block when it is not the head's

	end     int
	left    int64 // of the body, or of the chunk
	inChunk bool  // the CR LF of a chunk's data is still to come
	ext     int   // bytes of chunk extensions so far
	err     error // sticky; io.EOF after the end
	trailer Header
}

// begin starts a body in a block whose first head bytes are the head and which holds n
// bytes in all.
func (b *body) begin(src source, pool *buffers, in []byte, head, n, end int, length int64) {
	*b = body{src: src, pool: pool, area: in[head:], w: n - head, end: end, left: length}
	if end == endNone || end == endLength && length == 0 {
		b.end, b.err = endNone, io.EOF
	}
	if end == endChunked {
		b.left = 0
	}
}

// release gives back what the body holds. Pieces and leftovers end with it.
func (b *body) release() {
	b.pool.give(b.big)
	*b = body{err: io.ErrClosedPipe}
}

// buffered returns how many bytes can be had without reading the connection; some of
// them may be framing.
func (b *body) buffered() int { return b.w - b.r }

// waits reports whether the next piece must wait for the connection.
func (b *body) waits() bool {
	u := b.area[b.r:b.w]
	if b.err != nil {
		return false
	}
	if b.end != endChunked || b.left > 0 {
		return len(u) == 0
	}
	if b.inChunk {
		if len(u) < 2 {
			return true
		}
		u = u[2:]
	}
	i := bytes.IndexByte(u, '\n')
	switch {
	case i < 0:
		return true
	case u[0] == '0': // the last chunk, most likely, with its trailers
		return !bytes.Contains(u, []byte("\r\n\r\n"))
	}
	return len(u) == i+1
}

// done reports whether the body was read to its end.
func (b *body) done() bool { return b.err == io.EOF }

// piece returns the next bytes of the body, at most max, valid until the next call.
func (b *body) piece(max int) ([]byte, error) {
	for b.err == nil {
		if b.end == endChunked && b.left == 0 {
			b.err = b.chunk()
			continue
		}
		if b.r == b.w {
			if b.err = b.refill(); b.err != nil {
				break
			}
		}
		n := min(b.w-b.r, max)
		if b.end != endClose {
			if int64(n) > b.left {
				n = int(b.left)
			}
			b.took(n)
		}
		p := b.area[b.r : b.r+n]
		b.r += n
		return p, nil
	}
	return nil, b.err
}

// took notes that n bytes of the body went out.
func (b *body) took(n int) {
	b.left -= int64(n)
	if b.left > 0 {
		return
	}
	if b.end == endLength {
		b.err = io.EOF
	} else {
		b.inChunk = true
	}
}

// Read reads the body into p, past the buffer where that saves a copy.
func (b *body) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, b.err
	}
	if b.err == nil && b.r == b.w && len(p) >= smallBlock/2 && (b.end == endClose || b.left >= int64(len(p))) {
		n, err := b.src.fill(p)
		if n > 0 && b.end != endClose {
			b.took(n)
		}
		if n == 0 && err != nil {
			b.err = b.broken(err)
			return 0, b.err
		}
		return n, nil
	}
	q, err := b.piece(len(p))
	return copy(p, q), err
}

// broken is what the end of the connection means here.
func (b *body) broken(err error) error {
	if err != io.EOF || b.end == endClose {
		return err
	}
	return io.ErrUnexpectedEOF
}

// refill reads more behind what is unread, which it first moves to the front of area.
func (b *body) refill() error {
	if b.big == nil && b.cramped() {
		big := b.pool.roomy()
		b.w = copy(big.b, b.area[b.r:b.w])
		b.r, b.area, b.big = 0, big.b, big
	}
	if b.r > 0 {
		b.w = copy(b.area, b.area[b.r:b.w])
		b.r = 0
	}
	if b.w == len(b.area) {
		return errChunkLine
	}
	n, err := b.src.fill(b.area[b.w:])
	if n > 0 {
		b.w += n
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return b.broken(err)
}

// cramped reports whether the rest of the head's block is too small for what comes.
func (b *body) cramped() bool {
	if len(b.area) < 2*maxChunkLine {
		return true
	}
	return b.r == b.w && (b.end != endLength || b.left > int64(len(b.area)))
}

// line returns the next line without its CR LF.
func (b *body) line(max int, long error) ([]byte, error) {
	for seen := 0; ; {
		u := b.area[b.r:b.w]
		if i := bytes.IndexByte(u[seen:], '\n'); i >= 0 {
			i += seen
			if i == 0 || u[i-1] != '\r' {
				return nil, errLineEnd
			}
			b.r += i + 1
			return u[:i-1], nil
		}
		if seen = len(u); seen > max {
			return nil, long
		}
		if err := b.refill(); err != nil {
			return nil, err
		}
	}
}

// chunk reads the framing up to the next chunk's data, or to the end of the body.
func (b *body) chunk() error {
	if b.inChunk {
		for b.w-b.r < 2 {
			// The first byte may already tell; nobody waits for a second then.
			if b.w-b.r == 1 && b.area[b.r] != '\r' {
				return errChunkEnd
			}
			if err := b.refill(); err != nil {
				return err
			}
		}
		if b.area[b.r] != '\r' || b.area[b.r+1] != '\n' {
			return errChunkEnd
		}
		b.r += 2
		b.inChunk = false
	}
	l, err := b.line(maxChunkLine, errChunkLine)
	if err != nil {
		return err
	}
	size, ext, ok := chunkSize(l)
	if !ok {
		return errChunkSize
	}
	if b.ext += ext; b.ext > maxExtensions {
		return errChunkLine
	}
	if size > 0 {
		b.left = size
		return nil
	}
	return b.trailers()
}

// chunkSize reads hex digits and, behind ";", extensions, whose length it returns.
func chunkSize(l []byte) (size int64, ext int, ok bool) {
	i := 0
	for i < len(l) && unhex(l[i]) < 16 {
		if i == 15 {
			return 0, 0, false
		}
		size = size<<4 | int64(unhex(l[i]))
		i++
	}
	if i == 0 {
		return 0, 0, false
	}
	if i == len(l) {
		return size, 0, true
	}
	return size, len(l) - i, l[i] == ';' && len(l) <= maxChunkLine && all(l[i:], isValue)
}

// trailers reads the trailer section. Fields that frame, route, authenticate or change how
// the body is read are dropped (RFC 9110 §6.5.1).
func (b *body) trailers() error {
	total := 0
	for n := 0; ; n++ {
		l, err := b.line(maxTrailers, errTrailerLong)
		if err != nil {
			return err
		}
		if len(l) == 0 {
			return io.EOF
		}
		if total += len(l); total > maxTrailers || n == maxTrailer {
			return errTrailerLong
		}
		colon := bytes.IndexByte(l, ':')
		if colon < 1 || !all(l[:colon], isToken) || !all(l[colon+1:], isValue) {
			return errTrailer
		}
		name := l[:colon]
		if all(name, isName) && !noTrailer(name) {
			b.trailer = append(b.trailer, Field{string(name), string(bytes.Trim(l[colon+1:], " \t"))})
		}
	}
}

// noTrailer reports whether a field means nothing good in a trailer.
func noTrailer(name []byte) bool {
	for _, s := range [...]string{
		"host", "authorization", "cookie", "set-cookie", "content-type", "content-encoding", "content-range",
		"cache-control", "expect", "max-forwards", "pragma", "range", "age", "date", "expires", "location",
		"retry-after", "vary", "warning", "www-authenticate", "forwarded",
	} {
		if fold(name, s) {
			return true
		}
	}
	return hopByHop(name) || len(name) > 2 && fold(name[:2], "x-") && bytes.Contains(bytes.ToLower(name), []byte("forward"))
}
