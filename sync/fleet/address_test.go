package fleet_test

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/mqttsync/ranges"
	"time"
)

// What does not lie at the address is found before a device hears of it.
func TestAnAddressIsTriedBeforeItIsAnnounced(t *testing.T) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := mqttsynctest.NewFleet()
	check(err)
	b, err := f.Bundle(1, 1<<20+5, nil)
	check(err)
	spoilt := bytes.Clone(b)
	spoilt[len(spoilt)-1] ^= 1
	other := bytes.Clone(b)
	other[20] ^= 1
	content := map[string][]byte{"/site.tide": b, "/b/site.tide": b, "/long": append(bytes.Clone(b), 1), "/short": b[:len(b)-1], "/spoilt": spoilt, "/other": other}
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, ok := content[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "x", time.Time{}, bytes.NewReader(v))
	}))
	defer web.Close()
	c := ranges.NewClient(ranges.Options{TLS: &tls.Config{RootCAs: web.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}})
	defer c.Close()
	dir := t.TempDir()
	p, err := f.Publish(dir, b)
	check(err)
	defer p.Close() //nolint:errcheck // only read
	for _, tc := range []struct{ address, want string }{
		{web.URL + "/site.tide", ""},
		{web.URL + "/b/", ""},
		{web.URL, ""},
		{web.URL + "/none.tide", "404"},
		{web.URL + "/long", "the file has"},
		{web.URL + "/short", "the file has"},
		{web.URL + "/spoilt", "another file"},
		{web.URL + "/other", "another file"},
		{strings.Replace(web.URL, "https", "http", 1) + "/site.tide", "want https"},
		{web.URL + "/" + strings.Repeat("x", 700), "at most 700"},
	} {
		err := p.ServeFrom(t.Context(), c, tc.address, dir+string(os.PathSeparator)+"site.tide")
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%.60s: got %v, want %q", tc.address, err, tc.want)
		}
	}
}
