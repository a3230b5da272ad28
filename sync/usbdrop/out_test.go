package usbdrop

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/store/events"
	"tidegate/sync/envelope"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/report"
	"tidegate/sync/trust"
	"tidegate/sync/uplink"
)

// written returns the names of what lies in the device's folder of a stick, sorted.
func (w *world) written(dir string) []string {
	w.t.Helper()
	all, err := os.ReadDir(filepath.Join(dir, "tide/out", w.device.ID.String()))
	check(w.t, err)
	var names []string
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func (w *world) file(dir, suffix string) []byte {
	w.t.Helper()
	for _, name := range w.written(dir) {
		if strings.HasSuffix(name, suffix) {
			b, err := os.ReadFile(filepath.Join(dir, "tide/out", w.device.ID.String(), name))
			check(w.t, err)
			return b
		}
	}
	w.t.Fatalf("no %s on the stick: %v", suffix, w.written(dir))
	return nil
}

func TestNothingIsWrittenUnasked(t *testing.T) {
	w := newWorld(t, nil)
	w.calls(100, 1)
	dir := w.stick(map[string][]byte{"tide/a.txt": nil})
	w.want(w.insert(dir), Accepted, "")
	if all, _ := os.ReadDir(filepath.Join(dir, "tide")); len(all) != 1 {
		t.Errorf("the stick holds %v", all)
	}
}

// A whole round with one stick and an office: a bundle in, events, receipt and status out, the
// ack back. Being on a stick deletes nothing; the ack does.
func TestARoundWithAnOffice(t *testing.T) {
	w := newWorld(t, nil)
	w.confirm(5)
	w.calls(20_000, 1)
	before := w.waiting()
	dir := w.stick(map[string][]byte{"a.tide": w.bundle(6, nil), "b.tide": w.bundle(4, nil), "tide/out/keep": nil})
	v := w.insert(dir)
	w.want(v, OnTrial, "")
	if v.Failed != nil || w.waiting() != before || before < 4 {
		t.Fatalf("after the visit %d of %d wait; %v", w.waiting(), before, v.Failed)
	}
	o, err := report.NewOpener(w.fleet.Domain, mqttsynctest.Key("device").Public())
	check(t, err)
	envs, err := envelope.ReadFile(report.Receipts, bytes.NewReader(w.file(dir, ".tidereceipt")))
	check(t, err)
	// names are sorted: that of bundle 4 comes first
	r, err := o.Receipt(envs[0])
	if err != nil || r.Word != string(refusal.Rollback) || r.Number != 4 || r.File != "b.tide" {
		t.Errorf("receipt %+v, %v", r, err)
	}
	if text := string(w.file(dir, "status.txt")); !strings.Contains(text, w.device.ID.String()) || !strings.Contains(text, "a.tide: bundle 6: trial") || !strings.Contains(text, "E_ROLLBACK") {
		t.Errorf("status.txt:\n%s", text)
	}
	if got := string(w.file(dir, ".tideenroll")); got != "request" {
		t.Errorf("request %q", got)
	}
	if got := string(w.file(dir, "log.txt")); got != "a line of the log\r\n" {
		t.Errorf("log %q", got)
	}

	taken, err := w.office().From(t.Context(), dir)
	check(t, err)
	if len(taken) != 1 || taken[0].Batches+taken[0].Losses != before || taken[0].Statuses != 1 || len(taken[0].Refused) != 0 {
		t.Errorf("the office took %+v, want %d batches and losses", taken, before)
	}
	v = w.insert(dir)
	if w.waiting() != 0 {
		t.Errorf("%d wait after the ack; %s", w.waiting(), lines(v))
	}
	if !slices.ContainsFunc(v.Items, func(i Item) bool { return i.Acked }) {
		t.Errorf("no ack was taken:\n%s", lines(v))
	}
	for _, name := range w.written(dir) {
		if strings.HasSuffix(name, ".part") {
			t.Errorf("%s is left", name)
		}
	}
}

// Round after round, in one life of the device: each ack counts, however far the queue has come.
func TestManyRounds(t *testing.T) {
	w := newWorld(t, nil)
	dir, office := w.stick(map[string][]byte{"tide/out/x": nil}), w.office()
	for n := range 4 {
		w.calls(1500, uint64(n))
		w.want(w.insert(dir), Accepted, "")
		_, err := office.From(t.Context(), dir)
		check(t, err)
		v := w.insert(dir)
		w.want(v, Accepted, "")
		if w.waiting() != 0 {
			t.Fatalf("round %d: %d wait\n%s", n, w.waiting(), lines(v))
		}
	}
}

// What went out on a stick may be acknowledged over the link, which never sent it.
func TestAStickThatTheLinkAcknowledges(t *testing.T) {
	var link *uplink.Drain
	w := newWorld(t, func(o *Options) { o.WentOut = func(c events.Cursor) { link.WentOut(c) } })
	link = w.port.acks()
	ack := func() error {
		a := &message.Ack{Device: w.device.ID}
		for _, c := range w.device.Queue.Status().Classes {
			a.Marks = append(a.Marks, message.Mark{Epoch: c.Epoch, UpTo: c.Head, Also: []uint64{}})
		}
		b, err := w.fleet.Signer(trust.RoleCollector).Ack(a, mqttsynctest.Issued)
		check(t, err)
		_, err = link.Acknowledge(b)
		return err
	}
	check(t, ack())
	w.calls(1500, 1)
	if err := ack(); !refusal.Is(err, refusal.Limit) {
		t.Fatalf("an ack of what went out nowhere: %v", err)
	}
	w.want(w.insert(w.stick(map[string][]byte{"tide/out/x": nil})), Accepted, "")
	check(t, ack())
	if st := w.device.Queue.Status(); st.Classes[0].Count+st.Classes[1].Count != 0 {
		t.Errorf("batches wait: %+v", st)
	}
}

// Losses go first, and an ack for them counts after a restart too.
func TestLossesGoOutFirstAndAreAcknowledged(t *testing.T) {
	w := newWorld(t, nil)
	w.calls(3000, 1)
	w.calls(400_000, 2) // far more than memory holds until the next flush
	dir := w.stick(map[string][]byte{"tide/out/x": nil})
	w.want(w.insert(dir), Accepted, "")
	losses := w.device.Queue.Status().Losses
	if losses == 0 {
		t.Fatal("nothing was lost: the test proves nothing")
	}
	taken, err := w.office().From(t.Context(), dir)
	check(t, err)
	if taken[0].Losses != losses {
		t.Errorf("the office has %d losses, want %d", taken[0].Losses, losses)
	}
	first := w.firstKind(dir)
	if first != envelope.Loss {
		t.Errorf("the first object in the first file is a %s", first)
	}
	fresh := newPortLike(t, w) // nothing is known of what was sent
	fresh.visit(t.Context(), w.ports.set(dir, true), inAndOut)
	if w.waiting() != 0 {
		t.Errorf("%d wait after the ack", w.waiting())
	}
}

// newPortLike returns a port over the same device that has just started.
func newPortLike(t *testing.T, w *world) *Port {
	t.Helper()
	p, err := New(w.port.o)
	check(t, err)
	return p
}

// An ack that is not for this device, not signed, or for what was never sent deletes nothing.
func TestHostileAcks(t *testing.T) {
	w := newWorld(t, nil)
	w.calls(5000, 1)
	before := w.waiting()
	signer := w.fleet.Signer(trust.RoleCollector)
	epoch := w.device.Queue.Status().Classes[0].Epoch
	head := w.device.Queue.Status().Classes[0].Head
	seal := func(a message.Ack) []byte {
		b, err := signer.Ack(&a, mqttsynctest.Issued)
		check(t, err)
		return envelope.File(envelope.Ack, b)
	}
	good := message.Ack{Device: w.device.ID, Marks: []message.Mark{{Epoch: epoch, UpTo: head, Also: []uint64{}}}}
	foreign, above := good, good
	foreign.Device[0]++
	above.Marks = []message.Mark{{Epoch: epoch, UpTo: head + 100, Also: []uint64{}}}
	whole := seal(good)
	own := "tide/ack/" + w.device.ID.String() + ".tideack"
	for name, c := range map[string]struct {
		b    []byte
		word refusal.Word
	}{
		"of another device": {seal(foreign), refusal.Target},
		"above the newest":  {seal(above), refusal.Limit},
		"bit flipped":       {flip(whole, len(whole)-3), refusal.SigBad},
		"two in one file":   {append(bytes.Clone(whole), whole[len(whole)-50:]...), ""},
		"endless":           {append(bytes.Clone(whole), make([]byte, 1<<20)...), refusal.Limit},
		"cut":               {whole[:len(whole)-9], refusal.Truncated},
	} {
		v := w.insert(w.stick(map[string][]byte{own: c.b}))
		if v.Stage != Refused || c.word != "" && v.Word != c.word {
			t.Errorf("%s: %s %s (%s)", name, v.Stage, v.Word, v.Detail)
		}
		if w.waiting() != before {
			t.Fatalf("%s: %d of %d wait", name, w.waiting(), before)
		}
	}
	w.want(w.insert(w.stick(map[string][]byte{own: whole})), Accepted, "")
	if w.waiting() >= before {
		t.Error("the good ack deleted nothing")
	}
}

// usb.release = "written": what is on the stick, and was read back, is delivered; a second
// visit leaves the only copy alone.
func TestWrittenIsDelivered(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Release = WhenWritten })
	w.calls(5000, 1)
	total := w.waiting()
	dir := w.stick(map[string][]byte{"tide/out/x": nil})
	w.want(w.insert(dir), Accepted, "")
	if w.waiting() != 0 {
		t.Errorf("%d wait", w.waiting())
	}
	w.calls(2000, 2)
	total += w.waiting()
	w.want(w.insert(dir), Accepted, "")
	taken, err := w.office().From(t.Context(), dir)
	check(t, err)
	if taken[0].Batches+taken[0].Losses != total {
		t.Errorf("the office has %d batches and %d losses of %d", taken[0].Batches, taken[0].Losses, total)
	}
}

