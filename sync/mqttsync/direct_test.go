package mqttsync_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/mqttsync/ranges"
	"tidegate/sync/trust"
	"time"
)

// A files is a web server beside the broker, reached over a link of its own.
type files struct {
	web  *mqttsynctest.Web
	link *mqttsynctest.Link
	asks atomic.Int64
}

// serve is a web server that knows ranges, as most do.
func serve(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "site.tide", time.Time{}, bytes.NewReader(b))
	}
}

// files starts a web server for files.test.
func (w *world) files(h http.HandlerFunc) *files {
	w.t.Helper()
	f := &files{}
	var err error
	f.web, err = mqttsynctest.NewWeb("files.test", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		f.asks.Add(1)
		h(rw, r)
	}))
	check(w.t, err)
	w.stops = append(w.stops, func() { check(w.t, f.web.Close()) })
	f.link = mqttsynctest.NewLink(f.web.Dial)
	return f
}

// reach lets a device reach the server beside the broker, and ask it.
func (w *world) reach(f *files) func(*mqttsynctest.DeviceOptions) {
	return func(o *mqttsynctest.DeviceOptions) {
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if strings.HasPrefix(address, "files.test:") {
				return f.link.Dial(ctx, network, address)
			}
			return w.link.Dial(ctx, network, address)
		}
		o.Change = func(m *mqttsync.Options) {
			m.Hosts = []string{"files.test:443"}
			m.HostTLS = &tls.Config{RootCAs: f.web.Roots, Time: mqttsynctest.Now}
			m.RetryCap = 5 * time.Second
		}
	}
}

// announce publishes a bundle with an address. What lies there was right when it was looked at.
func (w *world) announce(b []byte, address string) {
	w.t.Helper()
	p, err := w.fleet.Publish(w.dir, b)
	check(w.t, err)
	w.stops = append(w.stops, func() { check(w.t, p.Close()) })
	good := w.files(serve(b))
	c := ranges.NewClient(ranges.Options{TLS: &tls.Config{RootCAs: good.web.Roots, Time: mqttsynctest.Now}, Dial: good.web.Dial})
	defer c.Close()
	check(w.t, p.ServeFrom(context.Background(), c, address, "site.tide"))
	s := w.fleet.Signer(trust.RoleTime)
	w.publish(func(o *fleet.PublisherOptions) { o.Bundles, o.Signer = append(o.Bundles, p), &s })
}

const address = "https://files.test/bundles/"

func TestABundleComesFromAWebServer(t *testing.T) {
	in(t, func(w *world) {
		b := w.bundle(1, 1<<20)
		f := w.files(serve(b))
		w.announce(b, address)
		w.start(w.reach(f))
		w.until("confirmed", 10*time.Minute, func() bool { return w.seq() == 1 })
		_, broker := w.link.Bytes()
		_, web := f.link.Bytes()
		if broker > 50_000 || web < 1<<20 || float64(web) > 1.02*(1<<20) {
			t.Errorf("%d bytes over the broker and %d from the server for a bundle of %d", broker, web, len(b))
		}
		if n := f.asks.Load(); n != 1 {
			t.Errorf("%d requests, want one for all chunks", n)
		}
		if d := w.device.Client.Link().Drops; len(d) != 0 {
			t.Errorf("dropped %v, want nothing", d)
		}
	})
}

func TestAChunkFromAWebServerOutlivesEveryCut(t *testing.T) {
	for _, tc := range []struct {
		name        string
		web, broker bool // which link is cut
	}{{"of its own link", true, false}, {"of the broker's", false, true}, {"of both", true, true}} {
		t.Run(tc.name, func(t *testing.T) {
			in(t, func(w *world) {
				b := w.bundle(1, 1<<20)
				f := w.files(serve(b))
				f.link.Rate(4000)
				life := func() time.Duration { return 20 * time.Second }
				if tc.web {
					f.link.Life(life)
				}
				if tc.broker {
					w.link.Life(life)
				}
				w.announce(b, address)
				w.start(w.reach(f))
				began := time.Now()
				w.until("1 MiB in one chunk over 32 kbit/s with a cut each 20 s", time.Hour, func() bool { return w.seq() == 1 })
				_, web := f.link.Bytes()
				t.Logf("%.0f s, %d and %d cuts, %d bytes down", time.Since(began).Seconds(), f.link.Cuts(), w.link.Cuts(), web)
				// A cut costs what was under way of one TLS record, up to 16 KiB, and a handshake.
				if cuts := int64(f.link.Cuts() + w.link.Cuts()); web > 1<<20+cuts*(18<<10)+20_000 {
					t.Errorf("%d bytes for 1 MiB and %d cuts: what was there was fetched again", web, cuts)
				}
				if tc.web && f.link.Cuts() < 10 || tc.broker && w.link.Cuts() < 10 {
					t.Errorf("only %d and %d cuts: the test shows nothing", f.link.Cuts(), w.link.Cuts())
				}
			})
		})
	}
}

