package wire

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"strings"
	"testing"
)

// pieces yields a stream in small pieces, so that every boundary is met.
type pieces struct {
	b []byte
	n int
}

func (p *pieces) fill(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.n)], p.b)
	p.b = p.b[n:]
	return n, nil
}

// readOwn reads a request as the engine does, with the bytes behind the head coming in pieces.
func readOwn(in []byte, lim *Limits, piece int) (q request, content []byte, trailer Header, err error) {
	end, _, why := headEnd(in, 0)
	if why != nil {
		return q, nil, nil, why
	}
	if end == 0 || end > lim.HeaderBytes {
		return q, nil, nil, errLongHead
	}
	if why := parseRequest(in[:end], lim, &q); why != nil {
		return q, nil, nil, why
	}
	how := endLength
	if q.chunked {
		how = endChunked
	}
	block := make([]byte, max(smallBlock, end))
	copy(block, in[:end])
	var b body
	b.begin(&pieces{in[end:], piece}, &buffers{}, block, end, end, how, q.Length)
	content, err = io.ReadAll(&b)
	return q, content, b.trailer, err
}

var fuzzLimits = Limits{HeaderBytes: 16 << 10, URIBytes: 8 << 10, HeaderFields: 100}

// FuzzRequest holds the engine against net/http: whatever we accept, net/http accepts
// too, and understands the same by it.
func FuzzRequest(f *testing.F) {
	for _, tc := range matrix {
		if len(tc.in) < 1<<12 {
			f.Add([]byte(tc.in), uint8(1))
		}
	}
	for _, c := range badChunks {
		if len(c) < 1<<12 {
			f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+c), uint8(2))
		}
	}
	f.Add([]byte(benchRequest), uint8(9))
	f.Add([]byte("POST /a%2Fb?x=1;y=%20 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\nabc"), uint8(0))
	f.Add([]byte("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0a\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n"), uint8(3))
	f.Add([]byte("GET http://A/ HTTP/1.0\r\nConnection: keep-alive\r\nX: \t\r\n\r\n"), uint8(5))
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		q, content, trailer, err := readOwn(in, &fuzzLimits, int(piece)+1)
		if err != nil {
			return // refused, or its body is
		}
		r, stdErr := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
		if stdErr != nil {
			t.Fatalf("we accept what net/http refuses: %v", stdErr)
		}
		stdContent, stdBodyErr := io.ReadAll(r.Body)
		if stdBodyErr != nil {
			t.Fatalf("we accept a body that net/http refuses: %v", stdBodyErr)
		}
		if !bytes.Equal(content, stdContent) {
			t.Fatalf("body: ours %q, net/http's %q", content, stdContent)
		}
		if q.Method != r.Method || q.Proto != r.Proto {
			t.Fatalf("ours %q %q, net/http's %q %q", q.Method, q.Proto, r.Method, r.Proto)
		}
		if !strings.EqualFold(q.Authority, r.Host) {
			t.Fatalf("host: ours %q, net/http's %q", q.Authority, r.Host)
		}
		uri := r.URL.EscapedPath()
		if uri == "" {
			uri = "/"
		}
		if strings.HasPrefix(r.RequestURI, "/") {
			uri, _, _ = strings.Cut(r.RequestURI, "?")
		}
		if q.Path != uri || q.Query != r.URL.RawQuery {
			t.Fatalf("target: ours %q ? %q, net/http's %q ? %q", q.Path, q.Query, uri, r.URL.RawQuery)
		}
		if want := r.ContentLength; q.Length != want {
			t.Fatalf("length: ours %d, net/http's %d", q.Length, want)
		}
		sameFields(t, q.Header, r.Header, true)
		sameFields(t, trailer, r.Trailer, false)
	})
}

// sameFields compares what both keep, value by value.
func sameFields(t *testing.T, own Header, std http.Header, complete bool) {
	t.Helper()
	got := http.Header{}
	for _, f := range own {
		got[textproto.CanonicalMIMEHeaderKey(f.Name)] = append(got[textproto.CanonicalMIMEHeaderKey(f.Name)], f.Value)
	}
	for name, values := range got {
		if strings.Join(values, "\n") != strings.Join(std[name], "\n") {
			t.Fatalf("field %s: ours %q, net/http's %q", name, values, std[name])
		}
	}
	for name := range std {
		if complete && got[name] == nil && all([]byte(name), isName) && !hopByHop([]byte(name)) && name != "Host" && name != "Expect" {
			t.Fatalf("field %s is lost", name)
		}
	}
}

