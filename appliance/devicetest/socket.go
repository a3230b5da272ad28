package devicetest

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Socket sends a request to the device's unix socket and returns status and body.
func (d *Device) Socket(t testing.TB, method, path, body string) (int, string) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dial net.Dialer
		return dial.DialContext(ctx, "unix", d.Config.Socket())
	}}
	r, err := http.NewRequestWithContext(context.Background(), method, "http://device"+path, strings.NewReader(body))
	check(t, err)
	resp, err := tr.RoundTrip(r)
	check(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	check(t, err)
	return resp.StatusCode, string(b)
}

// JSON asks the device's unix socket and decodes the answer.
func JSON[T any](t testing.TB, d *Device, path string) (v T) {
	t.Helper()
	status, body := d.Socket(t, "GET", path, "")
	if status != http.StatusOK {
		t.Fatalf("%s: status %d: %s", path, status, body)
	}
	check(t, json.Unmarshal([]byte(body), &v))
	return v
}
