package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

const lockArg = "try-the-lock"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == lockArg {
		var locked *LockedError
		if _, err := Lock(os.Args[2]); errors.As(err, &locked) {
			os.Exit(7)
		} else if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWriteFileReplacesAsAWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, s := range []string{"one", "two, longer", ""} {
		if err := WriteFile(path, []byte(s), 0o640); err != nil || content(t, path) != s {
			t.Errorf("%q: %v", s, err)
		}
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// A rest of a run that was cut is in nobody's way.
	if err := os.WriteFile(path+TempSuffix, []byte("rest"), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("three"), 0o600); err != nil || content(t, path) != "three" {
		t.Error(err)
	}
	mine := errors.New("mine")
	err := WriteFrom(path, 0o600, func(w io.Writer) error {
		_, err := io.WriteString(w, "half")
		return errors.Join(err, mine)
	})
	if !errors.Is(err, mine) || content(t, path) != "three" {
		t.Errorf("got %v and %q, want my error and the old content", err, content(t, path))
	}
	if _, err := os.Stat(path + TempSuffix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a rest is left: %v", err)
	}
}

// A link placed where the temporary file goes must not lead the write elsewhere.
func TestWriteFileFollowsNoPlantedLink(t *testing.T) {
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "f")
	if err := errors.Join(os.WriteFile(victim, []byte("safe"), 0o600), os.Symlink(victim, path+TempSuffix)); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("new"), 0o600); err != nil || content(t, victim) != "safe" || content(t, path) != "new" {
		t.Errorf("%v: victim %q", err, content(t, victim))
	}
}

func TestCreateChangesNoFileThatIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := Create(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, []byte("two"), 0o600); !errors.Is(err, fs.ErrExist) || content(t, path) != "one" {
		t.Errorf("got %v and %q", err, content(t, path))
	}
}

func TestFoldersRenameRemove(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b", "c")
	if err := errors.Join(MkdirAll(deep, 0o700), MkdirAll(deep, 0o700), WriteFile(filepath.Join(deep, "f"), []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := Rename(filepath.Join(deep, "f"), filepath.Join(dir, "g")); err != nil || content(t, filepath.Join(dir, "g")) != "x" {
		t.Error(err)
	}
	if err := MkdirAll(filepath.Join(dir, "g", "h"), 0o700); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
	if err := errors.Join(Remove(filepath.Join(dir, "g")), Remove(filepath.Join(dir, "g"))); err != nil {
		t.Error(err)
	}
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Trouble
	}{
		{nil, None},
		{io.EOF, Other},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, Full},
		{fmt.Errorf("a: %w", syscall.EDQUOT), Full},
		{errors.New("file resize error: " + syscall.ENOSPC.Error()), Full}, // as bbolt says it
		{&fs.PathError{Op: "open", Path: "x", Err: syscall.EROFS}, ReadOnly},
		{syscall.EIO, Other},
	} {
		if got := Classify(c.err); got != c.want {
			t.Errorf("%v: got %v, want %v", c.err, got, c.want)
		}
	}
}

