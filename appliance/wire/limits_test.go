package wire

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestBodyLimits(t *testing.T) {
	addr := start(t, &Server{Limits: Limits{BodyBytes: 10}, Handler: handlerFunc(func(x Exchange) {
		switch x.Path() {
		case "/whole":
			b, err := x.Body(5)
			if status, ok := BodyFault(err); ok {
				say(x, status, "")
				return
			}
			again, _ := io.ReadAll(x.RequestBody())
			say(x, 200, string(b)+"+"+string(again))
		case "/more":
			x.LimitBody(20)
			fallthrough
		default:
			echo(x)
		}
	})})
	for _, tc := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/a", "0123456789", 200, "POST /a 0123456789"},
		{"/a", "0123456789a", 413, ""},
		{"/more", "0123456789a", 200, "POST /more 0123456789a"},
		{"/more", strings.Repeat("a", 21), 413, ""},
		{"/whole", "01234", 200, "01234+01234"},
		{"/whole", "012345", 413, ""},
		{"/whole", "", 200, "+"},
	} {
		for _, framing := range []string{
			fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(tc.body), tc.body),
			"Transfer-Encoding: chunked\r\n\r\n" + chunked(tc.body),
		} {
			got := raw(t, addr, "POST "+tc.path+" HTTP/1.1\r\nHost: a\r\n"+framing)
			if statusOf(got) != tc.status || tc.want != "" && !strings.HasSuffix(got, "\r\n\r\n"+tc.want) {
				t.Errorf("%s %q: got %q, want %d %q", tc.path, framing, got, tc.status, tc.want)
			}
		}
	}
}

func chunked(s string) string {
	if s == "" {
		return "0\r\n\r\n"
	}
	return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(s), s)
}