func TestARestartCostsOneChunkFromAWebServer(t *testing.T) {
	in(t, func(w *world) {
		b := w.bundle(1, 3<<20)
		f := w.files(serve(b))
		f.link.Rate(20_000)
		w.announce(b, address)
		d := w.start(w.reach(f))
		w.until("half of it", 10*time.Minute, func() bool { l := d.Client.Link(); return l.Fetching != nil && l.Fetching.Have > 3<<19 })
		w.stop()
		w.start(w.reach(f))
		w.until("confirmed", 20*time.Minute, func() bool { return w.seq() == 1 })
		if _, web := f.link.Bytes(); web > 4<<20+100_000 {
			t.Errorf("%d bytes for 3 MiB and one restart: more than one chunk came twice", web)
		}
	})
}

func TestWhatOneWayLeavesTheOtherBrings(t *testing.T) {
	in(t, func(w *world) {
		b := w.bundle(1, 3<<20)
		half := atomic.Bool{}
		f := w.files(func(rw http.ResponseWriter, r *http.Request) {
			if half.Load() {
				http.Error(rw, "gone", http.StatusGone)
				return
			}
			serve(b)(rw, r)
		})
		f.link.Rate(20_000)
		w.announce(b, address)
		d := w.start(w.reach(f))
		w.until("half of it", 10*time.Minute, func() bool { l := d.Client.Link(); return l.Fetching != nil && l.Fetching.Have > 3<<19 })
		if from := d.Client.Link().Fetching.From; from != "files.test" {
			t.Errorf("status says it comes from %q", from)
		}
		half.Store(true)
		f.link.Cut()
		w.until("confirmed", 20*time.Minute, func() bool { return w.seq() == 1 })
		_, broker := w.link.Bytes()
		_, web := f.link.Bytes()
		if all := broker + web; float64(all) > 1.15*(3<<20)+1<<20 {
			t.Errorf("%d bytes for 3 MiB: more than one chunk came twice", all)
		}
		if n := d.Client.Link().Drops["https-status"]; n != 1 {
			t.Errorf("drops %v, want https-status 1", d.Client.Link().Drops)
		}
	})
}

func TestOnlyHostsOfTheConfigurationAreAsked(t *testing.T) {
	for _, hosts := range [][]string{nil, {"other.test:443"}, {"files.test:8443"}} {
		in(t, func(w *world) {
			b := w.bundle(1, 100_000)
			f := w.files(serve(b))
			w.announce(b, address)
			reach := w.reach(f)
			w.start(func(o *mqttsynctest.DeviceOptions) {
				reach(o)
				change := o.Change
				o.Change = func(m *mqttsync.Options) { change(m); m.Hosts = hosts }
			})
			w.until("confirmed", 10*time.Minute, func() bool { return w.seq() == 1 })
			if up, _ := f.link.Bytes(); up != 0 || f.asks.Load() != 0 {
				t.Errorf("hosts %v: the server was asked", hosts)
			}
			w.dropped("https-host")
		})
	}
}

