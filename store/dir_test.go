package store_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/store"
)

func dirOptions(t *testing.T) store.DirOptions {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	check := []string{exe, store.CheckArg}
	if env, err := exec.LookPath("env"); err == nil { // a program with race detection sleeps a second at its end
		check = append([]string{env, "GORACE=atexit_sleep_ms=0"}, check...)
	}
	return store.DirOptions{State: small(), Events: small(), Check: check}
}

// start opens a data directory as a start of the device does.
func start(t *testing.T, path string, o store.DirOptions) (*store.Dir, store.Report) {
	t.Helper()
	d, r, err := store.OpenDir(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, r
}

func stop(t *testing.T, d *store.Dir) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// mark writes a trust state of generation n, in the order of the design.
func mark(t *testing.T, d *store.Dir, n uint64) {
	t.Helper()
	if err := d.State().Update(func(tx *store.Tx) error { return tx.SetGeneration(n) }); err != nil {
		t.Fatal(err)
	}
	if err := d.Trust().Store([]byte("trust"), n); err != nil {
		t.Fatal(err)
	}
}

func TestFirstStartAndTheNext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "data")
	d, r := start(t, path, dirOptions(t))
	if r.State.Found != store.Made || r.Mode != store.Normal || r.Starts != 1 || r.Refusal() != nil || len(r.Trouble) > 0 {
		t.Errorf("first start: %+v", r)
	}
	put(t, d.State(), "k", "v")
	if _, _, err := store.OpenDir(path, dirOptions(t)); !refusal.Is(err, refusal.Busy) || refusal.Hint(err) == "" {
		t.Errorf("a second process: got %v, want E_BUSY with a hint", err)
	}
	stop(t, d)
	d, r = start(t, path, dirOptions(t))
	if r.State.Found != store.AsItLay || r.Starts != 2 || get(t, d.State(), "k") != "v" {
		t.Errorf("second start: %+v", r)
	}
	if err := d.Healthy(); err != nil {
		t.Fatal(err)
	}
	stop(t, d)
	if _, r = start(t, path, dirOptions(t)); r.Starts != 1 {
		t.Errorf("after health: %d starts, want 1", r.Starts)
	}
}

