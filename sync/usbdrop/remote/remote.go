// Package remote lets a process with little privilege hold a stick for the device: the helper, which
// sees the mounted volume and nothing else of worth, runs [Serve]; the device uses the volume through
// a [Line] as it would use one of its own.
//
// It promises that a helper which stalls, lies or goes away costs the device an error of the medium
// and nothing else: every message is bounded before it is read. Both ends are of one version.
package remote

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync"
	"tidegate/platform/media"
	"tidegate/policy/refusal"
	"time"
)

// Bounds of a message: its line, and the bytes behind it.
const (
	maxLine  = 2 << 20 // a folder of 4,096 long names
	maxBytes = 256 << 10
)

// The operations.
const (
	opList   = "list"
	opHas    = "has"
	opOpen   = "open"
	opRead   = "read"
	opClose  = "close"
	opMake   = "make"
	opWrite  = "write" // then opData, and opEnd with the name or an error
	opData   = "data"
	opEnd    = "end"
	opRemove = "remove"
	opFree   = "free"
	opTell   = "tell" // to a person; it has no answer
	opBye    = "bye"
)

// A message is a line of JSON, and Bytes bytes behind it.
type message struct {
	Op      string        `json:"op,omitempty"`
	Name    string        `json:"name,omitempty"`
	File    int           `json:"file,omitempty"`
	N       int64         `json:"n,omitempty"`
	Yes     bool          `json:"yes,omitempty"`
	Entries []media.Entry `json:"entries,omitempty"`
	Bytes   int           `json:"bytes,omitempty"`
	Text    string        `json:"text,omitempty"`
	Word    refusal.Word  `json:"word,omitempty"` // of an error
	Fault   string        `json:"fault,omitempty"`
	Hint    string        `json:"hint,omitempty"`
	Absent  bool          `json:"absent,omitempty"` // the error says that something is not there
	End     bool          `json:"end,omitempty"`    // of a file, or of what is known
}

// fail puts an error into a message.
func (m *message) fail(err error) {
	if err == nil {
		return
	}
	m.Word, _ = refusal.Of(err)
	m.Fault, m.Hint, m.Absent = err.Error(), refusal.Hint(err), errors.Is(err, fs.ErrNotExist)
}

// err returns the error in a message.
func (m *message) err() error {
	switch far := (&farError{m.Fault, m.Absent}); {
	case m.Fault == "":
		return nil
	case m.Word == "":
		return far
	default:
		return refusal.New(m.Word, "%w", far).WithHint("%s", m.Hint)
	}
}

// A farError is an error of the other end.
type farError struct {
	text   string
	absent bool
}

func (e *farError) Error() string { return e.text }

// Is reports whether the error says that something is not there.
func (e *farError) Is(target error) bool { return e.absent && target == fs.ErrNotExist }

// A conn sends and receives messages.
type conn struct {
	net.Conn
	in *bufio.Reader
}

func newConn(c net.Conn, in *bufio.Reader) conn {
	if in == nil {
		in = bufio.NewReaderSize(c, 64<<10)
	}
	return conn{c, in}
}

func (c conn) send(m message, payload []byte) error {
	m.Bytes = len(payload)
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := c.Write(append(b, '\n')); err != nil {
		return err
	}
	if len(payload) > 0 {
		_, err = c.Write(payload)
	}
	return err
}

// receive reads a message. Its payload is in buf or elsewhere, and is used until the next one.
func (c conn) receive(buf []byte) (m message, payload []byte, err error) {
	var line []byte
	for {
		part, err := c.in.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return m, nil, err
		}
		if len(line) > maxLine {
			return m, nil, fmt.Errorf("line of more than %d bytes", maxLine)
		}
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return m, nil, err
	}
	if m.Bytes < 0 || m.Bytes > maxBytes {
		return m, nil, fmt.Errorf("message with %d bytes, at most %d are allowed", m.Bytes, maxBytes)
	}
	if cap(buf) < m.Bytes {
		buf = make([]byte, m.Bytes)
	}
	payload = buf[:m.Bytes]
	_, err = io.ReadFull(c.in, payload)
	return m, payload, err
}

// A Line is the device's end. Its methods are safe to call together.
type Line struct {
	c conn

	mu   sync.Mutex // held for one question and its answer
	dead error
	over chan struct{} // closed when the line is dead
	buf  []byte
}

// NewLine returns the device's end of c, of which in has read ahead; nil: nothing.
func NewLine(c net.Conn, in *bufio.Reader) *Line {
	return &Line{c: newConn(c, in), over: make(chan struct{})}
}

// Over is closed when the helper is gone or was let go.
func (l *Line) Over() <-chan struct{} { return l.over }

// lost ends the line. mu is held.
func (l *Line) lost(err error) error {
	if l.dead == nil {
		l.dead = refusal.New(refusal.MediaGone, "the helper that holds the stick is gone: %w", err).WithHint("put it in again")
		_ = l.c.Close()
		close(l.over)
	}
	return l.dead
}

// ask sends a question and waits for the answer.
func (l *Line) ask(m message) (message, []byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.askLocked(m)
}

