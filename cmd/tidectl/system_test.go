package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"tidegate/cmd/cli"
	"tidegate/platform/board"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/write"
)

// flashImage writes the image of a card with a system in slot A.
func flashImage(t *testing.T, name string) {
	t.Helper()
	const mib = 1 << 20
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mbr := make([]byte, 512)
	for i, p := range [][2]uint32{{1, 1}, {2, 66}, {68, 66}, {134, 1}} {
		binary.LittleEndian.PutUint32(mbr[446+16*i+8:], p[0]*2048)
		binary.LittleEndian.PutUint32(mbr[446+16*i+12:], p[1]*2048)
	}
	mbr[510], mbr[511] = 0x55, 0xaa
	root := bytes.Repeat([]byte("root"), 1000)
	copy(root, "hsqs")
	binary.LittleEndian.PutUint64(root[40:], 3000)
	if _, err := f.WriteAt(mbr, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(140 * mib); err != nil {
		t.Fatal(err)
	}
	about := map[string]string{"BOARD": "arm64", "VERSION": "1.2.3", "STATE": "1"}
	if err := board.WriteSlot(f, "A", about, board.Part{Size: 4000, Reader: bytes.NewReader(root)}, board.Part{Size: 700, Reader: strings.NewReader(strings.Repeat("k", 700))},
		func() error { return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestTheSystemOfAnImageBecomesABundle(t *testing.T) {
	t.Chdir(t.TempDir())
	flashImage(t, "card.img")
	var errs bytes.Buffer
	command := func(want int, args ...string) {
		t.Helper()
		errs.Reset()
		if got := run(t.Context(), args, &cli.IO{In: strings.NewReader(""), Out: io.Discard, Err: &errs, Name: "tidectl"}); got != want {
			t.Fatalf("%s: exit code %d, want %d: %s", strings.Join(args, " "), got, want, errs.String())
		}
	}
	for _, role := range []string{"root", "release"} {
		command(0, "keys", "new", role+".key", "--no-passphrase", "--role", role)
	}
	command(0, "trust", "init", "-o", "site.tideroot", "--root", "root.key", "--release", "release.key", "--key", "root.key")
	sign := []string{"--key", "release.key", "--issued", "1800000000"}
	command(0, append([]string{"system", "build", "card.img", "-o", "one.tide", "--seq", "7", "--window", "90s", "--attempts", "2", "--labels", "quay,north"}, sign...)...)
	command(0, append([]string{"system", "build", "card.img", "-o", "two.tide", "--seq", "7", "--window", "90s", "--attempts", "2", "--labels", "quay,north"}, sign...)...)
	one, err := os.ReadFile("one.tide")
	if err != nil {
		t.Fatal(err)
	}
	if two, err := os.ReadFile("two.tide"); err != nil || !bytes.Equal(one, two) {
		t.Errorf("built twice: other bytes, %v", err)
	}
	i, err := write.ReadInfo(bytes.NewReader(one))
	if err != nil {
		t.Fatal(err)
	}
	m := i.Manifest
	if m.Product != "system" || m.Channel != "stable" || m.Version != "1.2.3" || m.Seq != 7 || !slices.Equal(m.Hardware, []string{"board-arm64"}) {
		t.Errorf("manifest %+v", m)
	}
	if a := m.Activation; a == nil || a.Mode != bundle.Automatic || a.Window != 90 || a.Attempts != 2 {
		t.Errorf("activation %+v", a)
	}
	if len(m.Selectors) != 1 || m.Selectors[0].String() != "label quay + north" && m.Selectors[0].String() != "label north + quay" {
		t.Errorf("selectors %v", m.Selectors)
	}
	command(0, "bundle", "verify", "one.tide", "--root", "site.tideroot")
	command(0, "bundle", "extract", "one.tide", "out")
	for path, want := range map[string]int{"root": 3000, "kernel": 1024} { // as long as the squashfs says; whole sectors
		b, err := os.ReadFile(filepath.Join("out", "system", path))
		if err != nil || len(b) != want {
			t.Errorf("%s has %d bytes, want %d: %v", path, len(b), want, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join("out", "system", "about")); err != nil || string(b) != "BOARD=arm64\nSTATE=1\nVERSION=1.2.3\n" {
		t.Errorf("about %q, %v", b, err)
	}

	command(42, "fleet", "publish", "one.tide", "--root", "site.tideroot", "--broker", "tcp://127.0.0.1:1")
	if said := errs.String(); !strings.Contains(said, "one.tide: it holds a system, and systems do not go over the link") || !strings.Contains(said, "by stick, with tidegate apply, or on its page") {
		t.Errorf("said %q", said)
	}

	command(2, append([]string{"system", "build", "card.img", "-o", "x.tide"}, sign...)...)
	command(2, append([]string{"system", "build", "card.img", "-o", "x.tide", "--seq", "8", "--attempts", "10"}, sign...)...)
	command(2, append([]string{"system", "build", "card.img", "-o", "x.tide", "--seq", "8", "--device", "nobody"}, sign...)...)
	command(20, append([]string{"system", "build", "one.tide", "-o", "x.tide", "--seq", "8"}, sign...)...)
	if !strings.Contains(errs.String(), "not a flash image") {
		t.Errorf("said %q", errs.String())
	}
}
