package usbdrop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"tidegate/platform/media"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"
)

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

// signatureOf returns where a signature of the manifest is: near the end of the head.
func badSignature(t *testing.T, b []byte) []byte {
	t.Helper()
	h, err := bundle.Read(bytes.NewReader(b))
	check(t, err)
	return flip(b, len(h.Bytes)-10)
}

// E8: of everything on the stick the right bundle is taken, and the others are told of, each
// with its reason. No byte of any file is read twice.
func TestE8TheRightOneOfMany(t *testing.T) {
	w := newWorld(t, nil)
	w.confirm(5)
	right := w.bundle(7, nil)
	dir := w.stick(map[string][]byte{
		"a.tide":          w.bundle(8, func(m *bundle.Manifest) { m.Product = "other" }),
		"tide/b.tide":     w.bundle(4, nil),
		"c.tide":          badSignature(t, w.bundle(9, nil)),
		"update.bin":      right,
		"._right.tide":    right,
		"older.tide":      w.bundle(6, nil),
		"tide/again.tide": right,
		"photo.jpg":       []byte("\xff\xd8\xff\xe0"),
		"x.raucb":         []byte("hsqs"),
		"empty.tide":      nil,
		"old.tideenroll":  envelope.File(envelope.Enroll, []byte{0}),
	})
	read := map[string]int{}
	w.bend(bent{read: func(name string, in io.ReadCloser) io.ReadCloser {
		read[name]++
		return in
	}})
	v := w.insert(dir)
	w.want(v, OnTrial, "")
	if s := w.device.Desk.Status(); s.Trial == nil || s.Trial.Seq != 7 {
		t.Errorf("on trial: %+v", s.Trial)
	}
	for name, word := range map[string]refusal.Word{"a.tide": refusal.Target, "tide/b.tide": refusal.Rollback, "c.tide": refusal.SigBad, "older.tide": refusal.Rollback} {
		if i := w.item(v, name); i.Report.Word != word {
			t.Errorf("%s: %s, want %s", name, i.text(), word)
		}
	}
	if i := w.item(v, "older.tide"); !strings.Contains(i.text(), "on the same stick") {
		t.Errorf("older.tide: %s", i.text())
	}
	for name, reason := range map[string]string{
		"._right.tide": "macOS", "photo.jpg": "not a Tidegate file", "x.raucb": "not a Tidegate file", "empty.tide": "not a Tidegate file",
		"old.tideenroll": "not for a device",
	} {
		if i := w.item(v, name); !strings.Contains(i.Skip, reason) {
			t.Errorf("%s: %q, want %q", name, i.Skip, reason)
		}
	}
	if twice := w.item(v, "update.bin").Skip + w.item(v, "tide/again.tide").Skip; !strings.Contains(twice, "twice") {
		t.Errorf("the copy: %q", twice)
	}
	for name, n := range read {
		if n != 1 {
			t.Errorf("%s was opened %d times", name, n)
		}
	}
	if got := w.refusals(); got[refusal.Target] != 1 || got[refusal.Rollback] != 1 || got[refusal.SigBad] != 1 {
		t.Errorf("audit log: %v", got)
	}
}

// E8: the newest is taken, wherever it comes in the order of names.
func TestE8TheNewestIsTaken(t *testing.T) {
	for _, names := range [][3]string{{"a.tide", "b.tide", "c.tide"}, {"b.tide", "c.tide", "a.tide"}, {"c.tide", "a.tide", "b.tide"}} {
		w := newWorld(t, nil)
		w.confirm(5)
		v := w.insert(w.stick(map[string][]byte{names[0]: w.bundle(8, nil), names[1]: w.bundle(7, nil), names[2]: w.bundle(6, nil)}))
		w.want(v, OnTrial, "")
		if st := w.device.Desk.Status().Trial; st == nil || st.Seq != 8 {
			t.Errorf("%v: on trial is %+v", names, st)
		}
	}
}

