package gateway

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"testing"
)

// wsFrame makes a masked frame as a client sends it.
func wsFrame(first byte, payload string) []byte {
	b := []byte{first, 0x80}
	switch {
	case len(payload) > 0xffff:
		b[1] |= 127
		b = binary.BigEndian.AppendUint64(b, uint64(len(payload)))
	case len(payload) > 125:
		b[1] |= 126
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	default:
		b[1] |= byte(len(payload))
	}
	b = append(b, 1, 2, 3, 4)
	return append(b, payload...)
}

// FuzzFrames shows that what a limited WebSocket lets through is, byte for byte, a beginning of
// what came, and that no message above the limit is whole in it.
func FuzzFrames(f *testing.F) {
	for _, b := range [][]byte{
		wsFrame(0x81, "hello"), wsFrame(0x82, string(make([]byte, 300))), append(wsFrame(0x01, "a"), wsFrame(0x80, "b")...),
		append(wsFrame(0x01, "a"), append(wsFrame(0x89, "ping"), wsFrame(0x80, "b")...)...), wsFrame(0x88, "\x03\xe8bye"),
		{0xc1, 0x80, 0, 0, 0, 0},
		{0x81, 0x01, 'x'},
		{0x81, 0xfe, 0, 1, 0, 0, 0, 0, 'x'},
		{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0},
	} {
		f.Add(b)
	}
	const limit = 200
	c := &call{ed: &Edition{gw: &Gateway{o: Options{Log: slog.New(slog.DiscardHandler)}}}}
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		h := &half{t: &tunnel{c: c}, from: bytes.NewReader(in), masked: true, to: &frameWriter{w: &out, masked: true}, back: &frameWriter{w: io.Discard}}
		h.limit(0, limit)
		buf := make([]byte, 64)
		for {
			b, err := h.frame(buf)
			if b != nil || err != nil {
				break
			}
		}
		if !bytes.HasPrefix(in, out.Bytes()) {
			t.Fatalf("%x became %x", in, out.Bytes())
		}
		// An own reading of what passed.
		message, inside := uint64(0), false
		for p := out.Bytes(); len(p) >= 2; {
			n, at := uint64(p[1]&0x7f), 2
			switch {
			case n == 126 && len(p) >= 4:
				n, at = uint64(binary.BigEndian.Uint16(p[2:])), 4
			case n == 127 && len(p) >= 10:
				n, at = binary.BigEndian.Uint64(p[2:]), 10
			}
			op := p[0] & 0x0f
			switch {
			case p[0]&0x70 != 0 || p[1]&0x80 == 0:
				t.Fatalf("%x passed", p)
			case op >= 8 && (n > 125 || p[0]&0x80 == 0):
				t.Fatalf("a control frame passed: %x", p)
			case op < 8:
				if (op == 0) != inside {
					t.Fatalf("a fragment out of order passed: %x", p)
				}
				if op != 0 {
					message = 0
				}
				inside = p[0]&0x80 == 0
				if message += n; message > limit {
					t.Fatalf("a message of %d bytes passed", message)
				}
			}
			size := uint64(at) + 4 + n
			if uint64(len(p)) < size {
				break // the input ended inside it
			}
			p = p[size:]
		}
	})
}

func BenchmarkFrame(b *testing.B) {
	frame := wsFrame(0x81, string(make([]byte, 200)))
	r := bytes.NewReader(frame)
	c := &call{ed: &Edition{gw: &Gateway{}}}
	h := &half{t: &tunnel{c: c}, from: r, masked: true, to: &frameWriter{w: io.Discard}, back: &frameWriter{w: io.Discard}}
	h.limit(1<<40, 1000)
	buf := make([]byte, blockBytes)
	b.ReportAllocs()
	for b.Loop() {
		r.Reset(frame)
		if breach, err := h.frame(buf); breach != nil || err != nil {
			b.Fatal(breach, err)
		}
	}
}
