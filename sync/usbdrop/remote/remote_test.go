package remote

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"tidegate/platform/media"
	"tidegate/policy/refusal"
)

// held returns the device's line to a helper that holds a folder, and what the helper came to.
func held(t *testing.T, dir string, tell func(string, bool) error) (*Line, chan error) {
	t.Helper()
	ours, theirs := net.Pipe()
	folder, err := media.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		code, err := Serve(theirs, nil, folder, tell)
		if err == nil && code != 0 {
			err = errors.New("code")
		}
		ended <- errors.Join(err, folder.Close(), theirs.Close())
	}()
	l := NewLine(ours, nil)
	t.Cleanup(func() { l.Bye(0) })
	return l, ended
}

func silent(string, bool) error { return nil }

func put(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A volume that a helper holds is used as one of the device's own.
func TestAVolumeThroughAHelper(t *testing.T) {
	dir := t.TempDir()
	big := bytes.Repeat([]byte("0123456789abcdef"), 60_000)
	put(t, dir, "big.tide", big)
	put(t, dir, "empty", nil)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "tide"), 0o755), os.Symlink("big.tide", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	l, _ := held(t, dir, silent)
	f := l.Folder()

	all, more, err := f.List(".")
	var got []string
	for _, e := range all {
		got = append(got, e.Name+" "+e.Skip)
	}
	slices.Sort(got)
	if want := []string{"big.tide ", "empty ", "link no regular file: a symbolic link", "tide a folder"}; err != nil || more || !slices.Equal(got, want) {
		t.Errorf("list %q, %v, %v", got, more, err)
	}
	if ok, err := f.HasFolder("tide"); !ok || err != nil {
		t.Errorf("tide: %v, %v", ok, err)
	}
	if ok, err := f.HasFolder("tide/out"); ok || err != nil {
		t.Errorf("tide/out: %v, %v", ok, err)
	}
	// Two files are read at the same time.
	one, err := f.Read("big.tide")
	if err != nil {
		t.Fatal(err)
	}
	two, err := f.Read("empty")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(one); err != nil || !bytes.Equal(b, big) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if b, err := io.ReadAll(two); err != nil || len(b) != 0 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if err := errors.Join(one.Close(), two.Close()); err != nil {
		t.Error(err)
	}
	if _, err := one.Read(make([]byte, 1)); err == nil {
		t.Error("a closed file was read")
	}
	for _, name := range []string{"link", "../x", "nowhere"} {
		if _, err := f.Read(name); !refusal.Is(err, refusal.MediaIO) {
			t.Errorf("%s: %v", name, err)
		}
	}

	if _, err := f.Read("nowhere"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nowhere: %v", err)
	}
	if err := f.MakeFolder("tide/out"); err != nil {
		t.Error(err)
	}
	n, err := f.Write("tide/out", func(w io.Writer) (string, error) {
		_, err := w.Write(big)
		return "copy", err
	})
	if b, readErr := os.ReadFile(filepath.Join(dir, "tide/out/copy")); err != nil || readErr != nil || n != int64(len(big)) || !bytes.Equal(b, big) {
		t.Errorf("wrote %d, %v, %v", n, err, readErr)
	}
	// What fails on this side leaves nothing there, and the line as it was.
	mine := errors.New("mine")
	if _, err := f.Write("tide/out", func(w io.Writer) (string, error) { _, _ = w.Write(big); return "half", mine }); !errors.Is(err, mine) {
		t.Errorf("got %v", err)
	}
	if _, err := f.Write("nowhere", func(w io.Writer) (string, error) { _, err := w.Write(big); return "x", err }); !refusal.Is(err, refusal.MediaIO) {
		t.Errorf("got %v", err)
	}
	if all, _, err := f.List("tide/out"); err != nil || len(all) != 1 || all[0].Name != "copy" {
		t.Errorf("left %v, %v", all, err)
	}
	if err := f.Remove("tide/out/copy"); err != nil {
		t.Error(err)
	}
	if f.Free() <= 0 {
		t.Error("no space")
	}
	if err := f.Close(); err != nil || !l.Here() {
		t.Errorf("gone after a look: %v", err)
	}
}

func TestAHelperIsToldAndLetGo(t *testing.T) {
	var told []string
	l, ended := held(t, t.TempDir(), func(s string, last bool) error {
		if last {
			s += " (last)"
		}
		told = append(told, s)
		return nil
	})
	l.Tell("one", false)
	l.Tell("two", true)
	l.Bye(0)
	if err := <-ended; err != nil {
		t.Errorf("helper: %v", err)
	}
	if got := strings.Join(told, "; "); got != "one; two (last)" {
		t.Errorf("told %q", got)
	}
	<-l.Over()
	if l.Here() {
		t.Error("still here")
	}
	if _, _, err := l.Folder().List("."); !refusal.Is(err, refusal.MediaGone) {
		t.Errorf("got %v", err)
	}
}

// Whatever a helper answers costs an error of the medium.
func TestAHelperThatLies(t *testing.T) {
	for name, answer := range map[string]string{
		"hangs up":         "",
		"no JSON":          "hello\n",
		"too many bytes":   `{"bytes":1000000000}` + "\n",
		"negative bytes":   `{"bytes":-1}` + "\n",
		"fewer than said":  `{"bytes":5}` + "\nab",
		"a line for ever":  strings.Repeat("x", maxLine+1<<17),
		"a word of nobody": `{"word":"E_NONE","fault":"x"}` + "\n",
	} {
		ours, theirs := net.Pipe()
		l := NewLine(ours, nil)
		go func() {
			_, _ = theirs.Read(make([]byte, 4096))
			_, _ = io.WriteString(theirs, answer)
			_ = theirs.Close()
		}()
		if _, _, err := l.Folder().List("."); err == nil {
			t.Errorf("%s: taken", name)
		}
		l.Bye(0)
	}
}

func TestADeviceThatLies(t *testing.T) {
	ours, theirs := net.Pipe()
	folder, err := media.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := Serve(theirs, nil, folder, silent)
		ended <- err
	}()
	c := newConn(ours, nil)
	for _, m := range []message{{Op: "format"}, {Op: opRead, File: 7, N: 1 << 40}, {Op: opRead, File: 7, N: -1}, {Op: opOpen, Name: "/etc/passwd"}} {
		if err := c.send(m, nil); err != nil {
			t.Fatal(err)
		}
		if a, _, err := c.receive(nil); err != nil || a.err() == nil {
			t.Errorf("%+v: answered %+v, %v", m, a, err)
		}
	}
	_ = ours.Close()
	if err := <-ended; err == nil {
		t.Error("the helper did not end")
	}
}
