package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// long returns a body that repeats nowhere.
func long(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b) //nolint:errcheck // never fails
	return b
}

// spliced starts a gateway before a backend, and tells whether answers went through the kernel.
func spliced(t *testing.T, target Target, s *Server) (gate string, errs chan error, lent func() int64) {
	c := newTestClient(t, target)
	errs = make(chan error, 1)
	s.Handler = handlerFunc(func(x Exchange) {
		resp, err := c.Do(x.Context(), &Request{Method: "GET", Path: x.Path()})
		if err == nil {
			err = Relay(x, resp, nil)
		}
		errs <- err
	})
	return start(t, s), errs, s.state.tubes.took.Load
}

func TestLongBodiesGoThroughTheKernel(t *testing.T) {
	body := long(1 << 20)
	addr := fixed(t, func(_ int, c net.Conn, head string) bool {
		var n, step int
		if _, err := fmt.Sscanf(head, "GET /%d/%d ", &n, &step); err != nil {
			t.Error(err)
			return false
		}
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n)
		for rest := body[:n]; len(rest) > 0; {
			k := min(step, len(rest))
			if _, err := c.Write(rest[:k]); err != nil {
				return false
			}
			rest = rest[k:]
		}
		return true
	})
	gate, errs, took := spliced(t, Target{Addr: addr}, &Server{})
	conn := dial(t, gate)
	br := bufio.NewReader(conn)
	for _, c := range []struct {
		n, step int
		spliced bool
	}{{100, 100, false}, {spliceFrom - 1, 5, false}, {200_000, 1 << 20, true}, {1 << 20, 1777, true}, {1 << 20, 1 << 20, true}, {10, 10, false}} {
		before := took()
		_, _ = fmt.Fprintf(conn, "GET /%d/%d HTTP/1.1\r\nHost: a\r\n\r\n", c.n, c.step)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(got, body[:c.n]) {
			t.Errorf("%d bytes in steps of %d: got %d bytes, %v", c.n, c.step, len(got), err)
		}
		if err := <-errs; err != nil {
			t.Errorf("%d bytes: Relay returned %v", c.n, err)
		}
		if is := took() > before; is != c.spliced {
			t.Errorf("%d bytes in steps of %d: through the kernel %v, want %v", c.n, c.step, is, c.spliced)
		}
	}
}

func TestLongBodiesToTLSAreCopied(t *testing.T) {
	body := long(300_000)
	addr := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body)
	})
	server, client := testTLS(t)
	gate, errs, took := spliced(t, Target{Addr: addr}, &Server{TLSConfig: server})
	client.NextProtos = []string{"http/1.1"}
	tr := &http.Transport{TLSClientConfig: client}
	t.Cleanup(tr.CloseIdleConnections)
	resp, err := (&http.Client{Transport: tr}).Get("https://" + gate + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if err := <-errs; err != nil || took() != 0 {
		t.Errorf("Relay returned %v; %d bodies through the kernel, want none", err, took())
	}
}

func TestASplicedBodyThatBreaksOff(t *testing.T) {
	body := long(1 << 20)
	addr := fixed(t, func(_ int, c net.Conn, _ string) bool {
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body))
		_, _ = c.Write(body[:len(body)/2])
		return false
	})
	gate, errs, took := spliced(t, Target{Addr: addr}, &Server{})
	conn := dial(t, gate)
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		_, err = io.ReadAll(resp.Body)
	}
	if err == nil {
		t.Error("the client took the answer for whole")
	}
	var be *BackendError
	if err := <-errs; !errors.As(err, &be) || took() == 0 {
		t.Errorf("Relay returned %v; %d bodies through the kernel", err, took())
	}
}

// A client that does not read is ended by the limit for that, and a tube in which something is
// left is never lent again: the next client gets its own bytes.
func TestASplicedBodyThatNobodyReads(t *testing.T) {
	body := long(16 << 20)
	addr := fixed(t, func(_ int, c net.Conn, head string) bool {
		n := len(body)
		if head[:9] == "GET /next" {
			n = 100_000
		}
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n)
		_, err := c.Write(body[len(body)-n:])
		return err == nil
	})
	gate, errs, took := spliced(t, Target{Addr: addr}, &Server{Limits: Limits{WriteStall: 50 * time.Millisecond}})
	idle := dial(t, gate)
	_, _ = io.WriteString(idle, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if err := <-errs; err == nil || took() == 0 {
		t.Errorf("Relay returned %v; %d bodies through the kernel", err, took())
	}
	conn := dial(t, gate)
	_, _ = io.WriteString(conn, "GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, body[len(body)-100_000:]) {
		t.Errorf("the next client got other bytes: %d, %v", len(got), err)
	}
	if err := <-errs; err != nil {
		t.Error(err)
	}
}

// Where splice(2) is refused, as in some sandboxes, bodies are copied.
func TestWithoutSpliceBodiesAreCopied(t *testing.T) {
	body := long(1 << 20)
	addr := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body)
	})
	s := &Server{}
	gate, errs, took := spliced(t, Target{Addr: addr}, s)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close() //nolint:errcheck // of no interest
	conn := dial(t, gate)
	br := bufio.NewReader(conn)
	for range 3 {
		if !s.state.tubes.none.Load() { // the pool may lose it: a bad one for each call
			bad := &tube{r: dup(t, null), w: dup(t, null)} // no pipe: EINVAL
			bad.in, bad.out = bad.fill, bad.drain
			s.state.tubes.idle.Put(bad)
		}
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, body) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if took() == 0 {
		t.Error("splice was never tried")
	}
}

func dup(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// Clients that leave inside a body leave no files behind.
func TestTubesOfClientsThatLeaveAreClosed(t *testing.T) {
	body := long(16 << 20)
	addr := fixed(t, func(_ int, c net.Conn, _ string) bool {
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body))
		_, err := c.Write(body)
		return err == nil
	})
	gate, errs, took := spliced(t, Target{Addr: addr}, &Server{})
	before := pipes(t)
	for range 40 {
		conn := dial(t, gate)
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if _, err := io.CopyN(io.Discard, conn, 1<<20); err != nil {
			t.Fatal(err)
		}
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
		<-errs
		if n := pipes(t) - before; n > 2 { // one may be idle
			t.Fatalf("%d files of pipes are open after %d bodies", n, took())
		}
	}
	if took() == 0 {
		t.Error("nothing went through the kernel")
	}
}

// pipes counts the open pipes of this process.
func pipes(t *testing.T) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

func TestTubesAreBounded(t *testing.T) {
	var p tubes
	var all []*tube
	for range mostTubes {
		u := p.take()
		if u == nil {
			t.Fatal("no tube")
		}
		all = append(all, u)
	}
	if p.take() != nil {
		t.Error("more tubes than the bound")
	}
	all[0].n = 1 // something is left in it
	for _, u := range all {
		p.give(u)
	}
	for range mostTubes {
		if u := p.take(); u == nil || u == all[0] {
			t.Fatalf("got %p, want a clean tube, not %p", u, all[0])
		}
	}
}