func TestLockIsForOneProcess(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	try := func() int {
		cmd := exec.Command(exe, lockArg, dir)
		_ = cmd.Run() // the exit code says it
		return cmd.ProcessState.ExitCode()
	}
	l, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := try(); got != 7 {
		t.Errorf("another process: exit %d, want the LockedError", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := try(); got != 0 {
		t.Errorf("after it was given up: exit %d", got)
	}
	if _, err := Lock(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

func TestSpace(t *testing.T) {
	s, err := SpaceAt(t.TempDir())
	if err != nil || s.Total <= 0 || s.Free < 0 || s.Free > s.Total {
		t.Errorf("%+v, %v", s, err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Allocate(f, 100_000); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != 100_000 {
		t.Errorf("%v, %v", info, err)
	}
}

func openSlots(t testing.TB, path string) *Slots {
	t.Helper()
	s, err := OpenSlots(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSlots(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := openSlots(t, path)
	if _, _, err := s.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the first: %v", err)
	}
	for gen := uint64(1); gen < 8; gen++ {
		want := strings.Repeat(string(rune('a'+gen)), int(gen)*60)
		if err := s.Store([]byte(want), gen*2); err != nil {
			t.Fatal(err)
		}
		for _, from := range []*Slots{s, openSlots(t, path)} {
			if got, n, err := from.Load(); err != nil || string(got) != want || n != gen*2 {
				t.Errorf("generation %d: got %d, %v", gen*2, n, err)
			}
		}
	}
	if err := s.Store([]byte("x"), 14); err == nil {
		t.Error("a generation was written twice")
	}
	if err := s.Store(make([]byte, SlotBytes+1), 99); err == nil {
		t.Error("too much was accepted")
	}
	if err := s.Store(make([]byte, SlotBytes), 99); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("damage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openSlots(t, path).Load(); !errors.Is(err, ErrNoSlot) {
		t.Errorf("damaged: %v", err)
	}
	if err := openSlots(t, path).Store([]byte("repaired"), 100); err != nil {
		t.Fatal(err)
	}
	if got, _, err := openSlots(t, path).Load(); string(got) != "repaired" {
		t.Errorf("after a repair: %q, %v", got, err)
	}
}

// A write that is cut at any byte, or any damage inside one slot, leaves the newest or the
// one before; never anything else.
func TestSlotsAfterACut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "slots")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "state")
		s, err := OpenSlots(path)
		if err != nil {
			t.Fatal(err)
		}
		n := rapid.IntRange(2, 6).Draw(t, "writes")
		var before []byte
		for gen := 1; gen <= n; gen++ {
			if gen == n {
				before, err = os.ReadFile(path)
			}
			err = errors.Join(err, s.Store([]byte{byte(gen)}, uint64(gen)))
		}
		after, err2 := os.ReadFile(path)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		// The last write reached the disk only up to a byte of its slot.
		torn := append(append([]byte{}, before...), make([]byte, max(0, len(after)-len(before)))...)
		at := 0
		if n%2 == 0 {
			at = slotStride
		}
		cut := rapid.IntRange(0, slotSize).Draw(t, "cut")
		copy(torn[at:at+cut], after[at:at+cut])
		if rapid.Bool().Draw(t, "damage") {
			torn[at+rapid.IntRange(0, slotSize-1).Draw(t, "place")] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		}
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err = OpenSlots(path)
		if err != nil {
			t.Fatal(err)
		}
		data, gen, err := s.Load()
		if err != nil || gen != uint64(n) && gen != uint64(n-1) || !bytes.Equal(data, []byte{byte(gen)}) {
			t.Fatalf("got %v of generation %d, %v; want %d or %d", data, gen, err, n, n-1)
		}
		if err := s.Store([]byte{99}, 100); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzSlot(f *testing.F) {
	f.Add(encodeSlot([]byte("content"), 7))
	f.Add(make([]byte, slotSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		gen, data, ok := decodeSlot(b)
		if ok && !bytes.Equal(encodeSlot(data, gen), b) {
			t.Errorf("%x is accepted and is not what we write", b)
		}
	})
}

func TestWriteFileKeepsWhatIsNoFile(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("named pipes are made with mkfifo")
	}
	path := filepath.Join(t.TempDir(), "pipe")
	if out, err := exec.Command("mkfifo", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	read := make(chan []byte, 1)
	go func() {
		b, _ := os.ReadFile(path)
		read <- b
	}()
	if err := WriteFile(path, []byte("through"), 0o600); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Lstat(path); err != nil || fi.Mode().Type() != fs.ModeNamedPipe {
		t.Fatalf("the pipe is now %v, %v", fi, err)
	}
	if got := <-read; string(got) != "through" {
		t.Errorf("read %q", got)
	}
}