// What is refused leaves the device as it was, and a stick with nothing for it gets the word of
// the file that came furthest.
func TestTheWordOfTheBestCandidate(t *testing.T) {
	w := newWorld(t, nil)
	w.confirm(5)
	before := w.p0()
	other := func(seq uint64) []byte {
		return w.bundle(seq, func(m *bundle.Manifest) { m.Product = "other" })
	}
	chunk := w.bundle(6, nil)
	for name, c := range map[string]struct {
		files map[string][]byte
		stage Stage
		word  refusal.Word
	}{
		"empty":                     {nil, Accepted, ""},
		"photos":                    {map[string][]byte{"a.jpg": []byte("x")}, Accepted, ""},
		"other product":             {map[string][]byte{"a.tide": other(6), "b.tide": badSignature(t, chunk)}, Refused, refusal.Target},
		"older":                     {map[string][]byte{"a.tide": w.bundle(4, nil)}, Refused, refusal.Rollback},
		"already so":                {map[string][]byte{"a.tide": w.bundle(5, nil), "b.tide": w.bundle(4, nil)}, Accepted, ""},
		"damaged content":           {map[string][]byte{"a.tide": flip(chunk, len(chunk)-20)}, Refused, refusal.Digest},
		"damaged newest":            {map[string][]byte{"a.tide": flip(chunk, len(chunk)-20), "b.tide": w.bundle(5, nil)}, Refused, refusal.Digest},
		"truncated":                 {map[string][]byte{"a.tide": chunk[:40]}, Refused, refusal.Truncated},
		"root of another fleet":     {map[string][]byte{"a.tideroot": w.root(1, mqttsynctest.Key("stranger"), trust.Domain{7})}, Refused, refusal.TrustDomain},
		"ack that nobody signed":    {map[string][]byte{"a.tideack": envelope.File(envelope.Ack, []byte{0xa0})}, Refused, refusal.SigNone},
		"a number that is not ours": {map[string][]byte{"a.tide": flip(chunk, 16)}, Refused, refusal.FormatVersion},
	} {
		t.Run(name, func(t *testing.T) {
			v := w.insert(w.stick(c.files))
			if v.Stage != c.stage || v.Word != c.word {
				t.Errorf("verdict %s %q, want %s %q\n%s", v.Stage, v.Word, c.stage, c.word, lines(v))
			}
			if after := w.p0(); after != before {
				t.Errorf("before: %s\nafter:  %s", before, after)
			}
		})
	}
}

// G1: pulled at 500 offsets. The next insert works.
func TestG1PulledAtRandomOffsets(t *testing.T) {
	w := newWorld(t, nil)
	w.confirm(5)
	before := w.p0()
	b := w.bundle(6, nil)
	dir := w.stick(map[string][]byte{"a.tide": b})
	rnd := rand.New(rand.NewPCG(1, 1))
	n := 500
	if testing.Short() {
		n = 50
	}
	for range n {
		at := rnd.IntN(len(b))
		w.bend(bent{read: func(_ string, in io.ReadCloser) io.ReadCloser {
			return &failing{in: in, left: at, fail: func() error { w.ports.set(dir, false); return syscall.EIO }}
		}})
		if v := w.insert(dir); v.Stage != Refused || v.Word != refusal.MediaGone {
			t.Fatalf("pulled at %d: %s %q (%s)", at, v.Stage, v.Word, v.Detail)
		}
		if after := w.p0(); after != before {
			t.Fatalf("pulled at %d\nbefore: %s\nafter:  %s", at, before, after)
		}
	}
	w.folder = nil
	w.want(w.insert(dir), OnTrial, "")
}

// failing fails when left bytes are read.
type failing struct {
	in   io.ReadCloser
	left int
	fail func() error
}

func (f *failing) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, f.fail()
	}
	n, err := f.in.Read(p[:min(len(p), f.left)])
	f.left -= n
	return n, err
}

func (f *failing) Close() error { return f.in.Close() }

func TestG2ReadErrorsAndShortReads(t *testing.T) {
	w := newWorld(t, nil)
	w.confirm(5)
	before := w.p0()
	b := w.bundle(6, nil)
	dir := w.stick(map[string][]byte{"a.tide": b})
	for _, at := range []int{0, 10, 100, len(b) / 2, len(b) - 1} {
		w.bend(bent{read: func(_ string, in io.ReadCloser) io.ReadCloser {
			return &failing{in: in, left: at, fail: func() error { return syscall.EIO }}
		}})
		w.want(w.insert(dir), Refused, refusal.MediaIO)
	}
	w.bend(bent{list: func(string) ([]media.Entry, bool, error) { return nil, false, syscall.EIO }})
	w.want(w.insert(dir), Refused, refusal.MediaIO)
	if after := w.p0(); after != before {
		t.Errorf("before: %s\nafter:  %s", before, after)
	}
	w.bend(bent{read: func(_ string, in io.ReadCloser) io.ReadCloser { return &stuttering{in: in} }})
	w.want(w.insert(dir), OnTrial, "")
}

