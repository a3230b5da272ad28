package intake

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/bundle/write"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"
)

func TestE5F1F2ContentOfOthersOrBent(t *testing.T) {
	w := settled(t)
	a, b := w.bundle(6, nil), w.bundle(7, nil)
	h, _ := bundletest.Open(t, a)
	chunks := bundletest.Chunks(t, a)
	w.refuseAll(map[string]hostile{
		"E5 chunks of another bundle": {bundletest.Forge(h.Roots, h.Manifest, bundletest.Chunks(t, b)...), refusal.Digest, "chunk 0"},
		"F2 last chunk missing":       {bundletest.Forge(h.Roots, h.Manifest, chunks[:len(chunks)-1]...), refusal.Truncated, ""},
		"F2 shorter":                  {bundletest.Forge(h.Roots, h.Manifest, chunks[0][1:], chunks[1]), refusal.Format, "chunk 0"},
	})
	for i := range chunks {
		bent := make([][]byte, len(chunks))
		copy(bent, chunks)
		bent[i] = bytes.Clone(chunks[i])
		bent[i][len(bent[i])/2] ^= 1
		w.refuse(candidate(bundletest.Forge(h.Roots, h.Manifest, bent...)), refusal.Digest, 0)
	}
	w.put(a)
}

func TestF5F6ContentThatDoesNotUnpackIsRemembered(t *testing.T) {
	w := settled(t)
	good := w.bundle(6, nil)
	for i, c := range []struct {
		edit func(file map[any]any)
		word refusal.Word
	}{
		{func(f map[any]any) { f[uint64(3)] = make([]byte, 32) }, refusal.Digest},
		{func(f map[any]any) { f[uint64(2)] = f[uint64(2)].(uint64) - 1 }, refusal.Codec},
	} {
		payload := bundletest.Edit(t, bundletest.Payload(t, good), func(m bundletest.Map) {
			m[uint64(4)] = uint64(6 + i)
			c.edit(m[uint64(16)].([]any)[1].(map[any]any))
		})
		file := forgeLike(t, good, payload)
		before := w.picture()
		r, err := w.offer(file)
		w.mustBe(r, err, c.word)
		after := w.picture()
		if after.failed, before.failed = 0, 0; after.serves != before.serves || after.lines != before.lines || len(after.staging) != 0 ||
			len(after.slots) != len(before.slots) || after.entries != before.entries+1 {
			t.Errorf("before %+v\nafter  %+v", before, after)
		}
		// The same content is refused by memory, without its content being read.
		r = w.refuse(candidate(file), c.word, 0)
		if !strings.Contains(r.Hint, "--retry") {
			t.Errorf("hint %q", r.Hint)
		}
	}
}

// forgeLike returns file with another payload, signed by release keys.
func forgeLike(t *testing.T, file, payload []byte) []byte {
	t.Helper()
	h, _ := bundletest.Open(t, file)
	env, err := envelope.Sign(envelope.Manifest, payload, bundletest.Signers(10, 11)...)
	if err != nil {
		t.Fatal(err)
	}
	return bundletest.Forge(h.Roots, env, bundletest.Chunks(t, file)...)
}

func TestCompileErrorsAreRememberedAndRetried(t *testing.T) {
	w := settled(t)
	six := w.bundle(6, nil)
	w.gate.refuse = errBroken
	r := w.refuse(candidate(six), refusal.Compile, 0)
	if !strings.Contains(r.Detail, "broken") {
		t.Errorf("reason %q", r.Detail)
	}
	w.gate.refuse = nil
	w.refuse(candidate(six), refusal.Compile, 0)
	c := candidate(six)
	c.Retry = true
	if r, err := w.desk.Offer(t.Context(), c); err != nil || r.Phase != OnTrial {
		t.Fatalf("retry: %+v, %v", r, err)
	}
	w.wantServes(6)
}

func TestTheSourceIsClosedWhenOfferReturns(t *testing.T) {
	w := settled(t)
	for _, file := range [][]byte{w.bundle(6, nil), w.bundle(4, nil), {1, 2, 3}} {
		var closed atomic.Bool
		_, _ = w.desk.Offer(t.Context(), Candidate{Open: func() (io.ReadCloser, error) { //nolint:errcheck // whatever it says
			return closer{bytes.NewReader(file), &closed}, nil
		}})
		if !closed.Load() {
			t.Error("the file is open still")
		}
	}
}

type closer struct {
	io.Reader
	closed *atomic.Bool
}

func (c closer) Close() error { c.closed.Store(true); return nil }

func TestG1ThePulledStick(t *testing.T) {
	w := settled(t)
	big := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{5}).Read(big)
	file := w.bundle(6, func(s *write.Spec) { s.Files = append(s.Files, write.Bytes("zz", big)) })
	random := rand.New(rand.NewPCG(1, 2))
	before := w.picture()
	for range 500 {
		at := random.IntN(len(file))
		r, err := w.desk.Offer(t.Context(), Candidate{Source: "usb", Name: "x", Open: func() (io.ReadCloser, error) {
			return io.NopCloser(&brokenReader{b: file[:at], err: syscall.ENODEV}), nil
		}})
		w.mustBe(r, err, refusal.MediaGone)
	}
	after := w.picture()
	after.entries = before.entries
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	w.put(file)
}

