package usbdrop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"tidegate/platform/media"
	"tidegate/policy/refusal"
	"tidegate/store/audit"
	"tidegate/store/events/eventstest"
	"tidegate/sync/bundle"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"tidegate/sync/fleet"
	"tidegate/sync/intake"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/report"
	"tidegate/sync/trust"
	"time"
)

// A world is a device with a door for sticks, and its fleet.
type world struct {
	t      testing.TB
	fleet  *mqttsynctest.Fleet
	device *mqttsynctest.Device
	port   *Port
	ports  *sockets
	folder func(dir string) (Folder, error) // what a stick is; nil: the folder

	mu   sync.Mutex
	told []Verdict
}

// sockets are what sticks are put into.
type sockets struct {
	mu     sync.Mutex
	in     map[string]bool
	arrive chan media.Volume
}

func (s *sockets) Run(ctx context.Context, appeared func(media.Volume)) error {
	for {
		select {
		case v := <-s.arrive:
			appeared(v)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *sockets) Present(v media.Volume) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in[v.Dir]
}

func (s *sockets) set(dir string, in bool) media.Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in[dir] = in
	return media.Volume{Dir: dir}
}

func newWorld(t testing.TB, change func(*Options)) *world {
	t.Helper()
	w := &world{t: t, ports: &sockets{in: map[string]bool{}, arrive: make(chan media.Volume)}}
	var err error
	w.fleet, err = mqttsynctest.NewFleet()
	check(t, err)
	key := mqttsynctest.Key("device")
	w.fleet.Know(key.Public())
	w.device, err = mqttsynctest.OpenDevice(mqttsynctest.DeviceOptions{Dir: t.TempDir(), Key: key, Fleet: w.fleet, Interval: time.Hour})
	check(t, err)
	t.Cleanup(func() { check(t, w.device.Stop()) })
	o := Options{
		Volumes: w.ports, Desk: w.device.Desk, Device: w.device.ID, Key: key, Queue: w.device.Queue, Now: mqttsynctest.Now, Clock: w.device.Clock,
		Status: w.device.Client.Status, Lines: func(int) []string { return []string{"a line of the log"} },
		Enrol: func() ([]byte, error) { return []byte("request"), nil },
		Open: func(v media.Volume) (Folder, error) {
			if w.folder != nil {
				return w.folder(v.Dir)
			}
			return media.Open(v.Dir)
		},
		Tell: func(v Verdict) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.told = append(w.told, v)
		},
	}
	if change != nil {
		change(&o)
	}
	w.port, err = New(o)
	check(t, err)
	return w
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bundle returns bundle seq of the fleet.
func (w *world) bundle(seq uint64, change func(*bundle.Manifest)) []byte {
	w.t.Helper()
	b, err := w.fleet.Bundle(seq, 2000, change)
	check(w.t, err)
	return b
}

// confirm makes bundle seq the one that serves.
func (w *world) confirm(seq uint64) {
	w.t.Helper()
	_, err := w.device.Desk.Offer(w.t.Context(), intake.Candidate{Source: "test", Name: "x", Open: open(w.bundle(seq, nil))})
	check(w.t, err)
	w.decide()
}

// decide confirms the bundle on trial.
func (w *world) decide() {
	w.t.Helper()
	_, err := w.device.Desk.Confirm(w.t.Context(), "test")
	check(w.t, err)
}

