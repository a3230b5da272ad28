package cli

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

func TestProgressIsSilentWithoutATerminal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := (&IO{Err: w}).Progress("sending site.tide", 100)
	p.Add(50)
	p.Done()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil || got.Len() != 0 {
		t.Errorf("a pipe was told %q, %v", got.String(), err)
	}
}

func TestProgressIsOneLineThatGrowsAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := &Progress{w: &out, what: "sending " + strings.Repeat("x", 20) + ".tide", total: 200}
		for range 200 {
			time.Sleep(20 * time.Millisecond) // of the bubble
			p.Add(1)
		}
		p.Done()
		lines := strings.Split(out.String(), "\r")[1:]
		if len(lines) < 30 || len(lines) > 60 {
			t.Errorf("%d lines in four seconds, want ten a second", len(lines))
		}
		last := -1
		for _, l := range lines[:len(lines)-1] {
			text, ended := strings.CutSuffix(l, "\x1b[K")
			if n := utf8.RuneCountInString(text); !ended || n > 80 || !strings.HasSuffix(text, "%") {
				t.Errorf("%q is not a line of at most 80 columns that clears what was there", l)
			}
			if full := strings.Count(text, "="); full < last {
				t.Errorf("%q goes back from %d", text, last)
			} else {
				last = full
			}
		}
		if end := lines[len(lines)-1]; end != "\x1b[K" {
			t.Errorf("it ends with %q, want the line cleared", end)
		}
	})
}

func TestProgressOfAnUnknownNumberTellsBytes(t *testing.T) {
	var out bytes.Buffer
	p := &Progress{w: &out, what: "receiving calls.csv"}
	if _, err := p.Write(make([]byte, 3<<19)); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "receiving calls.csv 1.5 MiB") {
		t.Errorf("got %q", got)
	}
}
