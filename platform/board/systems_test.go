package board

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// cards writes a card with two slots, of which A holds a system of board "arm64".
func cards(t *testing.T) (*disk, *Systems) {
	t.Helper()
	const mib = 1 << 20
	d := &disk{b: make([]byte, 4*mib+2*66*mib)}
	table(d, [2]uint32{1, 3}, [2]uint32{4, 66}, [2]uint32{70, 66}, [2]uint32{136, 1})
	if err := WriteBoot(d, Boot{Slot: "A", Good: "A", Back: "none"}); err != nil {
		t.Fatal(err)
	}
	if err := writeSlot(d, "A", "1", squash("one", 5000), []byte("kernel one")); err != nil {
		t.Fatal(err)
	}
	return d, &Systems{Disk: d, Running: "A", Refresh: func() error { return nil }}
}

func writeSlot(d Disk, slot, version string, root, kernel []byte) error {
	return WriteSlot(d, slot, about(version), part(root), part(kernel), func() error { return nil })
}

func about(version string) map[string]string {
	return map[string]string{"BOARD": "arm64", "VERSION": version, "STATE": "1"}
}

func part(b []byte) Part { return Part{int64(len(b)), bytes.NewReader(b)} }

// squash returns n bytes with the head of a squashfs of that length.
func squash(text string, n int) []byte {
	b := bytes.Repeat([]byte(text), n/len(text)+1)[:n]
	copy(b, rootMagic)
	copy(b[rootLength:], []byte{byte(n), byte(n >> 8), 0, 0, 0, 0, 0, 0})
	return b
}

func TestASlotGivesBackTheSystemInIt(t *testing.T) {
	d, _ := cards(t)
	s, err := ReadSlot(d, "A")
	if err != nil || !maps.Equal(s.About, about("1")) || s.Root.Size != 5000 || s.Kernel.Size != sector {
		t.Fatalf("got %+v, %v", s, err)
	}
	if got := d.b[s.Kernel.Start : s.Kernel.Start+10]; string(got) != "kernel one" {
		t.Errorf("kernel %q", got)
	}
	if _, err := ReadSlot(d, "B"); !errors.Is(err, ErrNoSystem) {
		t.Errorf("empty slot: %v", err)
	}
	for name, do := range map[string]func() error{
		"too large":    func() error { return writeSlot(d, "B", "2", squash("x", kernelAt+1), []byte("k")) },
		"kernel":       func() error { return writeSlot(d, "B", "2", squash("x", 100), make([]byte, 2<<20)) },
		"no kernel":    func() error { return writeSlot(d, "B", "2", squash("x", 100), nil) },
		"long about":   func() error { return writeSlot(d, "B", strings.Repeat("9", 500), squash("x", 100), []byte("k")) },
		"odd about":    func() error { return writeSlot(d, "B", "1\x00BOARD=other", squash("x", 100), []byte("k")) },
		"no such slot": func() error { return writeSlot(d, "C", "2", squash("x", 100), []byte("k")) },
		"shorter content": func() error {
			return WriteSlot(d, "B", about("2"), Part{200, bytes.NewReader(squash("x", 100))}, part([]byte("k")), func() error { return nil })
		},
	} {
		if err := do(); err == nil {
			t.Errorf("%s: taken", name)
		}
		if _, err := ReadSlot(d, "B"); err == nil {
			t.Errorf("%s: left a system", name)
		}
	}
}

// A cutter is a disk that loses its power after some writes.
type cutter struct {
	*disk
	left int
}

var errCut = errors.New("power cut")

func (c *cutter) WriteAt(p []byte, at int64) (int, error) {
	if c.left == 0 {
		return 0, errCut
	}
	c.left--
	return c.disk.WriteAt(p, at)
}