func TestUnreadBodiesDoNotBecomeRequests(t *testing.T) {
	var calls atomic.Int64
	addr := start(t, &Server{Handler: handlerFunc(func(x Exchange) {
		calls.Add(1)
		say(x, 200, x.Path())
	})})
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, pad := range []int{0, 5000, 200_000, 2_000_000} {
		calls.Store(0)
		body := strings.Repeat(smuggled, 1+pad/len(smuggled))
		got := raw(t, addr, fmt.Sprintf("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		if calls.Load() != 1 || strings.Count(got, "HTTP/1.1 200") > 1 {
			t.Errorf("%d bytes: %d calls, got %.200q", len(body), calls.Load(), got)
		}
		calls.Store(0)
		got = raw(t, addr, "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+chunked(body)+"GET /last HTTP/1.1\r\nHost: a\r\n\r\n")
		if want := int64(2); pad < drainBytes && (calls.Load() != want || !strings.HasSuffix(got, "/last")) || pad > drainBytes && calls.Load() != 1 {
			t.Errorf("%d bytes chunked: %d calls, got %.200q", len(body), calls.Load(), got)
		}
	}
}

// slow returns limits that end waiting clients soon.
func slow() Limits {
	const d = 30 * time.Millisecond
	return Limits{HeaderTime: d, IdleTime: d, BodyStall: d, WriteStall: d}
}

func TestSlowClientsAreEnded(t *testing.T) {
	gone := make(chan struct{})
	addr := start(t, &Server{Limits: slow(), Handler: handlerFunc(func(x Exchange) {
		if x.Path() != "/endless" {
			echo(x)
			return
		}
		_ = x.Start(200, nil, -1)
		b := make([]byte, 1<<20)
		for {
			if _, err := x.Write(b); err != nil {
				close(gone)
				<-x.Context().Done()
				return
			}
		}
	})})
	for _, tc := range []struct {
		name, in string
		status   int
	}{
		{"silent", "", 0},
		{"half a head", "GET / HTTP/1.1\r\nHo", 408},
		{"half a body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab", 408},
		{"half a chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 408},
	} {
		c := dial(t, addr)
		_, _ = io.WriteString(c, tc.in)
		b, err := io.ReadAll(c)
		if err != nil || statusOf(string(b)) != tc.status {
			t.Errorf("%s: got %q %v, want %d and the end", tc.name, b, err, tc.status)
		}
	}
	c := dial(t, addr) // idle after a call
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if b, err := io.ReadAll(c); err != nil || statusOf(string(b)) != 200 {
		t.Errorf("idle: got %q %v", b, err)
	}
	c = dial(t, addr) // never reads
	_, _ = io.WriteString(c, "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
	<-gone
}

func TestQuietStreamsAreNotSlowOnes(t *testing.T) {
	conf, client := testTLS(t)
	lim := slow()
	lim.IdleTime = time.Minute
	pause := 4 * lim.WriteStall
	s := &Server{TLSConfig: conf, Limits: lim, Handler: handlerFunc(func(x Exchange) {
		_ = x.Start(200, nil, -1)
		b := make([]byte, 5)
		for range 2 { // each of the limits passes between reads and between writes
			if _, err := io.ReadFull(x.RequestBody(), b); err != nil {
				t.Errorf("%s: read: %v", x.Head().Proto, err)
				return
			}
			<-time.After(pause)
			if _, err := x.Write(b); err != nil || x.Flush() != nil {
				t.Errorf("%s: write: %v", x.Head().Proto, err)
				return
			}
			<-time.After(pause)
		}
	})}
	addr := start(t, s)
	for _, h2 := range []bool{false, true} {
		tr := &http.Transport{TLSClientConfig: client.Clone(), ForceAttemptHTTP2: h2}
		r, _ := http.NewRequest("POST", "https://"+addr+"/", strings.NewReader("12345abcde"))
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if string(got) != "12345abcde" || err != nil {
			t.Errorf("%s: got %q %v", resp.Proto, got, err)
		}
		resp.Body.Close()
		tr.CloseIdleConnections()
	}
}

func TestBodiesBelowTheLeastRateAreEnded(t *testing.T) {
	lim := slow()
	lim.BodyRate = 1 << 20
	addr := start(t, &Server{Limits: lim, Handler: echo})
	c := dial(t, addr)
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
	go func() {
		for range 100_000 { // never stalls, ends with the connection
			if _, err := io.WriteString(c, "a"); err != nil {
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
	}()
	line, _ := bufio.NewReader(c).ReadString('\n')
	if statusOf(line) != 408 {
		t.Errorf("got %q, want 408", line)
	}
}

func TestContextEndsWhenTheClientLeaves(t *testing.T) {
	entered, ended := make(chan struct{}), make(chan struct{})
	addr := start(t, &Server{Limits: slow(), Handler: handlerFunc(func(x Exchange) {
		derived, cancel := context.WithCancel(x.Context())
		defer cancel()
		close(entered)
		<-derived.Done()
		if x.Context().Err() == nil {
			t.Error("derived context ended alone")
		}
		close(ended)
		x.Abort()
	})})
	c := dial(t, addr)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-entered
	c.Close()
	<-ended
}

func TestConnectionsAreLimitedByClosingTheOldestIdle(t *testing.T) {
	s := &Server{Limits: Limits{Connections: 2}, Handler: echo}
	addr := start(t, s)
	var conns []net.Conn
	for i := range 4 {
		c := dial(t, addr)
		conns = append(conns, c)
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if resp, _ := readAnswer(t, bufio.NewReader(c), "GET"); resp.StatusCode != 200 {
			t.Fatalf("connection %d: %d", i, resp.StatusCode)
		}
	}
	ended := 0
	for _, c := range conns[:3] { // which of them is idle when room is needed is up to the scheduler
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 1)); err == io.EOF {
			ended++
		}
	}
	if st := s.Stats(); ended < 2 || st.Evicted < 2 || st.Open > 2 || st.Accepted != 4 {
		t.Errorf("%d of the first three are ended; %+v", ended, st)
	}
}

func TestSheddingAnswers503(t *testing.T) {
	addr := start(t, &Server{Handler: echo, Admit: func() bool { return false }})
	if got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); statusOf(got) != 503 || !strings.Contains(got, "X-Refused: shedding load") {
		t.Errorf("got %q", got)
	}
}