func open(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// stick makes a stick with files, names to content.
func (w *world) stick(files map[string][]byte) string {
	w.t.Helper()
	dir := w.t.TempDir()
	for name, b := range files {
		name = filepath.Join(dir, name)
		check(w.t, os.MkdirAll(filepath.Dir(name), 0o755))
		check(w.t, os.WriteFile(name, b, 0o644))
	}
	return dir
}

// insert puts a stick in and returns the verdict.
func (w *world) insert(dir string) Verdict {
	w.t.Helper()
	return w.port.visit(w.t.Context(), w.ports.set(dir, true), inAndOut)
}

// want checks what a person is told.
func (w *world) want(v Verdict, stage Stage, word refusal.Word) {
	w.t.Helper()
	if v.Stage != stage || v.Word != word {
		w.t.Fatalf("verdict %s %q (%s), want %s %q\n%s", v.Stage, v.Word, v.Detail, stage, word, lines(v))
	}
}

func lines(v Verdict) string {
	var all []string
	for n := range v.Items {
		all = append(all, v.Items[n].File+": "+v.Items[n].text())
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// item returns what became of a file.
func (w *world) item(v Verdict, file string) Item {
	w.t.Helper()
	for _, i := range v.Items {
		if i.File == file {
			return i
		}
	}
	w.t.Fatalf("nothing is told of %s:\n%s", file, lines(v))
	return Item{}
}

// P0 is what must not change by a refusal.
func (w *world) p0() string {
	w.t.Helper()
	st := w.device.Desk.Status()
	l, _ := w.device.Desk.Trust().Confirmed("gate", "stable")
	serving := uint64(0)
	if st.Serving != nil {
		serving = st.Serving.Seq
	}
	all, err := filepath.Glob(filepath.Join(w.device.Store.Path(), "staging", "*"))
	check(w.t, err)
	return fmt.Sprintf("serves %d, confirmed %d %d, root %d, staging %v", serving, l.Epoch, l.Seq, st.Root, all)
}

func (w *world) refusals() map[refusal.Word]int {
	w.t.Helper()
	all, err := audit.Tail(w.device.Store.State(), 1000)
	check(w.t, err)
	n := map[refusal.Word]int{}
	for _, e := range all {
		if e.Event == audit.Refused {
			n[e.Word]++
		}
	}
	return n
}

// calls records n calls and makes them durable.
func (w *world) calls(n int, seed uint64) {
	w.t.Helper()
	mix := eventstest.Mix(n, mqttsynctest.Now(), seed)
	for i := range mix {
		w.device.Queue.Record(&mix[i])
	}
	check(w.t, w.device.Queue.Flush(w.t.Context()))
}

// waiting is how many batches and losses wait to be delivered.
func (w *world) waiting() int {
	st := w.device.Queue.Status()
	return st.Losses + st.Classes[0].Count + st.Classes[1].Count
}

// office returns a collector with a database of its own.
func (w *world) office() *fleet.Collector {
	w.t.Helper()
	s, err := fleet.OpenStore(context.Background(), filepath.Join(w.t.TempDir(), "fleet.db"), fleet.CallRows)
	check(w.t, err)
	w.t.Cleanup(func() { check(w.t, s.Close()) })
	signer := w.fleet.Signer(trust.RoleCollector)
	clock := w.fleet.Signer(trust.RoleTime)
	return fleet.NewCollector(fleet.CollectorOptions{Fleet: mqttsynctest.Name, Root: w.fleet.State, Devices: w.fleet, Store: s, Signer: &signer, TimeSigner: &clock})
}

// A bent folder is a stick that misbehaves.
type bent struct {
	Folder
	list  func(dir string) ([]media.Entry, bool, error)
	read  func(name string, in io.ReadCloser) io.ReadCloser
	write func(w io.Writer) io.Writer
	free  func() int64
}

func (b *bent) List(dir string) ([]media.Entry, bool, error) {
	if b.list != nil {
		return b.list(dir)
	}
	return b.Folder.List(dir)
}

func (b *bent) Read(name string) (io.ReadCloser, error) {
	in, err := b.Folder.Read(name)
	if err != nil || b.read == nil {
		return in, err
	}
	return b.read(name, in), nil
}

func (b *bent) Write(dir string, fill func(io.Writer) (string, error)) (int64, error) {
	return b.Folder.Write(dir, func(w io.Writer) (string, error) {
		if b.write != nil {
			w = b.write(w)
		}
		return fill(w)
	})
}

func (b *bent) Free() int64 {
	if b.free != nil {
		return b.free()
	}
	return b.Folder.Free()
}

// bend makes every stick misbehave as b says.
func (w *world) bend(b bent) {
	w.folder = func(dir string) (Folder, error) {
		f, err := media.Open(dir)
		c := b
		c.Folder = f
		return &c, err
	}
}

// root returns a root file of one version, that gives every role to one key and is signed by it.
func (w *world) root(version uint64, key envelope.PrivateKey, domain trust.Domain) []byte {
	w.t.Helper()
	r := &trust.Root{Domain: domain, Version: version, Issued: mqttsynctest.Issued + version, Roles: map[trust.RoleNumber]trust.Role{}}
	for _, n := range []trust.RoleNumber{trust.RoleRoot, trust.RoleRelease, trust.RoleCollector} {
		public := key.Public()
		if domain == w.fleet.Domain {
			public = mqttsynctest.Key(n.String()).Public()
		}
		r.Roles[n] = trust.Role{Epoch: 1, Threshold: 1, Keys: []trust.Key{{Name: "key", Public: public}}}
	}
	payload, err := r.Marshal()
	check(w.t, err)
	env, err := envelope.Sign(envelope.Root, payload, key)
	check(w.t, err)
	return envelope.File(envelope.Root, env)
}

// enrolment returns the file that enrols the device with a key of that name.
func (w *world) enrolment(name string, labels ...string) []byte {
	w.t.Helper()
	key := mqttsynctest.Key(name).Public()
	e := &trust.Enrolment{
		Domain: w.fleet.Domain, Epoch: 1, Seq: 1, Issued: mqttsynctest.Issued, Product: "gate", Channel: "stable", Name: name,
		Report: key, Device: trust.DeviceIDOf(key), Labels: labels, Seal: []trust.SealKey{{KEM: 0x20, Public: make([]byte, 32)}},
	}
	payload, err := e.Marshal()
	check(w.t, err)
	env, err := envelope.Sign(envelope.Device, payload, mqttsynctest.Key("release"))
	check(w.t, err)
	return envelope.File(envelope.Device, env)
}

// firstKind returns what the first object in the files of batches is.
func (w *world) firstKind(dir string) envelope.Kind {
	w.t.Helper()
	kinds := map[envelope.Kind]bool{}
	for _, name := range w.written(dir) {
		if !strings.HasSuffix(name, ".tidebatch") {
			continue
		}
		f, err := os.Open(filepath.Join(dir, "tide/out", w.device.ID.String(), name))
		check(w.t, err)
		defer f.Close()
		r := canon.NewReader(f)
		check(w.t, r.Magic(envelope.Batch.FileWord()))
		b, err := r.Bytes(report.MaxBatch)
		check(w.t, err)
		kinds[message.KindOf(b)] = true
	}
	if kinds[envelope.Loss] {
		return envelope.Loss
	}
	return envelope.Batch
}
