package intake

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"testing"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/bundle/write"
	"time"
)

// F12: a bundle of any size is taken in within 64 MiB. With TIDEGATE_LARGE=1 the largest bundle
// that the format allows is tried; else a small one, in so little that it cannot be held.
func TestF12ALargeBundleInLittleMemory(t *testing.T) {
	size, limit := int64(48<<20), int64(24<<20)
	if os.Getenv("TIDEGATE_LARGE") != "" {
		size, limit = bundle.MaxContent, 64<<20
	}
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "large.tide")
	out, err := os.Create(path)
	must(t, err)
	s := w.fleet.Spec(1)
	for i, f := range s.Files {
		n := int64(0)
		in, err := f.Open()
		must(t, err)
		n, err = io.Copy(io.Discard, in)
		must(t, err)
		size -= n
		s.Files[i] = f
	}
	half := size / 2
	for name, n := range map[string]int64{"noise": half, "pattern": size - half} {
		s.Files = append(s.Files, write.File{Path: name, Open: func() (io.ReadCloser, error) {
			var r io.Reader = rand.NewChaCha8([32]byte{1})
			if name == "pattern" {
				r = new(pattern)
			}
			return io.NopCloser(io.LimitReader(r, n)), nil
		}})
	}
	_, err = write.Build(out, s, bundletest.Signers(10, 11)...)
	must(t, err)
	must(t, out.Close())

	w.gate.onCompile = func(b *bundle.Reader) {
		if err := b.Verify(context.Background()); err != nil {
			t.Error(err)
		}
	}
	debug.FreeOSMemory()
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(limit))
	peak := watchMemory(t)
	r, err := w.desk.Offer(t.Context(), Candidate{Source: "usb", Name: "large.tide", Open: func() (io.ReadCloser, error) { return os.Open(path) }})
	got := peak()
	if err != nil || r.Phase != OnTrial {
		t.Fatalf("offer: %+v, %v", r, err)
	}
	w.wantServes(1)
	t.Logf("%d MiB of content, %d MiB at most", size>>20, got>>20)
	if got > uint64(limit) {
		t.Errorf("%d MiB were held, at most %d are allowed", got>>20, limit>>20)
	}
}

// pattern is content that compresses well, but is not one byte.
type pattern struct{ at int }

func (r *pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte((r.at + i) % 251)
	}
	r.at += len(p)
	return len(p), nil
}

// watchMemory samples what the runtime holds from the system; the result stops it and returns
// the peak.
func watchMemory(t *testing.T) func() uint64 {
	t.Helper()
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	var peak atomic.Uint64
	look := func() {
		metrics.Read(sample)
		if now := sample[0].Value.Uint64() - sample[1].Value.Uint64(); now > peak.Load() {
			peak.Store(now)
		}
	}
	look()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				look()
				return
			case <-tick.C:
				look()
			}
		}
	}()
	return func() uint64 { close(stop); <-done; return peak.Load() }
}

// BenchmarkOffer is a whole activation, from the file to the edition that serves, with a
// confirmation at its end.
func BenchmarkOffer(b *testing.B) {
	w := newWorld(b)
	b.ReportAllocs()
	seq := uint64(0)
	for b.Loop() {
		seq++
		b.StopTimer()
		file := w.bundle(seq, nil)
		b.StartTimer()
		w.confirm(file)
	}
}

// BenchmarkRefuse is a bundle that is refused for its number: the cheapest attack.
func BenchmarkRefuse(b *testing.B) {
	w := settled(b)
	file := w.bundle(4, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.offer(file); err == nil {
			b.Fatal("accepted")
		}
	}
}

// BenchmarkIntakeRate is how fast content comes in: hash, store, hash again, unpack.
func BenchmarkIntakeRate(b *testing.B) {
	for _, size := range []int{1 << 20, 16 << 20} {
		b.Run(fmt.Sprintf("%dMiB", size>>20), func(b *testing.B) {
			w := newWorld(b)
			content := noise(size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			seq := uint64(0)
			for b.Loop() {
				seq++
				b.StopTimer()
				content[0] = byte(seq)
				file := w.bundle(seq, func(s *write.Spec) { s.Files = append(s.Files, write.Bytes("zz", content)) })
				b.StartTimer()
				w.put(file)
				b.StopTimer()
				if _, err := w.desk.Confirm(b.Context(), "test"); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