// stuttering reads one byte, is broken off by a signal, reads nothing, and so on.
type stuttering struct {
	in io.ReadCloser
	n  int
}

func (s *stuttering) Read(p []byte) (int, error) {
	s.n++
	switch s.n % 3 {
	case 0:
		return 0, syscall.EINTR
	case 1:
		return 0, nil
	}
	return s.in.Read(p[:min(len(p), 1)])
}

func (s *stuttering) Close() error { return s.in.Close() }

// G8: far too many files, a deep tree and endless names cost no more than a few.
func TestG8FarTooMuchOnTheStick(t *testing.T) {
	w := newWorld(t, nil)
	w.confirm(5)
	files := map[string][]byte{"z/y/x/w/v/u/deep.tide": w.bundle(9, nil), "zz.tide": w.bundle(6, nil)}
	for i := range 200 {
		files[fmt.Sprintf("%03d.jpg", i)] = []byte("picture")
	}
	dir := w.stick(files)
	opened := 0
	long := strings.Repeat("\x1b[31m", 13000)
	w.bend(bent{
		list: func(dir string) ([]media.Entry, bool, error) {
			if dir != "." {
				return nil, false, nil
			}
			all := []media.Entry{{Name: long, Skip: "odd"}, {Name: "zz.tide"}, {Name: "z", Skip: "a folder", Dir: true}}
			for i := range 4000 {
				all = append(all, media.Entry{Name: fmt.Sprintf("%03d.jpg", i%200)})
			}
			return all, true, nil
		},
		read: func(_ string, in io.ReadCloser) io.ReadCloser { opened++; return in },
	})
	v := w.insert(dir)
	w.want(v, OnTrial, "") // what looks like ours goes first
	if opened > maxCandidates || len(v.Items) > 2*maxCandidates {
		t.Errorf("%d files were opened, %d told of", opened, len(v.Items))
	}
	if len(v.Warnings) == 0 || v.Warnings[0].Word != refusal.WarnTooMany {
		t.Errorf("warnings: %v", v.Warnings)
	}
	for _, i := range v.Items {
		if len(i.File) > maxShown+4 || strings.Contains(i.File, "\x1b") {
			t.Errorf("name of %d bytes, %.20q", len(i.File), i.File)
		}
	}
}

func TestG9TheFileSystemIsRefusedAsAWhole(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Open = nil })
	w.confirm(5)
	before := w.p0()
	dir := w.stick(map[string][]byte{"a.tide": w.bundle(6, nil), "tide/out/x": nil})
	w.want(w.insert(dir), Refused, refusal.MediaFS)
	if after := w.p0(); after != before {
		t.Errorf("before: %s\nafter:  %s", before, after)
	}
	if all, _ := os.ReadDir(filepath.Join(dir, "tide/out")); len(all) != 1 {
		t.Errorf("it was written to: %v", all)
	}
}

// G12: the failed bundle is still on the stick.
func TestG12AFailedBundleIsStillIn(t *testing.T) {
	w := newWorld(t, nil)
	w.confirm(5)
	dir := w.stick(map[string][]byte{"a.tide": w.bundle(6, nil)})
	w.want(w.insert(dir), OnTrial, "")
	_, err := w.device.Desk.Rollback(t.Context(), "test")
	check(t, err)
	v := w.insert(dir)
	w.want(v, Refused, refusal.Health)
	if !strings.Contains(v.Hint, "--retry") {
		t.Errorf("hint %q", v.Hint)
	}
}