func TestAPowerCutLeavesAWholeSystemOrNone(t *testing.T) {
	d, _ := cards(t)
	if err := writeSlot(d, "B", "0", squash("old", 90000), bytes.Repeat([]byte("K"), 90000)); err != nil {
		t.Fatal(err)
	}
	root, kernel := squash("new", 70000), bytes.Repeat([]byte("k"), 70000)
	for writes := 0; ; writes++ {
		c := &cutter{&disk{b: bytes.Clone(d.b)}, writes}
		err := writeSlot(c, "B", "2", root, kernel)
		s, readErr := ReadSlot(c, "B")
		switch {
		case err == nil:
			if readErr != nil || s.About["VERSION"] != "2" {
				t.Fatalf("after %d writes: %+v, %v", writes, s, readErr)
			}
			if writes < 5 {
				t.Errorf("only %d writes", writes)
			}
			return
		case writes == 0 && s.About["VERSION"] == "0": // nothing was touched
		case !errors.Is(readErr, ErrNoSystem):
			t.Fatalf("cut after %d writes: %+v, %v", writes, s, readErr)
		}
	}
}

// A liar gives back something else than was written.
type liar struct{ *disk }

func (l *liar) WriteAt(p []byte, at int64) (int, error) {
	if len(p) > recordSize {
		p = bytes.Clone(p)
		p[len(p)-1]++
	}
	return l.disk.WriteAt(p, at)
}

func TestACardThatDoesNotKeepWhatWasWrittenIsSeen(t *testing.T) {
	d, _ := cards(t)
	err := writeSlot(&liar{d}, "B", "2", squash("new", 70000), bytes.Repeat([]byte("k"), 70000))
	if err == nil || !strings.Contains(err.Error(), "does not give back") {
		t.Errorf("got %v", err)
	}
	if _, err := ReadSlot(d, "B"); !errors.Is(err, ErrNoSystem) {
		t.Errorf("left a system: %v", err)
	}
}

