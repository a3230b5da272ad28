package accesslog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"tidegate/appliance/accesslog"
	"tidegate/appliance/wire"
	"tidegate/store/events"
	"time"
)

// exchange is the part of a call that a log looks at.
type exchange struct {
	wire.Exchange
	head   wire.Head
	header map[string]string
	id     string
}

func (x *exchange) Head() *wire.Head          { return &x.head }
func (x *exchange) Header(name string) string { return x.header[name] }
func (x *exchange) ID() string                { return x.id }

func hostile() (*exchange, *events.Event) {
	x := &exchange{
		head: wire.Head{Method: "GET", Path: "/things/7", Query: "apikey=SECRET", Proto: "HTTP/1.1"}, id: "id 1\n2",
		header: map[string]string{"User-Agent": "evil\" \x1b[31m\r\n127.0.0.1 - - forged \u2028 \xff", "Referer": "http://x/y?token=SECRET", "Authorization": "Bearer SECRET"},
	}
	e := &events.Event{
		Time: time.Date(2026, 11, 26, 1, 2, 3, 4000, time.UTC), Status: 429, Fault: 900802, User: "eva \"x\"", Client: netip.MustParseAddr("::ffff:192.0.2.7"),
		API: "meters", Version: "1.0", Template: "/things/{id}", Total: 1500 * time.Microsecond, BytesOut: 99, TraceID: [16]byte{1},
	}
	return x, e
}

// written runs a log over one call and returns its lines.
func written(t *testing.T, format accesslog.Format) string {
	t.Helper()
	var out bytes.Buffer
	l := accesslog.New(&out, format, 1)
	l.Log(hostile())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	return out.String()
}

func TestCombinedLine(t *testing.T) {
	got := written(t, accesslog.Combined)
	want := `192.0.2.7 - eva\x20\"x\" [26/Nov/2026:01:02:03 +0000] "GET /things/7 HTTP/1.1" 429 99 "http://x/y" "evil\" \x1b[31m\x0d\x0a127.0.0.1 - - forged \xe2\x80\xa8 \xff" id\x201\x0a2 1500` + "\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if !regexp.MustCompile(`^\S+ - \S+ \[[^\]]+\] "\S+ \S+ HTTP/1.1" \d+ \d+ "(\\.|[^"\\])*" "(\\.|[^"\\])*" \S+ \d+\n$`).MatchString(got) {
		t.Errorf("does not parse: %q", got)
	}
}

func TestJSONLine(t *testing.T) {
	got := written(t, accesslog.JSON)
	if strings.Count(got, "\n") != 1 {
		t.Fatalf("not one line: %q", got)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(got), &v); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	for k, want := range map[string]any{"client": "192.0.2.7", "status": 429.0, "fault": 900802.0, "path": "/things/7", "user": `eva "x"`, "total_us": 1500.0, "template": "/things/{id}", "trace_id": "01000000000000000000000000000000", "request_id": "id 1\n2"} {
		if v[k] != want {
			t.Errorf("%s: got %v, want %v", k, v[k], want)
		}
	}
}

func TestNoSecretIsWritten(t *testing.T) {
	for _, f := range []accesslog.Format{accesslog.Combined, accesslog.JSON} {
		if got := written(t, f); strings.Contains(got, "SECRET") {
			t.Errorf("%s: %s", f, got)
		}
	}
}

// stuck is a reader that has stopped reading.
type stuck struct{ release chan struct{} }

func (s stuck) Write(p []byte) (int, error) {
	<-s.release
	return len(p), nil
}

func TestASlowReaderDelaysNoCall(t *testing.T) {
	s := stuck{make(chan struct{})}
	l := accesslog.New(s, accesslog.JSON, 1)
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { _ = l.Run(ctx) })
	x, e := hostile()
	for range 5000 {
		l.Log(x, e) // would hang here
	}
	if l.Lost() == 0 {
		t.Error("nothing is counted as lost")
	}
	cancel()
	run.Wait() // nor does it hold up the end
	close(s.release)
}

func TestSampleKeepsFailures(t *testing.T) {
	var out bytes.Buffer
	l := accesslog.New(&out, accesslog.JSON, 0)
	x, e := hostile()
	l.Log(x, e)
	fine := *e
	fine.Status, fine.Fault = 200, 0
	for range 100 {
		l.Log(x, &fine)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = l.Run(ctx)
	if n := strings.Count(out.String(), "\n"); n != 1 || !strings.Contains(out.String(), "429") {
		t.Errorf("%d lines: %s", n, out.String())
	}
}

func BenchmarkLog(b *testing.B) {
	for _, f := range []accesslog.Format{accesslog.Combined, accesslog.JSON} {
		b.Run(string(f), func(b *testing.B) {
			b.ReportAllocs()
			l := accesslog.New(new(bytes.Buffer), f, 1)
			x, e := hostile()
			for b.Loop() {
				l.Log(x, e)
			}
		})
	}
}

func FuzzLine(f *testing.F) {
	f.Add("/x", "agent", "user")
	f.Add("/\n", "\"\\\x00\xff", "\u2028")
	f.Fuzz(func(t *testing.T, path, agent, user string) {
		x, e := hostile()
		x.head.Path, x.header["User-Agent"], e.User = path, agent, user
		for _, format := range []accesslog.Format{accesslog.Combined, accesslog.JSON} {
			var out bytes.Buffer
			l := accesslog.New(&out, format, 1)
			l.Log(x, e)
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = l.Run(ctx)
			if strings.Count(out.String(), "\n") != 1 {
				t.Fatalf("not one line: %q", out.String())
			}
			if format == accesslog.JSON && !json.Valid(out.Bytes()) {
				t.Fatalf("not JSON: %q", out.String())
			}
		}
	})
}
