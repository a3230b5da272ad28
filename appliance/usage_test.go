package appliance_test

import (
	"archive/zip"
	"bytes"
	"io"
	"path"
	"slices"
	"strings"
	"testing"
	"tidegate/appliance/devicetest"
	"tidegate/sync/apim"
	"tidegate/sync/apim/apimtest"
)

// exportUsage returns the usage files that the device exports, by name.
func exportUsage(t *testing.T, d *devicetest.Device) map[string][]byte {
	t.Helper()
	body := []byte(socket(t, d, "GET", "/v1/events?format=wso2", ""))
	z, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		out[path.Base(f.Name)] = b
	}
	return out
}

// TestUsageOfADeviceArrivesOnce carries usage files of a device to the receiver, twice, with a
// restart of the device and lost answers in between: each call is there exactly once.
func TestUsageOfADeviceArrivesOnce(t *testing.T) {
	url, _ := backend(t)
	dir, fleet := t.TempDir(), devicetest.NewFleet(t)
	receiver := apimtest.NewReceiver(t)
	h, err := apim.NewHTTPClient(receiver.CA, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.CloseIdleConnections)
	u := &apim.Uploader{URL: receiver.URL, HTTP: h, User: apimtest.User, Password: apimtest.Password, Attempts: 1}
	set := fleet.API(t, url, "/things/a", "/things/b", "/things/c", "/things/d", "/things/e") // records hold templates
	token := "Bearer " + fleet.Token(t, nil)
	var paths []string
	calls := func(d *devicetest.Device, ids ...string) {
		for _, id := range ids {
			if a := call(t, "GET", d.URL("/echo/1.0/things/"+id), "Authorization", token); a.status != 200 {
				t.Fatalf("got %d %s", a.status, a.body)
			}
			paths = append(paths, "/things/"+id)
		}
	}
	d := devicetest.Start(t, devicetest.Options{Dir: dir, Fleet: fleet})
	d.Apply(t, set)
	calls(d, "a", "b", "c")
	first := exportUsage(t, d)
	calls(d, "d")
	second := exportUsage(t, d) // rotated: the first file as it was, and another
	for name, b := range first {
		if !bytes.Equal(second[name], b) {
			t.Errorf("%s is another file in the second export", name)
		}
	}
	if len(second) <= len(first) {
		t.Errorf("%d files, then %d: want one more", len(first), len(second))
	}
	d.Stop(t)
	d = devicetest.Start(t, devicetest.Options{Dir: dir, Fleet: fleet})
	calls(d, "e")
	third := exportUsage(t, d)

	// A stick is carried twice, and the thanks for its first file are lost.
	receiver.Plan(apimtest.Answer{Cut: func() {}})
	lost := 0
	for _, stick := range []map[string][]byte{first, first, second, third, third} {
		for name, b := range stick {
			if _, err := u.Send(t.Context(), name, b); err != nil {
				lost++
			}
		}
	}
	if lost != 1 {
		t.Errorf("%d uploads failed, want the one whose answer was lost", lost)
	}
	var got []string
	for _, line := range receiver.Lines() {
		fields := strings.Split(line, "-OS-")
		for _, p := range paths {
			if slices.Contains(fields, p) {
				got = append(got, p)
			}
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, paths) {
		t.Errorf("the receiver has %v, want %v\n%s", got, paths, strings.Join(receiver.Lines(), "\n"))
	}
}