// controlled serves s and returns a client, and a channel of the starts that are asked for.
func controlled(t *testing.T, s *Systems) (Client, chan struct{}) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	again, ended := make(chan struct{}, 9), make(chan error, 1)
	go func() { ended <- s.ServeControl(l, func() { again <- struct{}{} }) }()
	t.Cleanup(func() {
		_ = l.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return Client{path}, again
}

func files(b ...[]byte) (f [2]func() (io.Reader, error)) {
	for i := range b {
		f[i] = func() (io.Reader, error) { return bytes.NewReader(b[i]), nil }
	}
	return f
}

func install(c Client, board string) (string, error) {
	root, kernel := squash("two", 400000), []byte("kernel two")
	a := about("2")
	a["BOARD"] = board
	f := files(root, kernel)
	return c.Install(context.Background(), a, int64(len(root)), int64(len(kernel)), f[0], f[1])
}

// What the gateway asks for over the socket is what the boot loader does.
func TestControl(t *testing.T) {
	ctx := t.Context()
	d, s := cards(t)
	c, again := controlled(t, s)
	if got, err := c.State(ctx); err != nil || got != (Control{Board: "arm64", Running: "A", Good: "A", Next: "A", Back: "none"}) {
		t.Fatalf("state %+v, %v", got, err)
	}
	if err := c.Decide(ctx, "try", "B", 3); err == nil {
		t.Error("an empty slot is tried")
	}
	if _, err := install(c, "rpi3"); err == nil || !strings.Contains(err.Error(), `for board "rpi3"`) {
		t.Errorf("a system of another board: %v", err)
	}
	slot, err := install(c, "arm64")
	if err != nil || slot != "B" {
		t.Fatalf("install: %q, %v", slot, err)
	}
	if b, _ := ReadBoot(d); b.Slot != "A" {
		t.Errorf("an installation changed what starts: %+v", b)
	}
	for _, bad := range []struct {
		verb, slot string
		tries      int
	}{{"try", "A", 3}, {"try", "B", 0}, {"try", "B", 10}, {"keep", "B", 0}, {"give-up", "A", 0}, {"format", "B", 0}} {
		if err := c.Decide(ctx, bad.verb, bad.slot, bad.tries); err == nil {
			t.Errorf("%+v: done", bad)
		}
	}
	if err := c.Decide(ctx, "try", "B", 2); err != nil {
		t.Fatal(err)
	}
	<-again
	if b, _ := ReadBoot(d); b != (Boot{Slot: "B", Good: "A", Back: "none", Tries: 2}) {
		t.Errorf("boot state %+v", b)
	}
	if _, err := install(c, "arm64"); err == nil {
		t.Error("a slot that starts next was overwritten")
	}
	if err := c.Decide(ctx, "give-up", "B", 0); err != nil {
		t.Error(err)
	}
	select {
	case <-again:
		t.Error("starts anew though the good system runs")
	default:
	}
	if b, _ := ReadBoot(d); b != (Boot{Slot: "A", Good: "A", Back: "B"}) {
		t.Errorf("boot state %+v", b)
	}
}

// A power cut between an installation and the try must not leave a record that says the new
// system was given up. A system that is refused changes no record.
func TestAnInstallationForgetsTheSystemThatWasGivenUp(t *testing.T) {
	d, s := cards(t)
	back := Boot{Slot: "A", Good: "A", Back: "B"}
	if err := WriteBoot(d, back); err != nil {
		t.Fatal(err)
	}
	c, _ := controlled(t, s)
	if _, err := install(c, "rpi3"); err == nil {
		t.Error("a system of another board was installed")
	}
	if b, err := ReadBoot(d); err != nil || b != back {
		t.Errorf("boot state %+v after a refusal, want %+v: %v", b, back, err)
	}
	if _, err := install(c, "arm64"); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadBoot(d); err != nil || b != (Boot{Slot: "A", Good: "A", Back: "none"}) {
		t.Errorf("boot state %+v, %v", b, err)
	}
}

func TestControlOfASystemOnTrial(t *testing.T) {
	ctx := t.Context()
	for _, verb := range []string{"keep", "give-up"} {
		d, s := cards(t)
		if err := errors.Join(writeSlot(d, "B", "2", squash("two", 5000), []byte("k")), WriteBoot(d, Boot{Slot: "B", Good: "A", Back: "none", Tries: 1})); err != nil {
			t.Fatal(err)
		}
		s.Running = "B"
		c, again := controlled(t, s)
		if _, err := install(c, "arm64"); err == nil {
			t.Error("the good system was overwritten by one on trial")
		}
		if err := c.Decide(ctx, "hold", "B", 0); err != nil {
			t.Error(err)
		}
		if held, decided := s.Held(); !held || decided {
			t.Errorf("held %v, decided %v", held, decided)
		}
		if err := c.Decide(ctx, verb, "B", 0); err != nil {
			t.Fatal(err)
		}
		want := Boot{Slot: "B", Good: "B", Back: "none"}
		if verb == "give-up" {
			<-again
			want = Boot{Slot: "A", Good: "A", Back: "B"}
		}
		if b, _ := ReadBoot(d); b != want {
			t.Errorf("%s: boot state %+v, want %+v", verb, b, want)
		}
		if _, decided := s.Held(); !decided {
			t.Errorf("%s: not decided", verb)
		}
	}
}

func TestASlotThatDoesNotLoadIsGivenUp(t *testing.T) {
	d, s := cards(t)
	if err := errors.Join(WriteBoot(d, Boot{Slot: "B", Good: "A", Back: "none", Tries: 2}), s.Lost("B")); err != nil {
		t.Fatal(err)
	}
	if b, _ := ReadBoot(d); b != (Boot{Slot: "A", Good: "A", Back: "B"}) {
		t.Errorf("boot state %+v", b)
	}
}

func TestAClientThatHangsUpLeavesNoSystem(t *testing.T) {
	d, s := cards(t)
	c, _ := controlled(t, s)
	broken := func() (io.Reader, error) { return nil, errCut }
	if _, err := c.Install(t.Context(), about("2"), 5000, 10, func() (io.Reader, error) { return bytes.NewReader(squash("x", 5000)), nil }, broken); !errors.Is(err, errCut) {
		t.Errorf("got %v", err)
	}
	if _, err := c.State(t.Context()); err != nil { // answered after the other
		t.Error(err)
	}
	if _, err := ReadSlot(d, "B"); !errors.Is(err, ErrNoSystem) {
		t.Errorf("left a system: %v", err)
	}
}
