package wire

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

func TestRelayKeepsBodyAndFraming(t *testing.T) {
	big := strings.Repeat("0123456789", 30_000)
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/big":
			_, _ = io.WriteString(w, big)
		case "/known":
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			_, _ = io.WriteString(w, big)
		case "/trailer":
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "abc")
			w.Header().Set("X-Sum", "3"+r.Trailer.Get("X-In"))
		case "/empty":
			w.WriteHeader(204)
		default:
			_, _ = w.Write(b)
		}
	})
	c := newTestClient(t, Target{Addr: addr})
	gate := start(t, &Server{Handler: proxy(c)})
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	for range 2 {
		for _, tc := range []struct {
			method, path, body string
			length             int64
			want               string
		}{
			{"GET", "/big", "", -1, big},
			{"GET", "/known", "", int64(len(big)), big},
			{"HEAD", "/known", "", int64(len(big)), ""},
			{"GET", "/empty", "", 0, ""},
			{"POST", "/echo", "abc", 3, "abc"},
			{"PUT", "/echo", big, -1, big},
			{"GET", "/trailer", "", -1, "abc"},
		} {
			for _, length := range []int64{int64(len(tc.body)), -1} {
				r, _ := http.NewRequest(tc.method, "http://"+gate+tc.path, strings.NewReader(tc.body))
				r.ContentLength = length
				r.Trailer = http.Header{"X-In": {"4"}}
				resp, err := tr.RoundTrip(r)
				if err != nil {
					t.Fatal(tc.path, err)
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(b) != tc.want || resp.ContentLength != tc.length {
					t.Errorf("%s %s: %d bytes, length %d, %v; want %d, %d", tc.method, tc.path, len(b), resp.ContentLength, err, len(tc.want), tc.length)
				}
				if tc.path == "/trailer" && resp.Trailer.Get("X-Sum") == "" {
					t.Error("trailer is lost")
				}
			}
		}
	}
}

func TestStreamsAreFlushedAsTheyCome(t *testing.T) {
	next := make(chan string)
	end := sync.OnceFunc(func() { close(next) })
	defer end()
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for s := range next {
			_, _ = io.WriteString(w, s)
			w.(http.Flusher).Flush()
		}
	})
	c := newTestClient(t, Target{Addr: addr})
	conn := dial(t, start(t, &Server{Handler: proxy(c)}))
	_, _ = io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil) // the head comes before the first event
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(resp.Body)
	for i := range 5 {
		want := fmt.Sprintf("data: %d\n", i)
		next <- want // the next one is written only after this one was read
		if got, err := br.ReadString('\n'); got != want || err != nil {
			t.Fatalf("got %q %v, want %q", got, err, want)
		}
	}
	end()
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("got %v, want the end", err)
	}
}

func TestBackendsThatBreakOffBreakTheClientOff(t *testing.T) {
	addr := fixed(t, func(_ int, c net.Conn, head string) bool {
		if strings.Contains(head, "/chunked") {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		} else {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		}
		return false
	})
	c := newTestClient(t, Target{Addr: addr})
	errs := make(chan error, 1)
	gate := start(t, &Server{Handler: handlerFunc(func(x Exchange) {
		resp, err := c.Do(x.Context(), &Request{Method: "GET", Path: x.Path()})
		if err == nil {
			err = Relay(x, resp, Header{{"X-Edited", "1"}})
		}
		errs <- err
	})})
	for _, path := range []string{"/length", "/chunked"} {
		conn := dial(t, gate)
		_, _ = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil {
			if resp.Header.Get("X-Edited") != "1" {
				t.Errorf("got %v", resp.Header)
			}
			_, err = io.ReadAll(resp.Body)
		}
		if err == nil {
			t.Errorf("%s: the client took the answer for whole", path)
		}
		var be *BackendError
		if err := <-errs; !errors.As(err, &be) {
			t.Errorf("%s: Relay returned %v", path, err)
		}
	}
}

