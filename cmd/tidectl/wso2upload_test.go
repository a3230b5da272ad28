package main

import (
	"archive/zip"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"tidegate/sync/apim/apimtest"
)

// usageZip is a usage file with some lines.
func usageZip(t *testing.T, lines ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	f, err := z.Create("api-usage-data.dat")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		fmt.Fprintln(f, l)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func usageFileName(n int) string {
	return fmt.Sprintf("api-usage-data.dat.%d.00000000-0000-5000-8000-%012d.zip", 1700000000000+n, n)
}

// A stick is a folder of usage files and the events in them.
type stick struct {
	dir, ca string
	events  []string
	*apimtest.Receiver
}

// newStick writes one usage file in the folder, and an export of two more.
func newStick(t *testing.T) *stick {
	t.Helper()
	s := &stick{dir: t.TempDir(), Receiver: apimtest.NewReceiver(t)}
	s.ca = filepath.Join(t.TempDir(), "ca.pem")
	n := 0
	event := func() string {
		n++
		s.events = append(s.events, fmt.Sprintf("event-%d", n))
		return s.events[n-1]
	}
	var export bytes.Buffer
	z := zip.NewWriter(&export)
	for i := range 2 {
		f, err := z.Create(usageFileName(i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(usageZip(t, event(), event())); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{
		filepath.Join(s.dir, "export-2026-11-26.zip"): export.Bytes(),
		filepath.Join(s.dir, usageFileName(7)):        usageZip(t, event()),
		s.ca:                                          s.CA,
	} {
		if err := os.WriteFile(name, body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(s.events)
	return s
}

func (s *stick) words(more ...string) []string {
	return append([]string{"wso2", "upload", "--url", s.URL, "--user", apimtest.User, "--ca", s.ca, "--attempts", "1", s.dir}, more...)
}

// arrived checks that every event is at the receiver exactly once, and nothing on the stick.
func (s *stick) arrived(t *testing.T) {
	t.Helper()
	got := s.Lines()
	slices.Sort(got)
	if !slices.Equal(got, s.events) {
		t.Errorf("the receiver has %v, want %v", got, s.events)
	}
	if left := files(t, s.dir); len(left) > 0 {
		t.Errorf("%d files are still on the stick", len(left))
	}
}

func TestUploadDeletesWhatArrived(t *testing.T) {
	s := newStick(t)
	r := runWSO2(t, nil, s.words()...).must(t, 0)
	if n := strings.Count(r.out, "stored\t"); n != 3 {
		t.Errorf("%s", r.out)
	}
	s.arrived(t)
	runWSO2(t, nil, s.words()...).must(t, 0) // an empty stick
}

func TestUploadKeepsWhatDidNotArrive(t *testing.T) {
	for name, plan := range map[string][]apimtest.Answer{
		"500":                {{}, {Status: 500, Body: "database down"}},
		"lost":               {{}, {Lose: true}},
		"503 for everything": {{Status: 503}, {Status: 503}, {Status: 503}},
	} {
		s := newStick(t)
		s.Plan(plan...)
		r := runWSO2(t, nil, s.words()...).must(t, 1)
		if left := files(t, s.dir); len(left) == 0 {
			t.Errorf("%s: nothing is left\n%s", name, r.out)
		}
		runWSO2(t, nil, s.words()...).must(t, 0)
		s.arrived(t)
	}
}

func TestUploadOfARefusedUserAndNoReceiver(t *testing.T) {
	s := newStick(t)
	runWSO2(t, []string{wso2PasswordVariable + "=wrong"}, s.words()...).must(t, 1).says(t, "invalid user credentials or the user may not upload")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "https://" + l.Addr().String() + apimtest.ReceiverPath
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	runWSO2(t, nil, "wso2", "upload", "--url", url, "--user", "u", "--attempts", "1", s.dir).must(t, 1).says(t, "cannot connect")
	if left := files(t, s.dir); len(left) != 2 {
		t.Errorf("%d files are left, want both", len(left))
	}
	runWSO2(t, nil, s.words()...).must(t, 0)
	s.arrived(t)
}

// TestUploadThroughPowerCuts kills the program each time a file has just been stored, before
// it can delete anything, and starts it again.
func TestUploadThroughPowerCuts(t *testing.T) {
	s := newStick(t)
	for cut := 1; ; cut++ {
		if cut > 10 {
			t.Fatal("it does not come to an end")
		}
		cmd := exec.Command("tidectl", s.words()...)
		cmd.Env = append(os.Environ(), wso2PasswordVariable+"="+apimtest.Password)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		started := make(chan struct{})
		s.Plan()
		if stored := len(s.Lines()); stored < len(s.events) {
			kill := apimtest.Answer{Cut: func() { <-started; _ = cmd.Process.Kill() }}
			// What was stored before is a duplicate now; the first new one is the last thing
			// this run does.
			s.Plan(append(make([]apimtest.Answer, s.duplicates()), kill)...)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		close(started)
		if err := cmd.Wait(); err == nil {
			break
		}
		if len(files(t, s.dir)) == 0 {
			t.Fatalf("it was killed with nothing left to send\n%s", &out)
		}
	}
	if s.Posted() < 5 {
		t.Errorf("only %d uploads: nothing was ever sent twice", s.Posted())
	}
	s.arrived(t)
}

// duplicates is how many files the receiver has that are still on the stick, in the order of
// sending: the lone file comes first.
func (s *stick) duplicates() int {
	have := s.Lines()
	n := 0
	for _, first := range []string{"event-5", "event-1", "event-3"} {
		if slices.Contains(have, first) {
			n++
		}
	}
	return n
}

func TestUploadRefusesWhatIsNoUsageFile(t *testing.T) {
	s := newStick(t)
	for name, tc := range map[string]struct {
		body []byte
		code int
		want string
	}{
		"renamed.zip": {usageZip(t, "x"), 20, "the name is not that of a usage file"},
		"text.zip":    {[]byte("hello"), 20, "not a zip"},
		"other.zip":   {zipOf(t, "readme.txt"), 20, "no usage files in it"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), tc.body, 0o600); err != nil {
			t.Fatal(err)
		}
		r := runWSO2(t, nil, "wso2", "upload", "--url", s.URL, "--user", apimtest.User, "--ca", s.ca, filepath.Join(dir, name))
		if r.code != tc.code || !strings.Contains(r.err, tc.want) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s", name, r.code, tc.code, tc.want, r.err)
		}
		if len(files(t, dir)) != 1 {
			t.Errorf("%s was deleted", name)
		}
	}
	for _, args := range [][]string{{"--user", "u", s.dir}, {"--url", s.URL, s.dir}, {"--url", "http://x/y", "--user", "u", s.dir}, {"--url", s.URL, "--user", "u"}, {"--url", s.URL, "--user", "u", "--attempts", "0", s.dir}} {
		runWSO2(t, nil, append([]string{"wso2", "upload"}, args...)...).must(t, 2)
	}
}

func zipOf(t *testing.T, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	if _, err := z.Create(name); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