func (l *Line) askLocked(m message) (message, []byte, error) {
	if l.dead != nil {
		return m, nil, l.dead
	}
	if err := l.c.send(m, nil); err != nil {
		return m, nil, l.lost(err)
	}
	a, b, err := l.c.receive(l.buf)
	if err != nil {
		return m, nil, l.lost(err)
	}
	if cap(b) > cap(l.buf) {
		l.buf = b[:0]
	}
	return a, b, a.err()
}

// Here reports whether the helper still holds the stick. One that is at work does.
func (l *Line) Here() bool {
	if !l.mu.TryLock() {
		return true
	}
	defer l.mu.Unlock()
	if l.dead != nil {
		return false
	}
	_ = l.c.SetDeadline(time.Now().Add(2 * time.Second))
	_, _, err := l.askLocked(message{Op: opHas, Name: "."})
	_ = l.c.SetDeadline(time.Time{})
	return err == nil
}

// Tell sends a line for a person; last says that it is the last for now. A helper that hangs is not
// waited for.
func (l *Line) Tell(text string, last bool) { l.note(message{Op: opTell, Text: text, End: last}) }

// Bye lets the helper end, with an exit code.
func (l *Line) Bye(code int) {
	l.note(message{Op: opBye, N: int64(code)})
	if l.mu.TryLock() {
		_ = l.lost(errors.New("it was let go"))
		l.mu.Unlock()
	} else {
		_ = l.c.Close() // whoever waits for it gets an error
	}
}

func (l *Line) note(m message) {
	if !l.mu.TryLock() {
		return
	}
	defer l.mu.Unlock()
	if l.dead != nil {
		return
	}
	_ = l.c.SetWriteDeadline(time.Now().Add(2 * time.Second))
	if err := l.c.send(m, nil); err != nil {
		_ = l.lost(err)
	}
	_ = l.c.SetWriteDeadline(time.Time{})
}

// Folder returns the volume as what a port of sticks uses: see [media.Folder] for what its methods
// promise. Close leaves the line open.
func (l *Line) Folder() *Folder { return &Folder{l} }

// A Folder is the volume at the other end of a line.
type Folder struct{ l *Line }

// List returns the names in a folder.
func (f *Folder) List(dir string) (all []media.Entry, more bool, err error) {
	a, _, err := f.l.ask(message{Op: opList, Name: dir})
	return a.Entries, a.Yes, err
}

// HasFolder reports whether a folder is there.
func (f *Folder) HasFolder(dir string) (bool, error) {
	a, _, err := f.l.ask(message{Op: opHas, Name: dir})
	return a.Yes, err
}

// Read opens a regular file.
func (f *Folder) Read(name string) (io.ReadCloser, error) {
	a, _, err := f.l.ask(message{Op: opOpen, Name: name})
	if err != nil {
		return nil, err
	}
	return &file{f.l, a.File}, nil
}

type file struct {
	l  *Line
	id int
}

func (f *file) Read(p []byte) (int, error) {
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	a, b, err := f.l.askLocked(message{Op: opRead, File: f.id, N: int64(min(len(p), maxBytes))})
	n := copy(p, b)
	switch {
	case err != nil:
		return n, err
	case a.End:
		return n, io.EOF
	}
	return n, nil
}

func (f *file) Close() error {
	_, _, err := f.l.ask(message{Op: opClose, File: f.id})
	return err
}

// MakeFolder makes a folder below one that is there.
func (f *Folder) MakeFolder(dir string) error {
	_, _, err := f.l.ask(message{Op: opMake, Name: dir})
	return err
}

// Write makes or replaces a file in a folder.
func (f *Folder) Write(dir string, fill func(io.Writer) (name string, err error)) (int64, error) {
	l := f.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead != nil {
		return 0, l.dead
	}
	if err := l.c.send(message{Op: opWrite, Name: dir}, nil); err != nil {
		return 0, l.lost(err)
	}
	end := message{Op: opEnd}
	name, err := fill(lineWriter{l})
	end.Name = name
	end.fail(err)
	a, _, askErr := l.askLocked(end)
	if err != nil {
		return 0, err
	}
	return a.N, askErr
}

// A lineWriter sends the content of a file. Its line's mu is held.
type lineWriter struct{ l *Line }

func (w lineWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if w.l.dead != nil {
			return n, w.l.dead
		}
		k := min(len(p), maxBytes)
		if err := w.l.c.send(message{Op: opData}, p[:k]); err != nil {
			return n, w.l.lost(err)
		}
		n, p = n+k, p[k:]
	}
	return n, nil
}

// Remove removes a file.
func (f *Folder) Remove(name string) error {
	_, _, err := f.l.ask(message{Op: opRemove, Name: name})
	return err
}

// Free returns the bytes that can still be written; -1 where nobody can say.
func (f *Folder) Free() int64 {
	a, _, err := f.l.ask(message{Op: opFree})
	if err != nil {
		return -1
	}
	return a.N
}

// Close does nothing: another look at the stick may follow.
func (f *Folder) Close() error { return nil }