func TestWebSocketsPassThrough(t *testing.T) {
	up := websocket.Upgrader{}
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r, http.Header{"X-Backend": {"1"}})
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, b, err := c.ReadMessage()
			if err != nil || c.WriteMessage(kind, b) != nil {
				return
			}
		}
	})
	c := newTestClient(t, Target{Addr: addr})
	conf, client := testTLS(t)
	plain, secured := start(t, &Server{Handler: proxy(c)}), start(t, &Server{Handler: proxy(c), TLSConfig: conf})
	for _, url := range []string{"ws://" + plain, "wss://" + secured} {
		d := websocket.Dialer{TLSClientConfig: client}
		ws, resp, err := d.Dial(url+"/chat", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Header.Get("X-Backend") != "1" {
			t.Errorf("got %v", resp.Header)
		}
		for _, size := range []int{0, 1, 1000, 100_000} {
			want := bytes.Repeat([]byte{'x'}, size)
			if err := ws.WriteMessage(websocket.BinaryMessage, want); err != nil {
				t.Fatal(err)
			}
			if _, got, err := ws.ReadMessage(); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes: got %d %v", size, len(got), err)
			}
		}
		ws.Close()
	}
	// What the client sends together with the request reaches the backend as well.
	conn := dial(t, plain)
	_, _ = io.WriteString(conn, "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"+
		"\x81\x82\x00\x00\x00\x00hi")
	br := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	if got, err := io.ReadAll(io.LimitReader(br, 4)); string(got) != "\x81\x02hi" {
		t.Errorf("got %q %v", got, err)
	}
}

func TestTunnelsEndWithTheServer(t *testing.T) {
	s := &Server{Handler: handlerFunc(func(x Exchange) {
		tunnel, err := x.Tunnel(nil)
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(tunnel, tunnel)
		tunnel.Close()
	})}
	addr := start(t, s)
	c := dial(t, addr)
	_, _ = io.WriteString(c, "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nhello")
	br := bufio.NewReader(c)
	if _, err := http.ReadResponse(br, nil); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(io.LimitReader(br, 5)); string(b) != "hello" {
		t.Errorf("got %q", b)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Open != 0 {
		t.Errorf("got %+v", st)
	}
}

// TestGRPCStreams runs the shape of a gRPC call: both ways open at once, trailers at the end.
func TestGRPCStreams(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Te") != "trailers" || r.ProtoMajor != 2 {
			t.Errorf("got %s %v", r.Proto, r.Header)
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		buf := make([]byte, 5)
		for {
			if _, err := io.ReadFull(r.Body, buf); err != nil {
				break
			}
			_, _ = w.Write(buf)
			w.(http.Flusher).Flush()
		}
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	})
	plain := httptest.NewUnstartedServer(h)
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	defer plain.Close()
	c := newTestClient(t, Target{Addr: plain.Listener.Addr().String(), Protocol: HTTP2})
	conf, client := testTLS(t)
	gate := start(t, &Server{Handler: proxy(c), TLSConfig: conf})
	tr := &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	pr, pw := io.Pipe()
	r, _ := http.NewRequest("POST", "https://"+gate+"/pkg.Service/Method", pr)
	r.Header.Set("Te", "trailers")
	r.Header.Set("Content-Type", "application/grpc")
	resp, err := tr.RoundTrip(r) // the answer begins before the request ends
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		want := fmt.Sprintf("msg-%d", i)
		if _, err := io.WriteString(pw, want); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Fatalf("got %q %v, want %q", got, err, want)
		}
	}
	pw.Close()
	if rest, err := io.ReadAll(resp.Body); len(rest) != 0 || err != nil || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("got %q %v, trailer %v", rest, err, resp.Trailer)
	}
	resp.Body.Close()
	// A client that leaves early must not leave a reader of its body behind.
	pr, pw = io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	r, _ = http.NewRequestWithContext(ctx, "POST", "https://"+gate+"/pkg.Service/Method", pr)
	r.Header.Set("Te", "trailers")
	if resp, err = tr.RoundTrip(r); err != nil {
		t.Fatal(err)
	}
	cancel()
	resp.Body.Close()
	pw.Close()
}

