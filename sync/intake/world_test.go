package intake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"tidegate/policy/changes"
	"tidegate/policy/refusal"
	"tidegate/store"
	"tidegate/store/audit"
	"tidegate/store/slots"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/bundle/write"
	"tidegate/sync/seal"
	"tidegate/sync/trust"
	"time"
)

// deviceKey is the number of the report key of the device under test.
const deviceKey = 90

// A world is a device in a folder, and the fleet that it belongs to.
type world struct {
	t      testing.TB
	dir    string
	fleet  *bundletest.Fleet
	clock  *fakeClock
	gate   *fakeGate
	step   func(name string) // set before start
	commit func(path string, commit func() error) error
	quota  int64
	ident  seal.Opener
	groups []seal.Opener
	ver    [3]uint64
	mach   *fakeMachine // nil: it takes no systems

	store *store.Dir
	shelf *slots.Shelf
	desk  *Desk
	log   *audit.Log
}

// newWorld returns a device with root 1 of its fleet and nothing else.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := bareWorld(t)
	w.start()
	w.install()
	return w
}

func bareWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), fleet: bundletest.New(t, "a"), gate: &fakeGate{}, ver: [3]uint64{1, 0, 0}}
	w.clock = &fakeClock{began: time.Now(), wall: time.Unix(bundletest.Issued+1000, 0)}
	t.Cleanup(w.stop)
	return w
}

func (w *world) install() {
	w.t.Helper()
	if r, err := w.desk.InstallRoot(w.t.Context(), w.fleet.RootFile(1), trust.Digest{}); err != nil {
		w.t.Fatalf("install root: %v (%+v)", err, r)
	}
}

// open opens what lies on disk and makes a desk, as the program does.
func (w *world) open() {
	w.t.Helper()
	var err error
	var report store.Report
	w.store, report, err = store.OpenDir(w.dir, store.DirOptions{
		State:  store.Options{MaxBytes: 1 << 20, Schema: 1, Commit: w.commit},
		Events: store.Options{MaxBytes: 1 << 20, Schema: 1},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.shelf, err = slots.Open(w.dir, slots.Options{Layout: Layout, Quota: w.quota, Reserve: 1, Step: w.step})
	if err != nil {
		w.t.Fatal(err)
	}
	w.log, err = audit.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.gate.restart()
	o := Options{
		Dir: w.dir, State: w.store.State(), Slots: w.store.Trust(), Shelf: w.shelf, Audit: w.log,
		Locked: report.TrustLost, Activator: w.gate, Prober: w.gate, Clock: w.clock,
		Device: trust.DeviceIDOf(bundletest.Key(deviceKey).Public()), Hardware: "linux-arm64", Version: w.ver,
		Build: bundletest.Issued - 1000, Identity: w.ident, Groups: w.groups, Step: w.step,
		Charge: w.store.ChargeTrial,
	}
	if w.mach != nil {
		o.System, o.Board, o.Form = w.mach, "board-a", 1
	}
	w.desk, err = New(o)
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) start() {
	w.t.Helper()
	w.open()
	if err := w.desk.Resume(w.t.Context()); err != nil {
		w.t.Fatalf("resume: %v", err)
	}
}

func (w *world) stop() {
	if w.store != nil {
		if err := w.store.Close(); err != nil {
			w.t.Errorf("close: %v", err)
		}
		w.store = nil
	}
}

func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

// bundle returns bundle seq of the fleet.
func (w *world) bundle(seq uint64, change func(*write.Spec)) []byte {
	return w.fleet.Bundle(w.t, seq, change)
}

// candidate offers b as a file.
func candidate(b []byte) Candidate {
	return Candidate{Source: "apply", Name: "x.tide", Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b)), nil
	}}
}

func (w *world) offer(b []byte) (Report, error) {
	return w.desk.Offer(w.t.Context(), candidate(b))
}

// put offers b and wants it on trial.
func (w *world) put(b []byte) Report {
	w.t.Helper()
	r, err := w.offer(b)
	if err != nil || r.Phase != OnTrial {
		w.t.Fatalf("offer: phase %v, %v", r.Phase, err)
	}
	return r
}

// confirm offers b, confirms it and returns its digest.
func (w *world) confirm(b []byte) bundle.Digest {
	w.t.Helper()
	r := w.put(b)
	if got, err := w.desk.Confirm(w.t.Context(), "test"); err != nil || got.Phase != Confirmed {
		w.t.Fatalf("confirm: phase %v, %v", got.Phase, err)
	}
	return r.Digest
}

// A picture is everything P0 speaks of.
type picture struct {
	serves  string // content of the edition
	pointer string
	roots   int
	lines   string
	failed  int
	floor   uint64
	staging []string
	slots   []string
	entries int
}

func (w *world) picture() picture {
	w.t.Helper()
	m := w.desk.cur.Load()
	p := picture{serves: w.gate.serves(), pointer: pointers(m.ptr), roots: len(m.state.Roots())}
	if l, ok := m.state.Confirmed("gate", "stable"); ok {
		p.lines = fmt.Sprintf("%d %d %s", l.Epoch, l.Seq, l.Digest)
	}
	p.floor = m.state.Floor().Unix
	p.staging, p.slots = names(w.t, filepath.Join(w.dir, "staging")), names(w.t, filepath.Join(w.dir, "slots"))
	p.entries = w.refusals()
	return p
}

