package appliance_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"tidegate/policy"
)

// TestEventsArriveAsTheyAreWritten shows server-sent events: each is
// there before the backend writes the next one, also where the API compresses and stores answers.
func TestEventsArriveAsTheyAreWritten(t *testing.T) {
	next := make(chan string)
	d := serveBy(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		for s := range next {
			fmt.Fprintf(w, "data: %s\n\n", s)
			_ = http.NewResponseController(w).Flush()
			if s == "end" {
				return
			}
		}
	}, []string{"/open/events"}, func(_ *policy.Set, a *policy.API) {
		a.Compress, a.Cache = true, &policy.Cache{Seconds: 60}
	})
	defer close(next)
	q, err := http.NewRequestWithContext(t.Context(), "GET", d.URL("/echo/1.0/open/events"), nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Accept-Encoding", "gzip, zstd")
	resp, err := direct(t).Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	for _, s := range []string{"one", "two", "end"} {
		next <- s
		line, err := r.ReadString('\n')
		if err != nil || line != "data: "+s+"\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

// TestStreamedTextIsCompressedPieceByPiece shows that compression does not hold back what a
// backend has flushed.
func TestStreamedTextIsCompressedPieceByPiece(t *testing.T) {
	next := make(chan struct{})
	d := serveBy(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		for range 3 {
			_, _ = io.WriteString(w, strings.Repeat(`{"a":1}`, 100)+"\n")
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	}, []string{"/open/lines"}, func(_ *policy.Set, a *policy.API) { a.Compress = true })
	q, err := http.NewRequestWithContext(t.Context(), "GET", d.URL("/echo/1.0/open/lines"), nil)
	if err != nil {
		t.Fatal(err)
	}
	// The client's transport unpacks as it reads.
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if !resp.Uncompressed {
		t.Error("not compressed")
	}
	r := bufio.NewReader(resp.Body)
	for range 3 {
		line, err := r.ReadString('\n')
		if err != nil || len(line) != 701 {
			t.Fatalf("got %d bytes, %v", len(line), err)
		}
		next <- struct{}{}
	}
}