// A file of an earlier visit gives way to one that holds all of it, and to no other.
func TestOlderFilesGiveWay(t *testing.T) {
	w := newWorld(t, nil)
	w.calls(3000, 1)
	dir := w.stick(map[string][]byte{"tide/out/x": nil})
	w.insert(dir)
	first := w.written(dir)
	w.calls(3000, 2)
	w.insert(dir)
	second := w.written(dir)
	if len(first) != len(second) || slices.Equal(first, second) {
		t.Errorf("first %v\nthen  %v", first, second)
	}
}

// A stick that is full, or goes away while it is written to, says so and costs nothing.
func TestSticksThatCannotBeWrittenTo(t *testing.T) {
	for name, c := range map[string]struct {
		bend bent
		word refusal.Word
	}{
		"full by its own word":   {bent{free: func() int64 { return 100 << 10 }}, refusal.NoSpace},
		"full in the middle":     {bent{write: func(w io.Writer) io.Writer { return &filling{w, 5000} }}, refusal.NoSpace},
		"pulled in the middle":   {bent{write: func(io.Writer) io.Writer { return failingWriter{syscall.ENODEV} }}, refusal.MediaGone},
		"broken":                 {bent{write: func(io.Writer) io.Writer { return failingWriter{syscall.EIO} }}, refusal.MediaIO},
		"read-only, as it turns": {bent{write: func(io.Writer) io.Writer { return failingWriter{syscall.EROFS} }}, refusal.MediaIO},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.Release = WhenWritten })
			w.calls(3000, 1)
			before := w.waiting()
			w.bend(c.bend)
			dir := w.stick(map[string][]byte{"tide/out/x": nil})
			v := w.insert(dir)
			w.want(v, Refused, c.word)
			if w.waiting() != before {
				t.Errorf("%d of %d wait", w.waiting(), before)
			}
			for _, file := range w.written(dir) {
				if strings.HasSuffix(file, ".part") {
					t.Errorf("%s is left", file)
				}
			}
			w.folder = nil
			w.want(w.insert(dir), Accepted, "")
			if w.waiting() != 0 {
				t.Errorf("%d wait after a good stick", w.waiting())
			}
		})
	}
}

