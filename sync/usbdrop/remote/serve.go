package remote

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"tidegate/platform/media"
	"tidegate/policy/refusal"
)

// maxOpen bounds the files that are open at once.
const maxOpen = 256

// A Volume is what a helper holds; [media.Folder] is one.
type Volume interface {
	List(dir string) (all []media.Entry, more bool, err error)
	HasFolder(dir string) (bool, error)
	Read(name string) (io.ReadCloser, error)
	MakeFolder(dir string) error
	Write(dir string, fill func(io.Writer) (name string, err error)) (int64, error)
	Remove(name string) error
	Free() int64
}

// Serve answers the device's questions about v on c, of which in has read ahead (nil: nothing), until the
// device lets it go, and returns the exit code that the device names. tell is called with lines for a
// person; last says that nothing more is known for now, as while a bundle is on trial. An error of tell
// ends Serve.
func Serve(c net.Conn, in *bufio.Reader, v Volume, tell func(line string, last bool) error) (code int, err error) {
	h := &helper{c: newConn(c, in), v: v, files: map[int]io.ReadCloser{}, buf: make([]byte, maxBytes)}
	defer func() {
		for _, f := range h.files {
			_ = f.Close()
		}
	}()
	for {
		m, _, err := h.c.receive(nil)
		if err != nil {
			return 1, fmt.Errorf("the device is gone: %w", err)
		}
		switch m.Op {
		case opTell:
			if err := tell(m.Text, m.End); err != nil {
				return 1, err
			}
			continue
		case opBye:
			return int(m.N), nil
		}
		a, payload, err := h.answer(m)
		a.fail(err)
		if err := h.c.send(a, payload); err != nil {
			return 1, fmt.Errorf("the device is gone: %w", err)
		}
	}
}

type helper struct {
	c     conn
	v     Volume
	files map[int]io.ReadCloser
	last  int
	buf   []byte
}

func (h *helper) answer(m message) (a message, payload []byte, err error) {
	switch m.Op {
	case opList:
		a.Entries, a.Yes, err = h.v.List(m.Name)
	case opHas:
		a.Yes, err = h.v.HasFolder(m.Name)
	case opOpen:
		a.File, err = h.open(m.Name)
	case opRead:
		return h.read(m)
	case opClose:
		if f := h.files[m.File]; f != nil {
			delete(h.files, m.File)
			err = f.Close()
		}
	case opMake:
		err = h.v.MakeFolder(m.Name)
	case opWrite:
		a.N, err = h.write(m.Name)
	case opRemove:
		err = h.v.Remove(m.Name)
	case opFree:
		a.N = h.v.Free()
	default:
		err = fmt.Errorf("unknown question %q", m.Op)
	}
	return a, nil, err
}

func (h *helper) open(name string) (int, error) {
	if len(h.files) >= maxOpen {
		return 0, refusal.New(refusal.Limit, "%d files are open", maxOpen)
	}
	f, err := h.v.Read(name)
	if err != nil {
		return 0, err
	}
	h.last++
	h.files[h.last] = f
	return h.last, nil
}

func (h *helper) read(m message) (a message, payload []byte, err error) {
	f := h.files[m.File]
	if f == nil {
		return a, nil, errors.New("the file is not open")
	}
	n, err := f.Read(h.buf[:max(min(m.N, maxBytes), 0)])
	if errors.Is(err, io.EOF) {
		a.End, err = true, nil
	}
	return a, h.buf[:n], err
}

// write writes a file whose content follows. What is sent after an error is taken off the line.
func (h *helper) write(dir string) (int64, error) {
	ended := false
	var lost error
	fill := func(w io.Writer) (string, error) {
		var fault error
		for {
			m, b, err := h.c.receive(h.buf)
			switch {
			case err != nil:
				lost = err
				return "", err
			case m.Op == opData && fault == nil:
				_, fault = w.Write(b)
			case m.Op == opData:
			case m.Op == opEnd:
				ended = true
				if fault == nil {
					fault = m.err()
				}
				return m.Name, fault
			default:
				lost = fmt.Errorf("%q within a file", m.Op)
				return "", lost
			}
		}
	}
	n, err := h.v.Write(dir, fill)
	if !ended && lost == nil { // the volume refused before it asked for the content
		_, _ = fill(io.Discard)
	}
	return n, err
}