func TestCapsHoldForAWebServerToo(t *testing.T) {
	in(t, func(w *world) {
		b := w.bundle(1, 200_000)
		f := w.files(serve(b))
		w.announce(b, address)
		reach := w.reach(f)
		w.start(func(o *mqttsynctest.DeviceOptions) {
			reach(o)
			change := o.Change
			o.Change = func(m *mqttsync.Options) { change(m); m.Down, m.FirstAfter = 4000, 0 }
		})
		began := time.Now()
		w.until("confirmed", 10*time.Minute, func() bool { return w.seq() == 1 })
		if took := time.Since(began); took < 45*time.Second {
			t.Errorf("200,000 bytes at 4,000 a second took %s", took)
		}
		w.until("what came either way is counted", time.Minute, func() bool {
			_, broker := w.link.Bytes()
			_, web := f.link.Bytes()
			return w.device.Client.Link().Today >= broker+web
		})
	})
}

func TestHostileWebServers(t *testing.T) {
	tests := []struct {
		name, reason string
		serve        func(b []byte) http.HandlerFunc
	}{
		{"is not there", "https-status", func([]byte) http.HandlerFunc { return http.NotFound }},
		{"knows no ranges", "https-no-range", func(b []byte) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }
		}},
		{"sends elsewhere", "https-redirect", func([]byte) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://10.0.0.1/admin", http.StatusFound)
			}
		}},
		{"gives another part", "https-no-range", func(b []byte) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { answer(w, 0, 9, len(b), b[:10]) }
		}},
		{"has a longer file", "https-size", func(b []byte) http.HandlerFunc { return serve(append(bytes.Clone(b), 0)) }},
		{"has a shorter file", "https-no-range", func(b []byte) http.HandlerFunc { return serve(b[:len(b)/2]) }},
		{"has an empty file", "https-no-range", func([]byte) http.HandlerFunc { return serve(nil) }},
		{"has another file", "https-content", func(b []byte) http.HandlerFunc { return serve(bytes.Repeat([]byte{7}, len(b))) }},
		{"squeezes it", "https-encoding", func(b []byte) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				serve(b)(w, r)
			}
		}},
		{"ends too early each time", "https-broken", func(b []byte) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				from, to := asked(r)
				w.Header().Set("Content-Length", fmt.Sprint(to-from+1))
				answer(w, from, to, len(b), nil)
			}
		}},
		{"never answers", "https-broken", func([]byte) http.HandlerFunc {
			return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		}},
		{"sends a byte each 50 seconds", "https-slow", drip(1)},
		{"sends 4 KiB each 50 seconds", "https-slow", drip(4 << 10)},
		{"sends a KiB late, and ends", "https-slow", func(b []byte) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				from, to := asked(r)
				time.Sleep(50 * time.Second)
				answer(w, from, to, len(b), nil)
				_, _ = w.Write(b[from:min(from+1024, to+1)])
				_ = http.NewResponseController(w).Flush()
				time.Sleep(50 * time.Second)
			}
		}},
		{"floods with headers", "https-broken", func([]byte) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				for i := range 1000 {
					w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 1000))
				}
				w.WriteHeader(http.StatusPartialContent)
			}
		}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in(t, func(w *world) {
				b := w.bundle(1, 200_000)
				f := w.files(tc.serve(b))
				w.announce(b, address)
				d := w.start(w.reach(f))
				w.until("confirmed all the same", 30*time.Minute, func() bool { return w.seq() == 1 })
				if n := d.Client.Link().Drops[tc.reason]; n == 0 {
					t.Errorf("dropped %v, want %s", d.Client.Link().Drops, tc.reason)
				}
				if st := d.Desk.Status(); st.Last.Word != "" {
					t.Errorf("the bundle was refused: %+v", st.Last)
				}
				if n := f.asks.Load(); n > 4 {
					t.Errorf("it was asked %d times", n)
				}
			})
		})
	}
}

func TestAWebServerWithAnotherCertificateIsNotBelieved(t *testing.T) {
	in(t, func(w *world) {
		b := w.bundle(1, 100_000)
		f := w.files(serve(b))
		other := w.files(serve(b))
		w.announce(b, address)
		f.web.Roots = other.web.Roots
		d := w.start(w.reach(f))
		w.until("confirmed all the same", 30*time.Minute, func() bool { return w.seq() == 1 })
		if d.Client.Link().Drops["https-broken"] == 0 || f.asks.Load() != 0 {
			t.Errorf("dropped %v, asked %d times", d.Client.Link().Drops, f.asks.Load())
		}
	})
}