func TestHTTP1ClientsReachHTTP2Backends(t *testing.T) {
	plain := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			http.Error(w, "too large", 413)
			return
		}
		_, _ = io.Copy(w, r.Body) // answers while it reads
		_, _ = io.WriteString(w, r.Trailer.Get("X-In"))
	}))
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	defer plain.Close()
	c := newTestClient(t, Target{Addr: plain.Listener.Addr().String(), Protocol: HTTP2})
	gate := start(t, &Server{Handler: proxy(c)})
	body := strings.Repeat("x", 50_000)
	got := raw(t, gate, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-In\r\n\r\n"+
		strings.TrimSuffix(chunked(body), "\r\n")+"X-In: end\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); string(b) != body+"end" || err != nil {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
	got = raw(t, gate, fmt.Sprintf("POST /refuse HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", 40*len(body), strings.Repeat(body, 40)))
	if statusOf(got) != 413 || !strings.Contains(got, "too large") {
		t.Errorf("got %.200q", got)
	}
	got = raw(t, gate, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcdeX")
	if statusOf(got) != 400 {
		t.Errorf("broken body: got %.200q, want 400", got)
	}
}

// TestBuffersNeverCarryBytesToAnotherClient sends marked requests of all shapes through
// shared pools at once and looks for foreign marks in what backends and clients get, and for
// strings that changed under a handler.
func TestBuffersNeverCarryBytesToAnotherClient(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mark := r.Header.Get("X-Mark")
		if strings.Trim(strings.ReplaceAll(string(b), mark, ""), ".") != "" || r.URL.Path != "/"+mark {
			t.Errorf("the backend got foreign bytes with %s: %.100q", mark, b)
		}
		w.Header().Set("X-Mark", mark)
		w.Header().Set("X-Pad", r.Header.Get("X-Pad"))
		if len(b)%2 == 0 { // of a known length: long ones go through the kernel
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		}
		_, _ = w.Write(b)
	})
	c := newTestClient(t, Target{Addr: addr})
	forward := proxy(c)
	gate := start(t, &Server{Handler: handlerFunc(func(x Exchange) {
		mark, id := strings.Clone(x.Header("X-Mark")), strings.Clone(x.ID())
		switch len(mark) % 3 {
		case 0:
			_, _ = x.Body(1 << 20)
		case 1:
			_, _ = x.RequestBody().Read(nil)
		}
		path := x.Path()
		forward.Serve(x)
		if path != "/"+mark || x.Header("X-Mark") != mark || x.ID() != id {
			t.Errorf("strings changed during the call: %q %q", path, mark)
		}
	})})
	var wg sync.WaitGroup
	for client := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(7, uint64(client)))
			for range 6 {
				conn := dial(t, gate)
				br := bufio.NewReader(conn)
				for call := range 12 {
					mark := fmt.Sprintf("<%d-%d%s>", client, call, strings.Repeat("m", rnd.IntN(40)))
					body := strings.Repeat(mark+"...", rnd.IntN(3)*rnd.IntN(2000))
					head := "POST /" + mark + " HTTP/1.1\r\nHost: a\r\nX-Mark: " + mark + "\r\nX-Pad: " + strings.Repeat(mark, rnd.IntN(2)*rnd.IntN(200)) + "\r\n"
					head = strings.ReplaceAll(strings.ReplaceAll(head, "<", "("), ">", ")")
					mark = strings.ReplaceAll(strings.ReplaceAll(mark, "<", "("), ">", ")")
					body = strings.ReplaceAll(strings.ReplaceAll(body, "<", "("), ">", ")")
					if rnd.IntN(2) == 0 {
						head += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
					} else {
						head += "Transfer-Encoding: chunked\r\n\r\n" + chunked(body)
					}
					go func() { _, _ = io.WriteString(conn, head) }()
					resp, err := http.ReadResponse(br, nil)
					if err != nil {
						t.Error(err)
						return
					}
					b, err := io.ReadAll(resp.Body)
					if err != nil || string(b) != body || resp.Header.Get("X-Mark") != mark {
						t.Errorf("client got foreign bytes: %q %.100q, want %q (%v)", resp.Header, b, mark, err)
						return
					}
				}
				conn.Close()
			}
		})
	}
	wg.Wait()
}

