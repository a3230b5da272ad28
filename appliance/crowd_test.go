package appliance_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
)

// held is the memory of the process in heap and stacks, after a collection.
func held() int64 {
	for range 3 { // stacks shrink by half at a time
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// open dials the device n times and writes text on each connection.
func open(t *testing.T, d *devicetest.Device, n int, text string) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, 0, n)
	t.Cleanup(func() {
		for _, c := range conns {
			_ = c.Close()
		}
	})
	for range n {
		c, err := net.Dial("tcp", d.Addr("http"))
		if err != nil {
			t.Fatalf("connection %d: %v", len(conns), err)
		}
		conns = append(conns, c)
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	return conns
}

const idleRequest = "GET /echo/1.0/open HTTP/1.1\r\nHost: gateway.test\r\n\r\n"

// allFiles lets the process open as many files as it may.
func allFiles(t *testing.T) {
	t.Helper()
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if files.Max < 10_500 {
		t.Skipf("the system allows %d open files, and this needs 10,500", files.Max)
	}
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
}

// TestIdleClient is the other end of TestTenThousandIdleConnections, in a process of its own: it
// makes a call on each connection, says so, and keeps them until its input ends.
func TestIdleClient(t *testing.T) {
	addr := os.Getenv("TIDEGATE_TEST_IDLE")
	if addr == "" {
		t.Skip("only as the other end of another test")
	}
	allFiles(t)
	buf := make([]byte, 4<<10)
	conns := make([]net.Conn, 10_000)
	for i := range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if _, err := io.WriteString(c, idleRequest); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(buf)
		if err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200 ") {
			t.Fatalf("connection %d: got %q, %v", i, buf[:n], err)
		}
		conns[i] = c
	}
	fmt.Println("idle")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, i := range []int{1_000, 5_000, 9_999} { // they still serve; the oldest made room for others
		if _, err := io.WriteString(conns[i], idleRequest); err != nil {
			t.Fatal(err)
		}
		if n, err := conns[i].Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200 ") {
			t.Errorf("connection %d, again: got %q, %v", i, buf[:n], err)
		}
	}
}

func TestTenThousandIdleConnections(t *testing.T) {
	allFiles(t)
	d := serveBy(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }, []string{"/open"}, nil)
	before := held()
	client := exec.Command(os.Args[0], "-test.run", "^TestIdleClient$")
	client.Env = append(os.Environ(), "TIDEGATE_TEST_IDLE="+d.Addr("http"))
	in, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(out)
	if line, err := said.ReadString('\n'); line != "idle\n" {
		rest, _ := io.ReadAll(said)
		t.Fatalf("the client says %q%s, %v", line, rest, err)
	}
	if st := d.Status().Calls; st.Open < 9_900 { // the limit of the device is 10,000, and other connections count
		t.Errorf("%d connections are open", st.Open)
	}
	each := (held() - before) / 10_000
	t.Logf("%d bytes for each of 10,000 connections", each)
	bound := int64(8 << 10)
	if underRace() { // its shadow of goroutines counts
		bound *= 2
	}
	if each > bound {
		t.Errorf("%d bytes for each of 10,000 connections", each)
	}
	for range 20 {
		if a := call(t, "GET", d.URL("/echo/1.0/open")); a.status != 200 {
			t.Fatalf("another client meanwhile: got %d", a.status)
		}
	}
	_ = in.Close()
	rest, _ := io.ReadAll(said)
	if err := client.Wait(); err != nil {
		t.Errorf("the client: %v\n%s", err, rest)
	}
}

// TestClientsThatDragKeepNobodyOut opens hundreds of connections of each kind that hold a server:
// a head, a body and an answer that do not go on, and heads that are as large as they may be.
func TestClientsThatDragKeepNobodyOut(t *testing.T) {
	var reading atomic.Int64
	large := make([]byte, 8<<20)
	d := serveBy(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/open/large" {
			reading.Add(1)
			_, _ = w.Write(large)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "hello")
	}, []string{"/open/small", "/open/large", "/open/post"}, func(_ *policy.Set, a *policy.API) { a.Operations[2].Method = "POST" })
	const each = 200
	before := held()
	head := " HTTP/1.1\r\nHost: gateway.test\r\n"
	open(t, d, each, "GET /echo/1.0/open/small HTTP/1.1\r\nHo")
	open(t, d, each, "GET /echo/1.0/open/small"+head+"X-A: "+strings.Repeat("a", 15<<10))
	open(t, d, each, "POST /echo/1.0/open/post"+head+"Content-Length: 1000000\r\n\r\n"+strings.Repeat("x", 8<<10))
	open(t, d, each, "POST /echo/1.0/open/post"+head+"Transfer-Encoding: chunked\r\n\r\n5\r\nhe")
	open(t, d, each, "GET /echo/1.0/open/large"+head+"\r\n")
	eventually(t, "the large answers are under way", func() bool { return reading.Load() == each })
	for range 50 {
		if a := call(t, "GET", d.URL("/echo/1.0/open/small")); a.status != 200 || a.body != "hello" {
			t.Fatalf("another client meanwhile: got %d %s", a.status, a.body)
		}
	}
	if grown := held() - before; grown > 96<<20 {
		t.Errorf("%d MiB held for %d slow clients", grown>>20, 5*each)
	}
	if got := d.Status().Calls.Failed; got != 0 {
		t.Errorf("%d failures are counted", got)
	}
}