// G14: owners and modes do not matter, nor does it that the stick cannot be written to.
func TestG14AReadOnlyStickOfAnybody(t *testing.T) {
	w := newWorld(t, nil)
	w.confirm(5)
	dir := w.stick(map[string][]byte{"tide/a.tide": w.bundle(6, nil), "tide/out/x": nil})
	check(t, os.Chmod(filepath.Join(dir, "tide/a.tide"), 0o444))
	if os.Geteuid() == 0 {
		check(t, os.Chown(filepath.Join(dir, "tide/a.tide"), 12345, 54321))
	}
	w.bend(bent{write: func(io.Writer) io.Writer { return failingWriter{syscall.EROFS} }})
	v := w.insert(dir)
	w.want(v, OnTrial, "")
	if v.Failed == nil || !errors.Is(v.Failed, syscall.EROFS) {
		t.Errorf("that nothing was written is not told: %v", v.Failed)
	}
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

// Roots and enrolments come before bundles, whatever their names: the bundle needs both.
func TestRootsAndEnrolmentsGoFirst(t *testing.T) {
	w := newWorld(t, nil)
	w.confirm(5)
	foreign := w.enrolment("somebody else", "north")
	w.want(w.insert(w.stick(map[string][]byte{"z.tidedevice": foreign})), Refused, refusal.Target)
	v := w.insert(w.stick(map[string][]byte{
		"z.tideroot": w.root(2, mqttsynctest.Key("root"), w.fleet.Domain), "y.tidedevice": w.enrolment("device", "north"), "x.tidedevice": foreign,
		"a.tide": w.bundle(6, func(m *bundle.Manifest) { m.Selectors = []trust.Selector{trust.DevicesWith("north")} }),
	}))
	w.want(v, OnTrial, "")
	if st := w.device.Desk.Status(); st.Root != 2 || st.Trial.Seq != 6 {
		t.Errorf("root %d, trial %+v", st.Root, st.Trial)
	}
	w.decide()
	// A stick that goes round with the enrolments of all devices is a good one for each.
	v = w.insert(w.stick(map[string][]byte{"a.tidedevice": foreign, "b.tidedevice": w.enrolment("device", "north")}))
	w.want(v, Accepted, "")
}

// Links and pipes named like bundles are passed over, told of, and do not hang.
func TestTricksWithLinksAndPipes(t *testing.T) {
	w := newWorld(t, nil)
	w.confirm(5)
	dir := w.stick(map[string][]byte{"real.tide": w.bundle(6, nil)})
	check(t, os.Symlink("/dev/zero", filepath.Join(dir, "a.tide")))
	check(t, os.Symlink("real.tide", filepath.Join(dir, "b.tide")))
	check(t, syscall.Mkfifo(filepath.Join(dir, "c.tide"), 0o644))
	check(t, os.Symlink(w.stick(map[string][]byte{"out/x": nil, "evil.tide": w.bundle(9, nil)}), filepath.Join(dir, "tide")))
	v := w.insert(dir)
	w.want(v, OnTrial, "")
	for _, name := range []string{"a.tide", "b.tide", "c.tide"} {
		if w.item(v, name).Skip == "" {
			t.Errorf("%s was not passed over", name)
		}
	}
	if s := w.device.Desk.Status(); s.Trial == nil || s.Trial.Seq != 6 {
		t.Errorf("on trial: %+v", s.Trial)
	}
	if len(v.Wrote) != 0 {
		t.Errorf("written through a link: %v", v.Wrote)
	}
}

func TestG6AFileThatIsReplacedWhileItIsRead(t *testing.T) {
	w := newWorld(t, nil)
	w.confirm(5)
	before := w.p0()
	b := w.bundle(6, nil)
	h, err := bundle.Read(bytes.NewReader(b))
	check(t, err)
	other := w.bundle(7, nil)
	for name, tail := range map[string]struct {
		b    []byte
		word refusal.Word
	}{
		"grows":   {append(bytes.Clone(b[len(h.Bytes):]), 0x41, 0), refusal.Trailing},
		"shrinks": {b[len(h.Bytes) : len(b)-5], refusal.Truncated},
		"another": {other[len(h.Bytes):], refusal.Digest},
	} {
		dir := w.stick(map[string][]byte{"a.tide": b})
		w.bend(bent{read: func(_ string, in io.ReadCloser) io.ReadCloser {
			return struct {
				io.Reader
				io.Closer
			}{io.MultiReader(io.LimitReader(in, int64(len(h.Bytes))), bytes.NewReader(tail.b)), in}
		}})
		if v := w.insert(dir); v.Word != tail.word {
			t.Errorf("%s: %s %s, want %s", name, v.Word, v.Detail, tail.word)
		}
		if after := w.p0(); after != before {
			t.Errorf("%s\nbefore: %s\nafter:  %s", name, before, after)
		}
	}
}