func TestBlocksComeBackWiped(t *testing.T) {
	var p buffers
	for _, n := range []int{smallBlock, largeBlock} {
		for range 100 {
			b := p.take(n)
			for i, c := range b.b {
				if c != 0 {
					t.Fatalf("a block of %d has %q at %d", n, c, i)
				}
			}
			copy(b.b[rand.IntN(n/2):], "secret")
			p.give(b)
		}
	}
}

func TestManyBodiesAtOnceGoThroughSmallBlocks(t *testing.T) {
	var p buffers
	var lent []*block
	for i := range mostRoomy + 10 {
		b := p.roomy()
		if want := i < mostRoomy; (len(b.b) == largeBlock) != want {
			t.Fatalf("block %d has %d bytes", i, len(b.b))
		}
		lent = append(lent, b)
	}
	for _, b := range lent {
		p.give(b)
	}
	if b := p.roomy(); len(b.b) != largeBlock || p.roomies.Load() != 1 {
		t.Errorf("%d bytes, %d lent", len(b.b), p.roomies.Load())
	}
}

// TestBodiesPassThroughSmallBlocks sends long bodies both ways while no large block is to be had.
func TestBodiesPassThroughSmallBlocks(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	})
	c := newTestClient(t, Target{Addr: addr})
	s := &Server{Handler: proxy(c)}
	gate := start(t, s)
	c.pool.buffers.roomies.Store(mostRoomy)
	s.state.buffers.roomies.Store(mostRoomy)
	body := strings.Repeat("0123456789", 30_000)
	for _, length := range []int64{int64(len(body)), -1} {
		r, _ := http.NewRequest("POST", "http://"+gate+"/", strings.NewReader(body))
		r.ContentLength = length
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != body {
			t.Errorf("length %d: %d bytes came back, %v", length, len(b), err)
		}
		resp.Body.Close()
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestCallsComeBackWiped(t *testing.T) {
	var s Server
	for _, size := range []int{smallBlock, largeBlock} {
		k := s.takeCall(&conn{srv: &s})
		if size > len(k.in.b) {
			k.in = s.state.buffers.take(size)
		}
		in, fields := k.in, append(k.req.Header, Field{"Authorization", "secret"})
		copy(in.b[100:], "secret")
		k.req.Header, k.whole, k.id = fields, []byte("secret"), "secret"
		s.giveCall(k)
		if bytes.Contains(in.b, []byte("secret")) || fields[0] != (Field{}) || len(k.whole) != 0 || k.id != "" || len(k.in.b) != smallBlock {
			t.Errorf("a call of %d bytes came back with what it held", size)
		}
	}
}

func TestPipeEndsWithEitherSide(t *testing.T) {
	a1, a2 := net.Pipe()
	b1, b2 := net.Pipe()
	done := make(chan [2]int64)
	go func() {
		ab, ba := Pipe(a2, b1)
		done <- [2]int64{ab, ba}
	}()
	_ = a1.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(a1, "abc")
	got := make([]byte, 3)
	_, _ = io.ReadFull(b2, got)
	_, _ = io.WriteString(b2, "de")
	_, _ = io.ReadFull(a1, got[:2])
	b2.Close()
	if n := <-done; n != [2]int64{3, 2} || string(got) != "dec" {
		t.Errorf("got %v %q", n, got)
	}
	if _, err := a1.Read(got); err != io.EOF {
		t.Errorf("the other side is open: %v", err)
	}
}
