package upstream

import (
	"bytes"
	"io"
	"tidegate/appliance/wire"
)

// A replay is a request body that may be sent more than once. Up to replayBytes are kept
// as they are first read; a longer body can be sent once.
type replay struct {
	src   io.Reader
	kept  bytes.Buffer
	over  bool // more was read than is kept
	begun bool
}

// keep makes req's body repeatable if repeat asks for it, and returns nil for a request
// without a body.
func keep(req *wire.Request, repeat bool) *replay {
	if req.Body == nil {
		return nil
	}
	r := &replay{src: req.Body, over: !repeat || req.Length > replayBytes}
	req.Body = r
	return r
}

// Read reads the source and keeps what it reads.
func (r *replay) Read(p []byte) (int, error) {
	r.begun = true
	n, err := r.src.Read(p)
	if !r.over && n > 0 {
		if r.kept.Len()+n > replayBytes {
			r.over = true
			r.kept = bytes.Buffer{}
		} else {
			r.kept.Write(p[:n])
		}
	}
	return n, err
}

// rewind makes req ready for another try and reports whether it can be.
func (r *replay) rewind(req *wire.Request) bool {
	if r == nil || !r.begun {
		return true
	}
	if r.over {
		return false
	}
	next := &replay{src: io.MultiReader(bytes.NewReader(bytes.Clone(r.kept.Bytes())), r.src)}
	*r = *next
	req.Body = r
	return true
}