func TestAnEndlessAnswerIsReadNoFurther(t *testing.T) {
	in(t, func(w *world) {
		b := w.bundle(1, 200_000)
		var sent atomic.Int64
		f := w.files(func(rw http.ResponseWriter, r *http.Request) {
			from, to := asked(r)
			answer(rw, from, to, len(b), b[from:to+1])
			junk := make([]byte, 64<<10)
			for r.Context().Err() == nil {
				n, err := rw.Write(junk)
				sent.Add(int64(n))
				if err != nil || sent.Load() > 64<<20 {
					return
				}
			}
		})
		w.announce(b, address)
		w.start(w.reach(f))
		w.until("confirmed", 10*time.Minute, func() bool { return w.seq() == 1 })
		if _, down := f.link.Bytes(); down > 300_000 {
			t.Errorf("%d bytes were read of an answer of 200,000 and no end", down)
		}
	})
}

// A proxy that takes a connection and says nothing is no worse than a server that does.
func TestAProxyThatIsSilentForTheWebServerIsGivenUp(t *testing.T) {
	in(t, func(w *world) {
		b := w.bundle(1, 200_000)
		f := w.files(serve(b))
		w.announce(b, address)
		reach := w.reach(f)
		d := w.start(func(o *mqttsynctest.DeviceOptions) {
			reach(o)
			o.Dial = w.proxy("broker:1883")
			change := o.Change
			o.Change = func(m *mqttsync.Options) { change(m); m.Proxy = &url.URL{Scheme: "http", Host: "proxy.test:3128"} }
		})
		w.until("confirmed all the same", 10*time.Minute, func() bool { return w.seq() == 1 })
		if n := d.Client.Link().Drops["https-broken"]; n == 0 || f.asks.Load() != 0 {
			t.Errorf("dropped %v, asked %d times", d.Client.Link().Drops, f.asks.Load())
		}
	})
}

// proxy returns a way to a proxy that leads to the broker as to, and for anything else takes the
// question and does not answer.
func (w *world) proxy(to string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "proxy.test:3128" {
			return nil, fmt.Errorf("dialed %s beside the proxy", address)
		}
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			r := bufio.NewReader(theirs)
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.Host != to {
				_, _ = io.Copy(io.Discard, r) // until the other end closes
				return
			}
			up, err := w.broker.Dial(ctx, network, to)
			if err != nil {
				return
			}
			_, _ = io.WriteString(theirs, "HTTP/1.1 200 OK\r\n\r\n")
			go func() { _, _ = io.Copy(up, r); _ = up.Close() }()
			_, _ = io.Copy(theirs, up)
		}()
		return ours, nil
	}
}

// A cap of the device makes every server slow, and none of them is to blame.
func TestACapBelowWhatAServerHasToGiveIsNotHeldAgainstIt(t *testing.T) {
	in(t, func(w *world) {
		b := w.bundle(1, 200_000)
		f := w.files(serve(b))
		w.announce(b, address)
		reach := w.reach(f)
		d := w.start(func(o *mqttsynctest.DeviceOptions) {
			reach(o)
			change := o.Change
			o.Change = func(m *mqttsync.Options) { change(m); m.Down = 150 }
		})
		w.until("confirmed", time.Hour, func() bool { return w.seq() == 1 })
		if _, web := f.link.Bytes(); web < 200_000 {
			t.Errorf("%d bytes came from the server, and dropped was %v", web, d.Client.Link().Drops)
		}
	})
}

// drip is a server that sends n bytes each 50 seconds.
func drip(n int) func([]byte) http.HandlerFunc {
	return func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			from, to := asked(r)
			answer(w, from, to, len(b), nil)
			for i := from; i <= to && r.Context().Err() == nil; i += n {
				_, _ = w.Write(b[i:min(i+n, to+1)])
				_ = http.NewResponseController(w).Flush()
				time.Sleep(50 * time.Second)
			}
		}
	}
}

// asked returns the range of a request.
func asked(r *http.Request) (from, to int) {
	_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
	return from, to
}

// answer begins an answer with a part.
func answer(w http.ResponseWriter, from, to, of int, b []byte) {
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, of))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = io.Copy(w, bytes.NewReader(b))
}
