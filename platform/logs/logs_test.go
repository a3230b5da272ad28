package logs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"tidegate/platform/logs"
)

func TestFormats(t *testing.T) {
	for format, want := range map[logs.Format]string{
		logs.Text:    `level=WARN msg="bundle refused" seq=41 why="a\nb"`,
		logs.Journal: `<4>msg="bundle refused" seq=41 why="a\nb"`,
	} {
		var b bytes.Buffer
		logs.New(logs.Options{Out: &b, Format: format}).Warn("bundle refused", "seq", 41, "why", "a\nb")
		if got := b.String(); !strings.HasSuffix(got, want+"\n") || strings.Count(got, "\n") != 1 {
			t.Errorf("%s: got %q, want %q at its end", format, got, want)
		}
		if format == logs.Journal && b.String() != want+"\n" {
			t.Errorf("journal: got %q", b.String())
		}
	}
	var b bytes.Buffer
	logs.New(logs.Options{Out: &b, Format: logs.JSON}).Info("m", "k", 1)
	var v map[string]any
	if err := json.Unmarshal(b.Bytes(), &v); err != nil || v["msg"] != "m" || v["time"] == nil {
		t.Errorf("json: %s, %v", b.Bytes(), err)
	}
}

func TestPriorities(t *testing.T) {
	var b bytes.Buffer
	l := logs.New(logs.Options{Out: &b, Format: logs.Journal, Level: slog.LevelDebug})
	l.Error("e")
	l.Warn("w")
	l.Info("i")
	l.Debug("d")
	if got := b.String(); got != "<3>msg=e\n<4>msg=w\n<6>msg=i\n<7>msg=d\n" {
		t.Errorf("got %q", got)
	}
}

func TestLastLinesAreKept(t *testing.T) {
	var b bytes.Buffer
	l := logs.New(logs.Options{Out: &b, Format: logs.JSON})
	sub := l.With("part", "a").WithGroup("g")
	for i := range 1000 {
		sub.Info("m", "i", i)
	}
	tail := l.Tail(1 << 20)
	if len(tail) != 512 || tail[0].Text != "msg=m part=a g.i=488" || tail[511].Text != "msg=m part=a g.i=999" {
		t.Errorf("%d lines, %+v … %+v", len(tail), tail[0], tail[len(tail)-1])
	}
	if two := l.Tail(2); len(two) != 2 || two[1] != tail[511] || two[1].Time.IsZero() || len(l.Tail(-1)) != 0 {
		t.Errorf("%+v", two)
	}
	l.Info(strings.Repeat("ä", 5000))
	if got := l.Tail(1)[0].Text; len(got) > 520 || !strings.HasSuffix(got, "…") {
		t.Errorf("a long line has %d bytes", len(got))
	}
}

func TestLevelCanChange(t *testing.T) {
	var b bytes.Buffer
	l := logs.New(logs.Options{Out: &b, Format: logs.Journal})
	l.Debug("no")
	l.SetLevel(slog.LevelDebug)
	l.Debug("yes")
	l.SetLevel(slog.LevelError)
	l.Warn("no")
	if b.String() != "<7>msg=yes\n" || len(l.Tail(10)) != 1 {
		t.Errorf("got %q", b.String())
	}
}

func TestSecretsAreHidden(t *testing.T) {
	var b bytes.Buffer
	l := logs.New(logs.Options{Out: &b, Format: logs.Text})
	l.Info("m", "Authorization", "Bearer s3cret", slog.Group("req", "password", "s3cret"))
	if text := b.String() + l.Tail(1)[0].Text; strings.Contains(text, "s3cret") || strings.Count(text, "(hidden)") != 4 {
		t.Errorf("got %q", text)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestABrokenStreamLosesNoTail(t *testing.T) {
	l := logs.New(logs.Options{Out: broken{}})
	l.Info("m")
	if l.Lost() != 1 || len(l.Tail(1)) != 1 {
		t.Errorf("lost %d, kept %d", l.Lost(), len(l.Tail(1)))
	}
}

func TestTogether(t *testing.T) {
	var b bytes.Buffer
	l := logs.New(logs.Options{Out: &b, Format: logs.Journal})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				l.With("a", 1).Info("m", "b", 2)
				l.Tail(3)
			}
		})
	}
	wg.Wait()
	if want := strings.Repeat("<6>msg=m a=1 b=2\n", 800); b.String() != want {
		t.Error("lines are mixed up")
	}
}

func BenchmarkInfo(b *testing.B) {
	l := logs.New(logs.Options{Out: new(discard), Format: logs.Journal})
	b.ReportAllocs()
	for b.Loop() {
		l.Info("bundle activated", "seq", 42, "source", "usb")
	}
}

type discard struct{}

func (*discard) Write(p []byte) (int, error) { return len(p), nil }