// filling has room for so many bytes.
type filling struct {
	w    io.Writer
	room int
}

func (f *filling) Write(p []byte) (int, error) {
	if f.room -= len(p); f.room < 0 {
		return 0, syscall.ENOSPC
	}
	return f.w.Write(p)
}

// Two sticks, each a FAT image, carry a whole round. The files go into the first image,
// come out of it at the device, and back into it; the second image brings the ack.
func TestTwoSticksAsFATImages(t *testing.T) {
	for _, tool := range []string{"mkfs.vfat", "mcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	w := newWorld(t, nil)
	w.confirm(5)
	w.calls(5000, 1)
	sent := w.waiting()
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	image := func(name string) string {
		file := filepath.Join(t.TempDir(), name)
		run("mkfs.vfat", "-C", "-F", "32", file, "65536")
		return file
	}
	into := func(image, dir string) {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(dir, "*"))
		check(t, err)
		run("mcopy", append([]string{"-s", "-o", "-n", "-i", image}, append(all, "::")...)...)
	}
	outOf := func(image string) string {
		dir := t.TempDir()
		run("mcopy", "-s", "-n", "-i", image, "::*", dir)
		return dir
	}
	first, second := image("first"), image("second")
	into(first, w.stick(map[string][]byte{"plant 6.tide": w.bundle(6, nil), "tide/out/empty.txt": nil}))
	at := outOf(first)
	w.want(w.insert(at), OnTrial, "")
	into(first, at)

	office := outOf(first)
	taken, err := w.office().From(t.Context(), office)
	check(t, err)
	if len(taken) != 1 || taken[0].Batches+taken[0].Losses != sent || taken[0].Statuses != 1 || taken[0].Ack == "" {
		t.Fatalf("the office took %+v, want %d batches", taken, sent)
	}
	w.decide()
	back := w.stick(map[string][]byte{"tide/out/empty.txt": nil})
	check(t, os.CopyFS(filepath.Join(back, "tide/ack"), os.DirFS(filepath.Join(office, "tide/ack"))))
	into(second, back)
	at = outOf(second)
	w.want(w.insert(at), Accepted, "")
	if w.waiting() != 0 {
		t.Errorf("%d wait after the second stick", w.waiting())
	}
	if text := string(w.file(at, "status.txt")); !strings.Contains(text, "bundle 6") {
		t.Errorf("status.txt:\n%s", text)
	}
}