// TestBombsAreNotUnpacked sends content that is 1,000 times larger than it looks, both ways: where
// nobody looks into it, it passes as it is, and where a rule would, it is refused.
func TestBombsAreNotUnpacked(t *testing.T) {
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 64 {
		if _, err := z.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	bomb := packed.Bytes()
	want := fmt.Sprintf("%x", sha256.Sum256(bomb))
	var reached atomic.Int64
	d := serveBy(t, func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		if r.Method == "GET" {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb)
			return
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%x", sha256.Sum256(b))
	}, []string{"/open/in", "/open/checked", "/open/edited", "/open/out", "/open/outchecked", "/open/outedited"}, func(set *policy.Set, a *policy.API) {
		a.Compress, a.Cache = true, &policy.Cache{Seconds: 60}
		set.Schemas = []policy.Schema{{Body: []byte(readingSchema), Types: []string{"application/json"}}}
		for i := range 3 {
			a.Operations[i].Method = "POST"
		}
		a.Operations[1].Request = 1
		a.Operations[2].Edit = &policy.Transform{DropRequest: []string{"/secret"}}
		a.Operations[4].Response = 1
		a.Operations[5].Edit = &policy.Transform{DropFields: []string{"/secret"}}
	})
	before := held()
	c := direct(t)
	for _, tt := range []struct {
		method, path string
		status       int
		body         string
		reaches      bool
	}{
		{"POST", "/open/in", 200, want, true},
		{"POST", "/open/checked", 415, wsType, false},
		{"POST", "/open/edited", 415, wsType, false},
		{"GET", "/open/out", 200, string(bomb), true},
		{"GET", "/open/outchecked", 500, `{"fault":{"code":500, "message":"Bad Response", "description":"#: the body is larger than what is looked into, "}}`, true},
		{"GET", "/open/outedited", 502, broken, true},
	} {
		body, lines := "", []string{"Accept-Encoding: gzip"}
		if tt.method == "POST" {
			body, lines = string(bomb), []string{"Content-Type: application/json", "Content-Encoding: gzip"}
		}
		n := reached.Load()
		a := say(t, c, tt.method, d.URL("/echo/1.0"+tt.path), body, lines...)
		if a.status != tt.status || a.body != tt.body || (reached.Load() > n) != tt.reaches {
			t.Errorf("%s: got %d, %d bytes %.100q, backend called %v", tt.path, a.status, len(a.body), a.body, reached.Load() > n)
		}
	}
	if grown := held() - before; grown > 32<<20 {
		t.Errorf("%d MiB held after a bomb of %d bytes", grown>>20, len(bomb))
	}
}

// TestHugeHeads shows the bounds of a head over the whole device, with the body that a client gets.
func TestHugeHeads(t *testing.T) {
	d := devicetest.Start(t, devicetest.Options{Config: func(*config.Config) {}})
	url, reached := named(t, "backend")
	d.Apply(t, d.Fleet.API(t, url, "/open"))
	flat := func(code int, text string) string {
		return fmt.Sprintf(`{"code":%d, "type":"Status report", "message":"Runtime Error", "description":"%s"}`, code, text)
	}
	var wg sync.WaitGroup
	for name, tt := range map[string]struct {
		head   string
		status int
		body   string
	}{
		"long target":    {"GET /echo/1.0/open?" + strings.Repeat("a", 9<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n", 414, flat(414, "Request target is too long")},
		"endless target": {"GET /" + strings.Repeat("a", 64<<10), 414, flat(414, "Request target is too long")},
		"long field":     {"GET /echo/1.0/open HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", 431, flat(431, "Request header fields are too large")},
		"many fields":    {"GET /echo/1.0/open HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: a\r\n", 200) + "\r\n", 431, flat(431, "Request header fields are too large")},
		"endless fields": {"GET /echo/1.0/open HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: aaaaaaaaaaaaaaa\r\n", 5000), 431, flat(431, "Request header fields are too large")},
		"long cookie":    {"GET /echo/1.0/open HTTP/1.1\r\nHost: a\r\nCookie: " + strings.Repeat("a=b; ", 8<<10) + "\r\n\r\n", 431, flat(431, "Request header fields are too large")},
	} {
		wg.Go(func() {
			c, err := net.Dial("tcp", d.Addr("http"))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			go func() { _, _ = io.WriteString(c, tt.head) }() // the device may stop reading
			b, _ := io.ReadAll(c)                             // a reset may follow the answer
			head, body, _ := strings.Cut(string(b), "\r\n\r\n")
			if !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", tt.status)) || body != tt.body {
				t.Errorf("%s: got %.300q, want %d %s", name, b, tt.status, tt.body)
			}
		})
	}
	wg.Wait()
	if reached.Load() != 0 {
		t.Errorf("%d of them reached the backend", reached.Load())
	}
}