// FuzzChunked: how a chunked body is cut into reads changes nothing, and what we accept
// net/http's reader accepts with the same bytes.
func FuzzChunked(f *testing.F) {
	for _, c := range badChunks {
		if len(c) < 1<<12 {
			f.Add([]byte(c), uint8(0), uint8(3))
		}
	}
	f.Add([]byte("3\r\nabc\r\n0\r\n\r\nGET"), uint8(0), uint8(1))
	f.Add([]byte("00000a;a=\"b\"\r\n0123456789\r\n0;x\r\nA: b\r\nTrailer: c\r\n\r\n"), uint8(2), uint8(200))
	f.Fuzz(func(t *testing.T, in []byte, piece, size uint8) {
		read := func(piece int, viaRead bool) ([]byte, error, int) {
			var b body
			src := &pieces{in, piece}
			b.begin(src, &buffers{}, make([]byte, 600), 0, 0, endChunked, -1)
			var out []byte
			for {
				if viaRead {
					p := make([]byte, int(size)+1)
					n, err := b.Read(p)
					out = append(out, p[:n]...)
					if err != nil {
						return out, err, len(in) - len(src.b) - b.buffered()
					}
					continue
				}
				p, err := b.piece(int(size) + 1)
				out = append(out, p...)
				if err != nil {
					return out, err, len(in) - len(src.b) - b.buffered()
				}
			}
		}
		a, errA, endA := read(int(piece)+1, false)
		b, errB, endB := read(1<<20, true)
		if (errA == io.EOF) != (errB == io.EOF) || errA == io.EOF && (endA != endB || !bytes.Equal(a, b)) {
			t.Fatalf("pieces matter: %q %v end %d, %q %v end %d", a, errA, endA, b, errB, endB)
		}
		if errA != io.EOF {
			return
		}
		head := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		br := bufio.NewReader(io.MultiReader(strings.NewReader(head), bytes.NewReader(in)))
		r, err := http.ReadRequest(br)
		if err != nil {
			t.Fatal(err)
		}
		std, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(std, a) {
			t.Fatalf("ours %q, net/http's %q %v", a, std, err)
		}
		rest, _ := io.ReadAll(br)
		if len(rest) != len(in)-endA {
			t.Fatalf("the body ends at %d for us, at %d for net/http", endA, len(in)-len(rest))
		}
	})
}

// FuzzResponse: what we accept from a backend, net/http understands the same way.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.0 200 OK\r\n\r\nuntil the end",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX_Y: 2\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"HTTP/2.0 200 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "ICY 200 OK\r\n\r\n", "HTTP/1.1 -20 OK\r\n\r\n",
	} {
		f.Add([]byte(s), uint8(0))
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		end, _, why := headEnd(in, 0)
		if why != nil || end == 0 {
			return
		}
		var h responseHead
		if parseResponse(in[:end], &h) != nil {
			return
		}
		how, length := h.end("GET")
		var b body
		block := make([]byte, max(smallBlock, end))
		copy(block, in[:end])
		b.begin(&pieces{in[end:], int(piece) + 1}, &buffers{}, block, end, end, how, length)
		content, err := io.ReadAll(&b)
		r, stdErr := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), &http.Request{Method: "GET"})
		if stdErr != nil {
			if err == nil && h.status >= 200 {
				t.Fatalf("we accept what net/http refuses: %v", stdErr)
			}
			return
		}
		std, stdBody := io.ReadAll(r.Body)
		if err != nil || h.status < 200 {
			return
		}
		if stdBody != nil || !bytes.Equal(std, content) || r.StatusCode != h.status {
			t.Fatalf("ours %d %q, net/http's %d %q %v", h.status, content, r.StatusCode, std, stdBody)
		}
		for _, f := range h.header {
			if !strings.Contains(strings.Join(r.Header.Values(f.Name), "\n"), f.Value) {
				t.Fatalf("field %s: ours %q, net/http's %q", f.Name, f.Value, r.Header.Values(f.Name))
			}
		}
	})
}