func pointers(p slots.Pointers) string {
	short := func(d slots.Digest) string { return d.String()[:6] }
	return fmt.Sprintf("good %s older %s trial %s (%d) active %s", short(p.Good), short(p.Older), short(p.Trial), p.Attempts, short(p.Active))
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// refusals counts the refusals: those in the audit log and those that it only counted because
// the same one is in it.
func (w *world) refusals() int {
	w.t.Helper()
	all, err := audit.Tail(w.store.State(), 10000)
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for _, r := range all {
		if r.Event == audit.Refused {
			n += 1 + int(r.Count) //nolint:gosec // small
		}
	}
	return n + int(w.log.Counted()) //nolint:gosec // small
}

func (w *world) lastEntry() audit.Record {
	w.t.Helper()
	all, err := audit.Tail(w.store.State(), 1)
	if err != nil || len(all) != 1 {
		w.t.Fatalf("audit log: %d entries, %v", len(all), err)
	}
	return all[0]
}

// refuse offers c and wants exactly the word, and P0: nothing else has changed but the
// number of roots, by roots, and one audit entry.
func (w *world) refuse(c Candidate, word refusal.Word, roots int) Report {
	w.t.Helper()
	before := w.picture()
	r, err := w.desk.Offer(w.t.Context(), c)
	w.mustBe(r, err, word)
	after := w.picture()
	if got := after.entries - before.entries; got != 1 {
		w.t.Errorf("the refusal left %d audit entries, want 1", got)
	}
	if last := w.lastEntry(); w.log.Counted() == 0 && last.Word != word {
		w.t.Errorf("audit entry has word %q, want %q", last.Word, word)
	}
	if got := after.roots - before.roots; got != roots {
		w.t.Errorf("%d roots were accepted, want %d", got, roots)
	}
	after.entries, after.roots = before.entries, before.roots
	if roots > 0 {
		after.floor = before.floor
	}
	if fmt.Sprint(before) != fmt.Sprint(after) {
		w.t.Errorf("the refusal changed the device\nbefore %+v\nafter  %+v", before, after)
	}
	return r
}

func (w *world) mustBe(r Report, err error, word refusal.Word) {
	w.t.Helper()
	if !refusal.Is(err, word) {
		got, _ := refusal.Of(err)
		w.t.Fatalf("word %q (%v), want %q", got, err, word)
	}
	if r.Word != word || r.Phase != Rejected {
		w.t.Errorf("report says %q, phase %v; want %q, rejected", r.Word, r.Phase, word)
	}
}

// fakeClock runs with the time of the test, so also with that of synctest.
type fakeClock struct {
	mu    sync.Mutex
	began time.Time
	wall  time.Time
}

func (c *fakeClock) Boot() time.Duration { return time.Since(c.began) }

func (c *fakeClock) Wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wall
}

func (c *fakeClock) setWall(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall = t
}

// fakeGate compiles, serves and answers probes.
type fakeGate struct {
	mu          sync.Mutex
	edition     any
	activations int
	secrets     map[string][]byte
	refuse      error // of Compile
	onCompile   func(b *bundle.Reader)
	sick        error // of Health
	probe       func(ctx context.Context, p bundle.Probe) (int, error)
	all, failed uint64
}

func (g *fakeGate) restart() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.edition, g.all, g.failed = nil, 0, 0
}

func (g *fakeGate) Compile(_ context.Context, b *bundle.Reader, secrets map[string][]byte) (Edition, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.onCompile != nil {
		g.onCompile(b)
	}
	if g.refuse != nil {
		return nil, g.refuse
	}
	policy, err := b.ReadFile("policy.cbor", 1<<20)
	if err != nil {
		return nil, err
	}
	g.secrets = secrets
	return string(policy), nil
}

func (g *fakeGate) Changes(from, to Edition) []changes.Change {
	g.mu.Lock()
	defer g.mu.Unlock()
	if from == nil {
		from = g.edition
	}
	return []changes.Change{{What: "edition", Name: fmt.Sprint(from), How: changes.Removed}, {What: "edition", Name: fmt.Sprint(to), How: changes.Added}}
}

func (g *fakeGate) Activate(e Edition) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.edition = e
	g.activations++
}

func (g *fakeGate) serves() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, _ := g.edition.(string)
	return s
}

func (g *fakeGate) set(change func(g *fakeGate)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(g)
}

func (g *fakeGate) Health(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sick
}

func (g *fakeGate) Probe(ctx context.Context, p bundle.Probe) (int, error) {
	g.mu.Lock()
	probe := g.probe
	g.mu.Unlock()
	if probe == nil {
		return 200, nil
	}
	return probe(ctx, p)
}

func (g *fakeGate) Answers() (all, failed uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all, g.failed
}

func (g *fakeGate) answer(all, failed uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all += all
	g.failed += failed
}

func policyOf(seq uint64) string { return fmt.Sprintf("policy of bundle %d", seq) }

func (w *world) wantServes(seq uint64) {
	w.t.Helper()
	want := policyOf(seq)
	if seq == 0 {
		want = ""
	}
	if got := w.gate.serves(); got != want {
		w.t.Errorf("serves %q, want %q", got, want)
	}
}

func (w *world) wantSeq(seq uint64) {
	w.t.Helper()
	l, _ := w.desk.Trust().Confirmed("gate", "stable")
	if l.Seq != seq {
		w.t.Errorf("confirmed seq is %d, want %d", l.Seq, seq)
	}
}

var errBroken = errors.New("broken")

func has(w trust.Warnings, word refusal.Word) bool {
	return slices.ContainsFunc(w, func(e *refusal.Error) bool { return e.Word == word })
}

// noise returns n bytes that do not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{9}).Read(b)
	return b
}
