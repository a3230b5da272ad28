package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A check that goes in circles means damage. One that gets no time to run, on a machine that is
// overloaded, says nothing about the file.
func TestACheckThatHangsMeansDamage(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := checker{command: []string{exe, "hang"}, limit: 200 * time.Millisecond}
	if err := c.run(t.Context(), path); !errors.Is(err, ErrCorrupt) && err != nil {
		t.Errorf("in circles: got %v, want ErrCorrupt", err)
	} else if err == nil {
		t.Log("this machine gave the check no time to run")
	}
	c = checker{command: []string{exe, "sleep"}, limit: time.Hour, wait: 10 * time.Millisecond}
	if err := c.run(t.Context(), path); err != nil {
		t.Errorf("without time to run: got %v, want nil", err)
	}
}

func TestACheckWithoutItsProgramIsMadeHere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	if err := os.WriteFile(path, make([]byte, 4*pageSize), 0o600); err != nil {
		t.Fatal(err)
	}
	c := checker{command: []string{filepath.Join(t.TempDir(), "absent")}}
	if err := c.run(t.Context(), path); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
}

func TestWhatAChildSaysIsCut(t *testing.T) {
	var out tail
	for range 100 {
		if n, err := out.Write([]byte("0123456789\xff")); n != 11 || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := out.String(); len(got) > messageLength+100 || !bytes.HasPrefix([]byte(got), []byte("0123456789?")) {
		t.Errorf("got %q", got)
	}
}

func FuzzShadow(f *testing.F) {
	f.Add(encodeShadow(1, []byte("content")))
	f.Add(encodeShadow(1<<63, nil))
	f.Add([]byte(shadowMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		gen, data, ok := decodeShadow(b)
		if ok && !bytes.Equal(encodeShadow(gen, data), b) {
			t.Errorf("%x is accepted and is not what we write", b)
		}
	})
}

func FuzzUnseal(f *testing.F) {
	f.Add([]byte("key"), seal([]byte("key"), []byte("value")))
	f.Add([]byte(""), []byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, key, stored []byte) {
		v, err := unseal(key, stored)
		if err == nil && !bytes.Equal(seal(key, v), stored) {
			t.Errorf("%x is accepted and is not what we write", stored)
		}
	})
}
