package usbdrop

import (
	"context"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"tidegate/platform/media"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"time"
)

// running runs the port of a world in its bubble until stop.
func (w *world) running() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var all sync.WaitGroup
	all.Go(func() { _ = w.device.Desk.Run(ctx) }) //nolint:errcheck // ctx ends it
	all.Go(func() { _ = w.port.Run(ctx) })        //nolint:errcheck // as above
	synctest.Wait()
	return func() { cancel(); all.Wait() }
}

// arrive puts a stick in while the port runs.
func (w *world) arrive(dir string) {
	w.ports.arrive <- w.ports.set(dir, true)
	synctest.Wait()
}

// last returns the newest verdict about a stick.
func (w *world) last(dir string) Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.told) - 1; i >= 0; i-- {
		if w.told[i].Volume == dir {
			return w.told[i]
		}
	}
	return Verdict{}
}

func bubble(t *testing.T, fn func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { fn(newWorld(t, nil)) })
}

// window makes the trial of a bundle last for so many seconds.
func window(s uint64) func(m *bundle.Manifest) {
	return func(m *bundle.Manifest) { m.Activation.Window = s }
}

// G13: sticks that come while a bundle is on trial wait, and are taken in the order in which
// they came. One that was pulled meanwhile is told of.
func TestG13SticksWaitForTheirTurn(t *testing.T) {
	bubble(t, func(w *world) {
		w.confirm(5)
		defer w.running()()
		first := w.stick(map[string][]byte{"a.tide": w.bundle(6, window(60)), "tide/out/x": nil})
		second := w.stick(map[string][]byte{"a.tide": w.bundle(7, window(60)), "tide/out/x": nil})
		pulled := w.stick(map[string][]byte{"a.tide": w.bundle(9, nil)})
		third := w.stick(map[string][]byte{"a.tide": w.bundle(8, window(60))})
		w.arrive(first)
		w.want(w.last(first), OnTrial, "")
		time.Sleep(10 * time.Second)
		for _, dir := range []string{second, pulled, third} {
			w.arrive(dir)
			w.want(w.last(dir), Waiting, refusal.Busy)
		}
		if len(w.written(second)) == 0 {
			t := w.t
			t.Error("nothing goes out on a stick that waits")
		}
		w.ports.set(pulled, false)
		time.Sleep(55 * time.Second)
		w.want(w.last(first), Accepted, "") // confirmed, and its receipt says so
		w.want(w.last(second), OnTrial, "")
		w.want(w.last(third), Waiting, refusal.Busy)
		time.Sleep(65 * time.Second)
		w.want(w.last(second), Accepted, "")
		w.want(w.last(pulled), Refused, refusal.MediaGone)
		w.want(w.last(third), OnTrial, "")
		time.Sleep(65 * time.Second)
		if got := w.device.Desk.Status().Good.Seq; got != 8 {
			w.t.Errorf("bundle %d serves at the end", got)
		}
		if n := w.refusals()[refusal.Busy]; n != 0 {
			w.t.Errorf("waiting left %d refusals in the audit log", n)
		}
	})
}

// The verdict of a trial reaches the stick that the bundle came from.
func TestTheReceiptSaysHowTheTrialEnded(t *testing.T) {
	bubble(t, func(w *world) {
		w.confirm(5)
		defer w.running()()
		dir := w.stick(map[string][]byte{"a.tide": w.bundle(6, window(60)), "tide/out/x": nil})
		w.arrive(dir)
		before := w.file(dir, ".tidereceipt")
		time.Sleep(65 * time.Second)
		if after := w.file(dir, ".tidereceipt"); string(after) == string(before) {
			w.t.Error("the receipt is as it was")
		}
		if v := w.last(dir); v.Stage != Accepted || len(v.Wrote) != 1 {
			w.t.Errorf("verdict %+v", v)
		}
	})
}

// stuck blocks until it is let go.
type stuck struct {
	io.ReadCloser
	go_ chan struct{}
}

func (s stuck) Read([]byte) (int, error) { <-s.go_; return 0, io.EOF }

// G4: whatever call never comes back, the stick is given up on, no lock is held, and the next
// stick works.
func TestG4CallsThatNeverComeBack(t *testing.T) {
	for name, bend := range map[string]func(let chan struct{}) bent{
		"list": func(let chan struct{}) bent {
			return bent{list: func(string) ([]media.Entry, bool, error) { <-let; return nil, false, nil }}
		},
		"first read": func(let chan struct{}) bent {
			return bent{read: func(_ string, in io.ReadCloser) io.ReadCloser { return stuck{in, let} }}
		},
		"later read": func(let chan struct{}) bent {
			return bent{read: func(_ string, in io.ReadCloser) io.ReadCloser {
				return struct {
					io.Reader
					io.Closer
				}{io.MultiReader(io.LimitReader(in, 1500), stuck{in, let}), in}
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.confirm(5)
				before := w.p0()
				let := make(chan struct{})
				w.bend(bend(let))
				began := time.Now()
				v := w.insert(w.stick(map[string][]byte{"a.tide": w.bundle(6, nil)}))
				w.want(v, Refused, refusal.MediaSlow)
				if took := time.Since(began); took > 2*time.Minute {
					w.t.Errorf("given up after %s", took)
				}
				if after := w.p0(); after != before {
					w.t.Errorf("before: %s\nafter:  %s", before, after)
				}
				w.folder = nil
				w.want(w.insert(w.stick(map[string][]byte{"a.tide": w.bundle(6, nil)})), OnTrial, "")
				close(let)
				synctest.Wait()
			})
		})
	}
}

// The same for writing: what was not written is not released.
func TestG4AWriteThatNeverComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(o *Options) { o.Release = WhenWritten })
		w.calls(2000, 1)
		before := w.waiting()
		let := make(chan struct{})
		w.bend(bent{write: func(out io.Writer) io.Writer { return stuckWriter{out, let} }})
		dir := w.stick(map[string][]byte{"tide/out/x": nil})
		w.want(w.insert(dir), Refused, refusal.MediaSlow)
		if w.waiting() != before {
			t.Errorf("%d of %d wait", w.waiting(), before)
		}
		close(let)
		synctest.Wait()
	})
}

type stuckWriter struct {
	io.Writer
	go_ chan struct{}
}

func (s stuckWriter) Write([]byte) (int, error) { <-s.go_; return 0, io.ErrClosedPipe }

// G3: 1 KiB a second is too slow, 4 KiB a second is not.
func TestG3SlowSticks(t *testing.T) {
	for rate, want := range map[int]refusal.Word{1 << 10: refusal.MediaSlow, 4 << 10: ""} {
		bubble(t, func(w *world) {
			w.confirm(5)
			big, err := w.fleet.Bundle(6, 200_000, nil)
			check(w.t, err)
			w.bend(bent{read: func(_ string, in io.ReadCloser) io.ReadCloser { return &crawling{in, rate} }})
			v := w.insert(w.stick(map[string][]byte{"a.tide": big}))
			if v.Word != want {
				w.t.Errorf("%d bytes/s: %s (%s), want %q", rate, v.Word, v.Detail, want)
			}
		})
	}
}

type crawling struct {
	io.ReadCloser
	rate int
}

func (c *crawling) Read(p []byte) (int, error) {
	time.Sleep(time.Second)
	return c.ReadCloser.Read(p[:min(len(p), c.rate)])
}
