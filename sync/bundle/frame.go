package bundle

import (
	"encoding/binary"
	"io"
	"tidegate/policy/refusal"
)

// A frameReader passes one zstd frame (RFC 8878 §3.1.1) through and walks its heads on the
// way. The library behind it accepts frames one after another, skippable frames and
// windows of any size without a word; here the stream is exactly one frame, with the
// content size that was signed, a window of at most 1 MiB and no dictionary. What is not
// so is E_CODEC, at the latest when the stream ends.
type frameReader struct {
	src  io.Reader
	size uint64 // the content size the head must state

	state frameState
	need  int // bytes of the current head that are still to come
	skip  int // bytes of block content that are still to come
	head  []byte
	sum   bool // the frame ends with a checksum of 4 bytes
	room  [maxFrameHead]byte
}

type frameState uint8

const (
	frameStart frameState = iota // magic and descriptor
	frameHead                    // the rest of the head
	blockHead
	frameSum
	frameEnd
)

const (
	frameMagic   = 0xFD2FB528
	maxFrameHead = 18
	maxBlock     = 128 << 10
)

func newFrameReader(src io.Reader, size uint64) *frameReader {
	f := &frameReader{src: src, size: size, need: 5}
	f.head = f.room[:0]
	return f
}

func badFrame(format string, args ...any) error {
	return refusal.New(refusal.Codec, "zstd: "+format, args...)
}

func (f *frameReader) Read(p []byte) (int, error) {
	n, err := f.src.Read(p)
	if walk := f.walk(p[:n]); walk != nil {
		return 0, walk
	}
	if err == io.EOF && f.state != frameEnd {
		return n, badFrame("the frame is cut off")
	}
	return n, err
}

func (f *frameReader) walk(b []byte) error {
	for len(b) > 0 {
		if f.skip > 0 {
			n := min(f.skip, len(b))
			f.skip -= n
			b = b[n:]
			continue
		}
		if f.state == frameEnd {
			return badFrame("more bytes after the frame")
		}
		n := min(f.need, len(b))
		f.head = append(f.head, b[:n]...)
		f.need -= n
		b = b[n:]
		if f.need == 0 {
			if err := f.step(); err != nil {
				return err
			}
		}
	}
	return nil
}

// step judges the head that is complete in f.head and says what comes next.
func (f *frameReader) step() error {
	switch f.state {
	case frameStart:
		if binary.LittleEndian.Uint32(f.head) != frameMagic {
			return badFrame("not a frame")
		}
		d := f.head[4]
		single := d&(1<<5) != 0
		f.sum = d&(1<<2) != 0
		switch {
		case d&(1<<3) != 0:
			return badFrame("a reserved bit is set")
		case d&3 != 0:
			return badFrame("the frame wants a dictionary")
		case d>>6 == 0 && !single:
			return badFrame("the frame does not state its content size")
		}
		f.need = sizeBytes(d)
		if !single {
			f.need++
		}
		f.state = frameHead
		return nil // f.head keeps the descriptor
	case frameHead:
		window, size := f.parseHead()
		switch {
		case size != f.size:
			return badFrame("content size is %d, the manifest says %d", size, f.size)
		case window > MaxWindow:
			return badFrame("window of %d bytes, at most %d are allowed", window, MaxWindow)
		}
		return f.next(blockHead, 3)
	case blockHead:
		h := uint32(f.head[0]) | uint32(f.head[1])<<8 | uint32(f.head[2])<<16
		length := int(h >> 3)
		if length > maxBlock {
			return badFrame("a block of %d bytes", length)
		}
		switch h >> 1 & 3 {
		case 1: // one byte, repeated
			length = 1
		case 3:
			return badFrame("a block of reserved type")
		}
		f.skip = length
		switch last := h&1 != 0; {
		case last && f.sum:
			return f.next(frameSum, 4)
		case last:
			return f.next(frameEnd, 0)
		}
		return f.next(blockHead, 3)
	case frameSum: // compared by the decoder
		return f.next(frameEnd, 0)
	}
	return badFrame("more bytes after the frame")
}

func (f *frameReader) next(s frameState, need int) error {
	f.state, f.need, f.head = s, need, f.head[:0]
	return nil
}

// sizeBytes is the width of the content size that descriptor d announces.
func sizeBytes(d byte) int {
	if d>>6 == 0 {
		return 1
	}
	return 1 << (d >> 6)
}

// parseHead reads window and content size of the complete head.
func (f *frameReader) parseHead() (window, size uint64) {
	d, rest := f.head[4], f.head[5:]
	single := d&(1<<5) != 0
	if !single {
		exp, mantissa := rest[0]>>3, uint64(rest[0]&7)
		base := uint64(1) << (10 + exp)
		window, rest = base+base/8*mantissa, rest[1:]
	}
	switch len(rest) {
	case 1:
		size = uint64(rest[0])
	case 2:
		size = uint64(binary.LittleEndian.Uint16(rest)) + 256
	case 4:
		size = uint64(binary.LittleEndian.Uint32(rest))
	case 8:
		size = binary.LittleEndian.Uint64(rest)
	}
	if single {
		window = size
	}
	return window, size
}