// brokenReader gives b and then err.
type brokenReader struct {
	b   []byte
	err error
}

func (r *brokenReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, r.err
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

func TestG2AStickWithReadErrors(t *testing.T) {
	w := settled(t)
	file := w.bundle(6, nil)
	for _, at := range []int{0, 10, 100, len(file) - 1} {
		r, err := w.desk.Offer(t.Context(), Candidate{Open: func() (io.ReadCloser, error) {
			return io.NopCloser(&brokenReader{b: file[:at], err: syscall.EIO}), nil
		}})
		w.mustBe(r, err, refusal.MediaIO)
	}
	r, err := w.desk.Offer(t.Context(), Candidate{Open: func() (io.ReadCloser, error) { return nil, syscall.ENOENT }})
	w.mustBe(r, err, refusal.MediaIO)
	w.wantServes(5)
}

func TestG6TheFileChangesWhileItIsRead(t *testing.T) {
	w := settled(t)
	a, b := w.bundle(6, nil), w.bundle(7, nil)
	h, _ := bundletest.Open(t, a)
	n := len(h.Bytes)
	hb, _ := bundletest.Open(t, b)
	w.refuseAll(map[string]hostile{
		"grows":       {append(bytes.Clone(a), b...), refusal.Trailing, ""},
		"shrinks":     {a[:len(a)-5], refusal.Truncated, ""},
		"is replaced": {append(bytes.Clone(a[:n]), b[len(hb.Bytes):]...), refusal.Digest, ""},
	})
}

func TestG12AFailedBundleStaysRefusedAcrossStarts(t *testing.T) {
	w := settled(t)
	six := w.bundle(6, nil)
	w.put(six)
	if r, err := w.desk.Rollback(t.Context(), "operator"); err != nil || r.Phase != RolledBack {
		t.Fatalf("rollback: %+v, %v", r, err)
	}
	w.wantServes(5)
	w.restart()
	w.wantServes(5)
	r := w.refuse(candidate(six), refusal.Health, 0)
	if !strings.Contains(r.Hint, "--retry") {
		t.Errorf("hint %q", r.Hint)
	}
	w.wantSeq(5)
	w.put(w.bundle(7, nil))
}

func TestG13OneAtATime(t *testing.T) {
	w := settled(t)
	six, seven := w.bundle(6, nil), w.bundle(7, nil)
	// Another one comes while the first is being read.
	opened := false
	r, err := w.desk.Offer(t.Context(), Candidate{Open: func() (io.ReadCloser, error) {
		opened = true
		r, err := w.offer(seven)
		w.mustBe(r, err, refusal.Busy)
		_, err = w.desk.Plan(t.Context(), candidate(seven))
		if !refusal.Is(err, refusal.Busy) {
			t.Errorf("plan meanwhile: %v", err)
		}
		return io.NopCloser(bytes.NewReader(six)), nil
	}})
	if err != nil || !opened || r.Phase != OnTrial {
		t.Fatalf("offer: %+v, %v", r, err)
	}
	w.gate.onCompile = func(*bundle.Reader) { t.Error("a bundle was compiled during the trial of another") }
	w.refuse(candidate(seven), refusal.Busy, 0) // during the trial
	w.gate.onCompile = nil
	if r, err := w.offer(six); err != nil || !r.Already || r.Phase != OnTrial || r.ExitCode() != 75 {
		t.Errorf("the one on trial again: %+v, %v", r, err)
	}
	if _, err := w.desk.Confirm(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	w.confirm(seven)
}

func TestWithoutARootNothingIsTakenIn(t *testing.T) {
	w := bareWorld(t)
	w.start()
	must(t, w.desk.SetTime(time.Unix(bundletest.Issued+5000, 0), "console"))
	w.refuse(candidate(w.bundle(1, nil)), refusal.RootNone, 0)
	w.refuse(candidate(w.fleet.RootFile(1)), refusal.RootNone, 0)
	_, err := w.desk.InstallRoot(t.Context(), w.fleet.RootFile(1), trust.Digest{1})
	if !refusal.Is(err, refusal.RootChain) || w.desk.Status().Root != 0 {
		t.Errorf("install under another fingerprint: %v", err)
	}
	print, err := trust.Fingerprint(w.fleet.Roots[0])
	if err != nil {
		t.Fatal(err)
	}
	w.fleet.Rotate(t, nil)
	r, err := w.desk.InstallRoot(t.Context(), w.fleet.RootFile(1), print)
	if err != nil || r.Roots != 2 || w.desk.Status().Root != 2 {
		t.Fatalf("install: %+v, %v", r, err)
	}
	if got := w.desk.Floor().Unix; got < bundletest.Issued+5000 {
		t.Errorf("the floor went back to %d", got)
	}
	// There is no second pin.
	_, err = w.desk.InstallRoot(t.Context(), bundletest.New(t, "b").RootFile(1), trust.Digest{})
	if _, coded := refusal.Of(err); !coded || w.desk.Status().Domain != w.fleet.Domain {
		t.Errorf("another pin: %v", err)
	}
	w.confirm(w.bundle(1, nil))
}
