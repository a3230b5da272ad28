package usbdrop

import (
	"context"
	"errors"
	"io"
	"sync"
	"tidegate/platform/media"
	"tidegate/policy/refusal"
	"time"
)

// How long a stick may take for one step, or without progress in one. Syncing and reading back
// a file tells of no progress.
const (
	patience      = 30 * time.Second
	patienceWrite = 2 * time.Minute
)

// A steady folder gives up on a stick that does not answer. Each call runs in a goroutine, so
// that one that hangs in the kernel can be left behind: it ends when the kernel lets it, and
// what it brings then is closed. After the first that was left behind no other is tried. It is
// for one goroutine.
type steady struct {
	ctx  context.Context
	f    Folder
	gone func() bool // the stick is not there any more
	dead error
}

// An answer is what a call brought.
type answer[T any] struct {
	v   T
	err error
}

// ask calls fn and waits while it makes progress, which it tells through beat. late is called
// with what comes after the patience has ended.
func ask[T any](s *steady, patience time.Duration, fn func(beat func()) (T, error), late func(T)) (T, error) {
	var none T
	if s.dead != nil {
		return none, s.dead
	}
	done := make(chan answer[T], 1)
	beats := make(chan struct{}, 1)
	var mu sync.Mutex
	left := false
	go func() {
		v, err := fn(func() {
			select {
			case beats <- struct{}{}:
			default:
			}
		})
		mu.Lock()
		defer mu.Unlock()
		if left {
			if err == nil {
				late(v)
			}
			return
		}
		done <- answer[T]{v, err}
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case a := <-done:
			return a.v, s.why(a.err)
		case <-beats:
			timer.Reset(patience)
			continue
		case <-timer.C:
			s.dead = refusal.New(refusal.MediaSlow, "the stick did not answer for %s", patience).WithHint("try another stick or another port")
		case <-s.ctx.Done():
			s.dead = s.ctx.Err()
		}
		mu.Lock()
		defer mu.Unlock()
		select {
		case a := <-done: // it came after all
			s.dead = nil
			return a.v, s.why(a.err)
		default:
		}
		left = true
		return none, s.dead
	}
}

// why says E_MEDIA_GONE of an error when the stick was pulled, whatever the kernel calls it.
func (s *steady) why(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	err = media.Wrap(err)
	if refusal.Is(err, refusal.MediaIO) && s.gone() {
		return pulled(err)
	}
	return err
}

func pulled(err error) error {
	return refusal.New(refusal.MediaGone, "the stick was pulled: %w", errors.Unwrap(err)).WithHint("put it in again")
}

type nothing struct{}

// do is ask for what brings nothing but an error.
func (s *steady) do(fn func(beat func()) error) error {
	_, err := ask(s, patience, func(beat func()) (nothing, error) { return nothing{}, fn(beat) }, func(nothing) {})
	return err
}

type listing struct {
	all  []media.Entry
	more bool
}

func (s *steady) list(dir string) ([]media.Entry, bool, error) {
	l, err := ask(s, patience, func(func()) (l listing, err error) {
		l.all, l.more, err = s.f.List(dir)
		return l, err
	}, func(listing) {})
	return l.all, l.more, err
}

func (s *steady) hasFolder(dir string) (bool, error) {
	return ask(s, patience, func(func()) (bool, error) { return s.f.HasFolder(dir) }, func(bool) {})
}

// open opens a file and reads its first n bytes, or as many as there are.
func (s *steady) open(name string, n int) (*file, error) {
	return ask(s, patience, func(func()) (*file, error) {
		in, err := s.f.Read(name)
		if err != nil {
			return nil, err
		}
		f := &file{name: name, in: in, head: make([]byte, n), gone: s.gone}
		read, err := readSome(in, f.head)
		f.head = f.head[:read]
		if err != nil {
			return nil, errors.Join(err, in.Close())
		}
		return f, nil
	}, func(f *file) { f.Close() })
}

// readSome fills b as far as the file goes.
func readSome(in io.Reader, b []byte) (n int, err error) {
	for empty := 0; n < len(b) && empty < 100; empty++ {
		var k int
		k, err = in.Read(b[n:])
		if n += k; err == io.EOF {
			return n, nil
		}
		if err != nil && !interrupted(err) {
			return n, err
		}
		if k > 0 {
			empty = 0
		}
	}
	if n < len(b) {
		return n, refusal.New(refusal.MediaIO, "read: %w", io.ErrNoProgress)
	}
	return n, nil
}

// rest reads a small file to its end, at most limit bytes.
func (s *steady) rest(f *file, limit int) ([]byte, error) {
	return ask(s, patience, func(func()) ([]byte, error) {
		b := make([]byte, limit+1-len(f.head))
		n, err := readSome(f.in, b)
		if err != nil {
			return nil, err
		}
		all := append(f.head, b[:n]...) //nolint:gocritic // head is not used again
		if len(all) > limit {
			return nil, refusal.New(refusal.Limit, "more than %d bytes", limit)
		}
		return all, nil
	}, func([]byte) {})
}

func (s *steady) makeFolder(dir string) error {
	return s.do(func(func()) error { return s.f.MakeFolder(dir) })
}

func (s *steady) remove(name string) error {
	return s.do(func(func()) error { return s.f.Remove(name) })
}

func (s *steady) free() (int64, error) {
	return ask(s, patience, func(func()) (int64, error) { return s.f.Free(), nil }, func(int64) {})
}

// write writes a file. fill runs in another goroutine, and may run still when write has given up.
func (s *steady) write(dir string, fill func(io.Writer) (string, error)) (int64, error) {
	return ask(s, patienceWrite, func(beat func()) (int64, error) {
		return s.f.Write(dir, func(w io.Writer) (string, error) { return fill(beating{w, beat}) })
	}, func(int64) {})
}

// beating tells of each write that went through.
type beating struct {
	w    io.Writer
	beat func()
}

func (b beating) Write(p []byte) (int, error) {
	n, err := b.w.Write(p)
	b.beat()
	return n, err
}

// close lets go of the stick, unless a call that was left behind has it still.
func (s *steady) close() {
	if s.dead != nil {
		go s.f.Close() //nolint:errcheck // nothing was written that is not synced
		return
	}
	_ = s.do(func(func()) error { return s.f.Close() })
}
