package appliance_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// conversation talks to a WebSocket server by a plan that seed makes, and returns all that was heard:
// messages of every size, many of them in fragments, pings between and inside of them, and how it ended.
func conversation(t *testing.T, url string, seed uint64) []string {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 8))
	dialer := websocket.Dialer{WriteBufferSize: 64} // what is longer goes out in fragments
	c, resp, err := dialer.DialContext(t.Context(), url, nil)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second)) // a hanging test fails instead
	heard := []string{fmt.Sprintf("%d %s", resp.StatusCode, resp.Header.Get("Sec-Websocket-Protocol"))}
	c.SetPongHandler(func(s string) error {
		heard = append(heard, "pong "+s)
		return nil
	})
	for i := range 40 {
		kind := websocket.TextMessage + rnd.IntN(2)
		size := []int{0, 1, 125, 126, 300, 65_535, 65_536, 100_000}[rnd.IntN(8)]
		w, err := c.NextWriter(kind)
		if err != nil {
			t.Fatal(err)
		}
		half := strings.Repeat(string(rune('a'+i%26)), size/2)
		for part, piece := range []string{half, half + strings.Repeat("z", size%2)} {
			if _, err := w.Write([]byte(piece)); err != nil {
				t.Fatal(err)
			}
			if part == 0 && rnd.IntN(3) == 0 { // between the fragments of a message
				if err := c.WriteControl(websocket.PingMessage, fmt.Appendf(nil, "%d", i), time.Now().Add(time.Second)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, b, err := c.ReadMessage()
		if err != nil {
			t.Fatalf("%s: message %d of %d bytes: %v", url, i, size, err)
		}
		heard = append(heard, fmt.Sprintf("%d of %d bytes %x", got, len(b), sha256.Sum256(b)))
	}
	if err := c.WriteMessage(websocket.TextMessage, []byte("close me")); err != nil {
		t.Fatal(err)
	}
	_, _, err = c.ReadMessage()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) {
		t.Fatalf("%s: the end: %v", url, err)
	}
	return append(heard, fmt.Sprintf("closed %d %s", closed.Code, closed.Text))
}

// TestAWebSocketIsTheSameThroughTheDevice holds conversations with a server directly, through a
// tunnel whose bytes are only passed on, and through one whose frames are looked at.
func TestAWebSocketIsTheSameThroughTheDevice(t *testing.T) {
	server := echoSocket(t, nil)
	d := socketDeviceOf(t, server)
	for seed := range uint64(5) {
		want := conversation(t, "ws"+strings.TrimPrefix(server, "http")+"/x", seed)
		for _, path := range []string{"/open/free", "/open/framed"} {
			if got := conversation(t, "ws://"+d.Addr("http")+"/echo/1.0"+path, seed); !slices.Equal(got, want) {
				t.Errorf("seed %d, %s: heard\n%.2000q\nwant\n%.2000q", seed, path, got, want)
			}
		}
	}
}
