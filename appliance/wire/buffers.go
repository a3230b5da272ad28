package wire

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// Sizes of the pooled blocks: a head and a small body fit the small one; bodies are
// copied through the large one.
const (
	smallBlock = 4 << 10
	largeBlock = 32 << 10
)

// mostRoomy bounds the large blocks that bodies are copied through at a time, 8 MiB to a server
// or target. Beyond it bodies go through small ones: a flood of them becomes slower and not larger.
const mostRoomy = 256

// A block is a buffer that one call owns at a time.
type block struct {
	b     []byte
	roomy bool // counted
}

// buffers lends blocks. What comes back is wiped, so that a block never carries one
// client's bytes into another's call, even past a fault in the bookkeeping of lengths.
type buffers struct {
	small, large sync.Pool
	roomies      atomic.Int32 // lent
}

// take returns a zeroed block of at least n bytes.
func (p *buffers) take(n int) *block {
	switch {
	case n <= smallBlock:
		if b, ok := p.small.Get().(*block); ok {
			return b
		}
		return &block{b: make([]byte, smallBlock)}
	case n <= largeBlock:
		if b, ok := p.large.Get().(*block); ok {
			return b
		}
		return &block{b: make([]byte, largeBlock)}
	}
	return &block{b: make([]byte, n)}
}

// roomy returns a zeroed block to copy a body through: a large one, or a small one when many
// are lent.
func (p *buffers) roomy() *block {
	if p.roomies.Add(1) > mostRoomy {
		p.roomies.Add(-1)
		return p.take(smallBlock)
	}
	b := p.take(largeBlock)
	b.roomy = true
	return b
}

// give takes b back; nil is allowed. No slice or string of it may be used any more.
func (p *buffers) give(b *block) {
	if b == nil {
		return
	}
	if b.roomy {
		b.roomy = false
		p.roomies.Add(-1)
	}
	clear(b.b)
	switch len(b.b) {
	case smallBlock:
		p.small.Put(b)
	case largeBlock:
		p.large.Put(b)
	}
}

// text returns b's bytes as a string without copying. It changes when b does: callers keep it
// only as long as they own b.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// bytesOf returns s's bytes without copying; they must not be changed.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