// Eleven starts that all crash: three as they are, then events.db goes, three later
// state.db, and after nine nothing is written any more; a minute of health there gives the next
// start one try.
func TestCrashLoopLadder(t *testing.T) {
	path := t.TempDir()
	o := dirOptions(t)
	run := func(healthy bool) (store.Report, store.FileReport) {
		d, r := start(t, path, o)
		ev, er, err := d.OpenEvents(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if d.Mode() == store.Normal {
			put(t, d.State(), "k", "v")
			put(t, ev, "k", "v")
		}
		if healthy {
			if err := d.Healthy(); err != nil {
				t.Fatal(err)
			}
		}
		ev.Close()
		stop(t, d)
		return r, er
	}
	for n := 1; n <= 11; n++ {
		r, er := run(false)
		wantState, wantEvents, wantMode := store.AsItLay, store.AsItLay, store.Normal
		switch {
		case n == 1:
			wantState, wantEvents = store.Made, store.Made
		case n == 4:
			wantEvents = store.Replaced
		case n == 7:
			wantState = store.Replaced
		case n >= 10:
			wantMode = store.CrashReadOnly
		}
		if r.State.Found != wantState || er.Found != wantEvents || r.Mode != wantMode {
			t.Errorf("start %d: state %v, events %v, mode %v; want %v, %v, %v", n, r.State.Found, er.Found, r.Mode, wantState, wantEvents, wantMode)
		}
		if n == 7 && r.State.Aside != "state.db.bad" {
			t.Errorf("start 7: kept %q", r.State.Aside)
		}
		if n >= 10 && !refusal.Is(r.Refusal(), refusal.StoreRO) {
			t.Errorf("start %d: refusal %v", n, r.Refusal())
		}
	}
	if r, _ := run(true); r.Mode != store.CrashReadOnly {
		t.Errorf("start 12: %v", r.Mode)
	}
	if r, _ := run(true); r.Mode != store.Normal || r.State.Found != store.AsItLay {
		t.Errorf("after health in read-only mode: %v, %v", r.Mode, r.State)
	}
	if r, _ := run(false); r.Starts != 1 {
		t.Errorf("after health: %d starts", r.Starts)
	}
}

func TestATrialPaysForItsOwnStarts(t *testing.T) {
	path := t.TempDir()
	for range 3 {
		d, _ := start(t, path, dirOptions(t))
		if err := d.ChargeTrial(); err != nil {
			t.Fatal(err)
		}
		stop(t, d)
	}
	if _, r := start(t, path, dirOptions(t)); r.Starts != 1 {
		t.Errorf("%d starts are counted, want 1", r.Starts)
	}
}

func TestReadOnlyModeWritesNothing(t *testing.T) {
	path := t.TempDir()
	d, _ := start(t, path, dirOptions(t))
	put(t, d.State(), "k", "v")
	stop(t, d)
	if err := os.WriteFile(filepath.Join(path, "starts"), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := listing(t, path)
	d, r := start(t, path, dirOptions(t))
	if r.Mode != store.CrashReadOnly || get(t, d.State(), "k") != "v" {
		t.Errorf("%+v, k = %q", r, get(t, d.State(), "k"))
	}
	ev, er, err := d.OpenEvents(t.Context())
	if err != nil || er.Found != store.Unavailable {
		t.Errorf("events: %v, %v", er, err)
	}
	for what, err := range map[string]error{"state": update(d.State(), "k", "w"), "events": update(ev, "k", "w"), "shadow": d.PutShadow([]byte("x"))} {
		if !refusal.Is(err, refusal.StoreRO) {
			t.Errorf("%s: got %v, want E_STORE_RO", what, err)
		}
	}
	stop(t, d)
	if after := listing(t, path); after != before {
		t.Errorf("the directory changed from\n%s to\n%s", before, after)
	}
}

func listing(t *testing.T, path string) string {
	t.Helper()
	var b strings.Builder
	if err := filepath.Walk(path, func(p string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			fmt.Fprintln(&b, p, info.Size(), info.ModTime().UnixNano())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestNewerFileIsLeftAlone(t *testing.T) {
	path := t.TempDir()
	o := dirOptions(t)
	o.State.Schema = 3
	d, _ := start(t, path, o)
	put(t, d.State(), "k", "v3")
	mark(t, d, 7)
	stop(t, d)
	o.State.Schema = 1
	d, r := start(t, path, o)
	if r.State.Found != store.Newer || r.State.Aside != "state.db.v3" || r.State.Found.Whole() || r.TrustLost || r.Rollback {
		t.Errorf("%+v", r)
	}
	if get(t, d.State(), "k") != "" {
		t.Error("the file is not fresh")
	}
	o.State.Schema = 3
	if got := get(t, open(t, filepath.Join(path, "state.db.v3"), o.State), "k"); got != "v3" {
		t.Errorf("the file of the newer program has %q", got)
	}
}

func TestOneBadFileIsKept(t *testing.T) {
	path := t.TempDir()
	o := dirOptions(t)
	for i := range 2 {
		d, _ := start(t, path, o)
		stop(t, d)
		if err := os.WriteFile(filepath.Join(path, store.StateFile), fmt.Appendf(nil, "damage %d", i), 0o600); err != nil {
			t.Fatal(err)
		}
		d, r := start(t, path, o)
		if r.State.Aside != "state.db.bad" {
			t.Errorf("kept %q", r.State.Aside)
		}
		if b, err := os.ReadFile(filepath.Join(path, "state.db.bad")); err != nil || string(b) != fmt.Sprintf("damage %d", i) {
			t.Errorf("state.db.bad has %q, %v", b, err)
		}
		stop(t, d)
	}
}

func TestLeftoversAreSwept(t *testing.T) {
	path := t.TempDir()
	for _, name := range []string{"events.db.new", "shadow.0.tmp", "state.db.turned", "state.db.wide"} {
		if err := os.WriteFile(filepath.Join(path, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, path, dirOptions(t))
	if left := listing(t, path); strings.Contains(left, ".new") || strings.Contains(left, ".tmp") || strings.Contains(left, ".turned") || strings.Contains(left, ".wide") {
		t.Errorf("left:\n%s", left)
	}
}

func TestShadowsTakeTurns(t *testing.T) {
	path := t.TempDir()
	d, _ := start(t, path, dirOptions(t))
	if _, err := d.Shadow(); !errors.Is(err, store.ErrNoShadow) {
		t.Errorf("got %v, want ErrNoShadow", err)
	}
	for _, s := range []string{"one", "two", "three"} {
		if err := d.PutShadow([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.PutShadow(make([]byte, store.ShadowBytes+1)); !refusal.Is(err, refusal.Limit) {
		t.Errorf("too large: got %v, want E_LIMIT", err)
	}
	stop(t, d)
	read := func() string {
		d, _ := start(t, path, dirOptions(t))
		defer stop(t, d)
		b, err := d.Shadow()
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	if got := read(); got != "three" {
		t.Errorf("got %q, want three", got)
	}
	if err := os.WriteFile(filepath.Join(path, "shadow.1"), []byte("damage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "two" {
		t.Errorf("with the newest damaged: got %q, want two", got)
	}
}

func TestADiskThatCannotBeWritten(t *testing.T) {
	path := t.TempDir()
	d, _ := start(t, path, dirOptions(t))
	put(t, d.State(), "k", "v")
	stop(t, d)
	starts := filepath.Join(path, "starts")
	if err := errors.Join(os.Remove(starts), os.MkdirAll(filepath.Join(starts, "in the way"), 0o700)); err != nil {
		t.Fatal(err)
	}
	d, r := start(t, path, dirOptions(t))
	if r.Mode != store.DiskReadOnly || !refusal.Is(r.Refusal(), refusal.StoreRO) || len(r.Trouble) == 0 || get(t, d.State(), "k") != "v" {
		t.Errorf("%+v", r)
	}
	if err := errors.Join(d.Healthy(), d.ChargeTrial()); err != nil {
		t.Errorf("health: %v", err)
	}
	if err := update(d.State(), "k", "w"); !refusal.Is(err, refusal.StoreRO) {
		t.Errorf("got %v, want E_STORE_RO", err)
	}
}

func TestReportIsInWords(t *testing.T) {
	path := t.TempDir()
	d, _ := start(t, path, dirOptions(t))
	stop(t, d)
	if err := os.WriteFile(filepath.Join(path, store.StateFile), make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	_, r := start(t, path, dirOptions(t))
	want := "state.db: replaced by a fresh file: damaged: both meta pages (kept as state.db.bad)"
	if got := strings.Join(r.Lines(), "\n"); !strings.HasPrefix(got, want+"\n") || !strings.Contains(got, "2 starts in a row") {
		t.Errorf("got\n%s\nwant it to begin with\n%s", got, want)
	}
}

// A device whose power is cut every few seconds has served each time: its files are not
// the reason and stay. A program that crashes after it has served still climbs the ladder.
func TestPowerCutsAfterServingAreNoCrashLoop(t *testing.T) {
	path := t.TempDir()
	once := func(crash bool) store.Report {
		t.Helper()
		d, r, err := store.OpenDir(path, dirOptions(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Served(); err != nil {
			t.Fatal(err)
		}
		if crash {
			if err := os.WriteFile(d.CrashFile(), []byte("panic: boom\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		return r
	}
	for i := range 12 {
		if r := once(false); r.Starts != 1 || r.Mode != store.Normal {
			t.Fatalf("cut %d: %d starts, mode %v; want 1, normal", i, r.Starts, r.Mode)
		}
	}
	for i := 1; i <= 4; i++ {
		r := once(true)
		if want := i; r.Starts != want {
			t.Errorf("crash %d: %d starts in a row, want %d", i, r.Starts, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(path, "crash.last")); err != nil || string(b) != "panic: boom\n" {
		t.Errorf("report kept: %q, %v", b, err)
	}
}
