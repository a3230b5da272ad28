package media

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"tidegate/policy/refusal"
)

func folder(t *testing.T) (*Folder, string) {
	t.Helper()
	dir := t.TempDir()
	f, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, dir
}

func put(t *testing.T, name, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// None of these may be opened, and none may hang.
func TestOnlyRegularFilesAreOpened(t *testing.T) {
	f, dir := folder(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	put(t, in("real"), "content")
	put(t, in("tide/real"), "content")
	outside := filepath.Join(t.TempDir(), "secret")
	put(t, outside, "secret")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.Symlink("real", in("inside")))
	check(os.Symlink(outside, in("outside")))
	check(os.Symlink("/dev/zero", in("zero")))
	check(os.Symlink("tide", in("other")))
	check(os.Symlink("loop", in("loop")))
	check(syscall.Mkfifo(in("pipe"), 0o644))
	l, err := net.Listen("unix", in("sock"))
	check(err)
	defer l.Close()
	names := []string{"inside", "outside", "zero", "loop", "pipe", "sock", "tide", "other/real", "../secret", "/etc/passwd", "gone", "gone/file", ""}
	if os.Geteuid() == 0 && syscall.Mknod(in("null"), syscall.S_IFCHR|0o666, 1<<8|3) == nil {
		names = append(names, "null")
	}
	for _, name := range names {
		r, err := f.Read(name)
		if err == nil {
			b, _ := io.ReadAll(io.LimitReader(r, 10))
			t.Errorf("%q was opened: %q", name, b)
		} else if w, _ := refusal.Of(err); w.Exit() != 10 {
			t.Errorf("%q: %v has no word of a medium", name, err)
		}
	}
	r, err := f.Read("tide/real")
	check(err)
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "content" {
		t.Errorf("read %q, %v", b, err)
	}
	for _, method := range []string{"io.Seeker", "io.ReaderAt"} {
		_, seeks := r.(io.Seeker)
		_, at := r.(io.ReaderAt)
		if seeks || at {
			t.Errorf("what Read returns is an %s", method)
		}
	}

	all, more, err := f.List(".")
	check(err)
	skips := map[string]string{}
	for _, e := range all {
		skips[e.Name] = e.Skip
	}
	for name, part := range map[string]string{
		"real": "", "inside": "symbolic link", "pipe": "named pipe", "sock": "socket", "tide": "folder", "other": "symbolic link",
	} {
		if got := skips[name]; part == "" && got != "" || !strings.Contains(got, part) {
			t.Errorf("%s is skipped for %q, want %q", name, got, part)
		}
	}
	if more {
		t.Error("there are no more")
	}
	if all, _, err := f.List("other"); err != nil || len(all) != 0 {
		t.Errorf("a link to a folder was listed: %v, %v", all, err)
	}
	if ok, err := f.HasFolder("real"); ok || err != nil {
		t.Errorf("a file passes for a folder: %v", err)
	}
}

func TestHiddenNamesSayWhy(t *testing.T) {
	f, dir := folder(t)
	for _, name := range []string{"._a.tide", ".hidden.tide", "a.tide"} {
		put(t, filepath.Join(dir, name), "x")
	}
	all, _, err := f.List(".")
	if err != nil || len(all) != 3 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, e := range all {
		want := map[string]string{"._a.tide": "shadow file of macOS", ".hidden.tide": "hidden", "a.tide": ""}[e.Name]
		if !strings.Contains(e.Skip, want) || want == "" && e.Skip != "" {
			t.Errorf("%s: %q, want %q", e.Name, e.Skip, want)
		}
	}
}

// A file that is put in the place of the one that was looked at is not opened.
func TestASwappedFileIsNotOpened(t *testing.T) {
	f, dir := folder(t)
	name := filepath.Join(dir, "a")
	put(t, name, "first")
	put(t, filepath.Join(dir, "b"), "second")
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { // swaps as fast as it can
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
				_ = os.Remove(name)
				_ = os.Symlink("/etc/passwd", name)
				_ = os.Remove(name)
				_ = os.Link(filepath.Join(dir, "b"), name)
			}
		}
	}()
	for range 3000 {
		r, err := f.Read("a")
		if err != nil {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(r, 100))
		if s := string(b); err != nil || s != "first" && s != "second" {
			t.Fatalf("read %q, %v", s, err)
		}
		_ = r.Close()
	}
	close(done)
	<-ended
}

