package wire

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// h2get calls a server by HTTP/2.
func h2get(t *testing.T, s *Server, path string) *http.Response {
	t.Helper()
	server, client := testTLS(t)
	s.TLSConfig = server
	tr := &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	q, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+start(t, s)+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// TestAnAnswerKeepsNoStringOfTheHandler shows that what a handler built a header of may be used for
// something else as soon as Start and Trailer have returned: net/http writes a small answer after
// the handler.
func TestAnAnswerKeepsNoStringOfTheHandler(t *testing.T) {
	handler := handlerFunc(func(x Exchange) {
		b := []byte("X-Field: value, Grpc-Status: 16")
		s := unsafe.String(&b[0], len(b))
		length := int64(0)
		if x.Path() == "/trailer" {
			length = -1
		}
		if err := x.Start(200, Header{{s[:7], s[9:14]}}, length); err != nil {
			t.Error(err)
		}
		x.Trailer(Header{{s[16:27], s[29:31]}})
		copy(b, strings.Repeat("!", len(b)))
	})
	for _, path := range []string{"/", "/trailer"} {
		resp := h2get(t, &Server{Handler: handler}, path)
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Fatal(err)
		}
		if resp.ProtoMajor != 2 || resp.Header.Get("X-Field") != "value" || resp.Header.Get("!!!!!!!") != "" {
			t.Errorf("%s: HTTP/2: got %s %v", path, resp.Proto, resp.Header)
		}
		if path == "/trailer" && resp.Trailer.Get("Grpc-Status") != "16" {
			t.Errorf("%s: HTTP/2: got trailer %v", path, resp.Trailer)
		}
		got := raw(t, start(t, &Server{Handler: handler}), "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n")
		if strings.Contains(got, "!") || !strings.Contains(got, "X-Field: value\r\n") || strings.Contains(got, "Grpc-Status: 16") != (path == "/trailer") {
			t.Errorf("%s: HTTP/1.1: got %q", path, got)
		}
	}
}

// TestFieldsOfASmallAnswerReachAnHTTP2Client shows an answer of a backend by HTTP/1.1 whose buffer
// is given back before net/http writes.
func TestFieldsOfASmallAnswerReachAnHTTP2Client(t *testing.T) {
	addr := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Mark", "of the backend")
		w.Header().Set("Etag", `"17"`)
		_, _ = io.WriteString(w, "small")
	})
	resp := h2get(t, &Server{Handler: proxy(newTestClient(t, Target{Addr: addr}))}, "/x")
	b, err := io.ReadAll(resp.Body)
	if err != nil || string(b) != "small" || resp.Header.Get("X-Mark") != "of the backend" || resp.Header.Get("Etag") != `"17"` {
		t.Errorf("got %q, %v, %v", b, resp.Header, err)
	}
}

// TestABackendThatIsGivenUpIsNoFaultOfTheBody shows a backend that does not answer while the client
// still sends: what ends is the wait, not the client's body.
func TestABackendThatIsGivenUpIsNoFaultOfTheBody(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	defer s.Close()
	c := newTestClient(t, Target{Addr: s.Listener.Addr().String(), Protocol: HTTP2})
	body := &waiting{begun: make(chan struct{}), interrupted: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-body.begun
		cancel(os.ErrDeadlineExceeded)
	}()
	_, err := c.Do(ctx, &Request{Method: "POST", Path: "/", Body: body, Length: -1, Interrupt: func() { close(body.interrupted) }})
	if _, ok := BodyFault(err); ok || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// waiting is a body that never comes.
type waiting struct{ begun, interrupted chan struct{} }

func (w *waiting) Read([]byte) (int, error) {
	close(w.begun)
	<-w.interrupted
	return 0, &BodyError{Status: 408, Reason: "interrupted"}
}