func TestAFolderWithTooManyNames(t *testing.T) {
	f, dir := folder(t)
	for i := range maxNames + 10 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	all, more, err := f.List(".")
	if err != nil || len(all) != maxNames || !more {
		t.Errorf("%d names, more %v, %v", len(all), more, err)
	}
}

func writes(name, content string, err error) func(io.Writer) (string, error) {
	return func(w io.Writer) (string, error) {
		_, failed := io.WriteString(w, content)
		return name, errors.Join(err, failed)
	}
}

func TestWriteIsWholeOrNotThere(t *testing.T) {
	f, dir := folder(t)
	if err := errors.Join(f.MakeFolder("out"), f.MakeFolder("out")); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "out", partName), "left by a cut")
	n, err := f.Write("out", writes("a", "one", nil))
	if n != 3 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := f.Write("out", writes("a", "two, and then", errors.New("stop"))); err == nil {
		t.Error("an error of the content is lost")
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "out/a")); string(b) != "one" {
		t.Errorf("what was there is %q now", b)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "out/*")); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
	if _, err := f.Write("gone", writes("a", "", nil)); !refusal.Is(err, refusal.MediaIO) {
		t.Errorf("write to a folder that is not there: %v", err)
	}
	// A link in the place of the file, or of its folder, is not written through.
	outside := filepath.Join(t.TempDir(), "outside")
	put(t, outside, "safe")
	if err := errors.Join(os.Symlink(outside, filepath.Join(dir, "out/link")), os.Symlink(filepath.Dir(outside), filepath.Join(dir, "away"))); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write("out", writes("link", "evil", nil)); err != nil {
		t.Error(err)
	}
	if _, err := f.Write("away", writes("outside", "evil", nil)); err == nil {
		t.Error("written through a link to a folder")
	}
	if b, _ := os.ReadFile(outside); string(b) != "safe" {
		t.Errorf("the file outside is %q", b)
	}
}

func TestReadingBackFindsADifference(t *testing.T) {
	f, _ := folder(t)
	_, err := f.Write(".", func(w io.Writer) (string, error) {
		w.(*summing).sum.Write([]byte{1}) // as if another byte had arrived
		_, err := io.WriteString(w, "content")
		return "a", err
	})
	if !refusal.Is(err, refusal.MediaIO) || !strings.Contains(err.Error(), "read back") {
		t.Errorf("got %v", err)
	}
}

func TestWordsOfErrors(t *testing.T) {
	for err, want := range map[error]refusal.Word{
		syscall.EIO: refusal.MediaIO, syscall.ENOSPC: refusal.NoSpace, syscall.ENODEV: refusal.MediaGone, syscall.ENXIO: refusal.MediaGone,
		&os.PathError{Err: syscall.ESTALE}: refusal.MediaGone, refusal.New(refusal.NoSpace, "x"): refusal.NoSpace,
	} {
		if w, _ := refusal.Of(Wrap(err)); w != want {
			t.Errorf("%v is %s, want %s", err, w, want)
		}
	}
	if Wrap(nil) != nil {
		t.Error("no error is one")
	}
}

func TestLED(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"trigger": "none", "brightness": "0", "max_brightness": "255\n", "delay_on": "", "delay_off": ""} {
		put(t, filepath.Join(dir, "act", name), content)
	}
	l, err := OpenLED(dir, "act")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(dir, "act", name))
		return string(bytes.TrimSpace(b))
	}
	for _, c := range []struct {
		show                       Light
		trigger, brightness, blink string
	}{{On, "none", "255", ""}, {Busy, "timer", "255", "100"}, {Alert, "timer", "255", "1000"}, {Off, "none", "0", "1000"}} {
		if err := l.Show(c.show); err != nil {
			t.Error(err)
		}
		if got("trigger") != c.trigger || got("brightness") != c.brightness || got("delay_on") != c.blink {
			t.Errorf("light %d: trigger %s, brightness %s, delay %s", c.show, got("trigger"), got("brightness"), got("delay_on"))
		}
	}
	for _, name := range []string{"", "../act", ".", "gone", "a/b"} {
		if l, err := OpenLED(dir, name); err == nil {
			t.Errorf("%q is no LED", name)
			_ = l.Close()
		}
	}
}
