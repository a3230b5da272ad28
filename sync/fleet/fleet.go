// Package fleet is the workstation's end of the link: it publishes bundles, collects what
// devices hand up, and enrols devices. The engine that scales is the broker a site already
// runs; a publisher keeps no state that a second one could not have, and a collector's state
// is its database.
//
// It promises: what a collector acknowledges is committed; a batch that comes twice is stored
// once; nothing of a device that is not enrolled is stored. What a publisher says are hints
// and signed objects; which device takes a bundle is decided by the bundle and the device.
package fleet

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"tidegate/sync/mqttsync/pipe"
	"tidegate/sync/trust"
	"time"
)

// A Broker is how the fleet's side connects.
type Broker struct {
	URLs               []*url.URL // in order of preference
	ClientID           string     // must be its own for each process
	Username, Password string
	TLS                *tls.Config
	Proxy              *url.URL
	Dial               func(ctx context.Context, network, address string) (net.Conn, error) // nil: the system's
	RetryCap           time.Duration                                                        // longest pause between tries; default 30 s
	Log                *slog.Logger
}

// keep connects, runs session on each connection, and connects again with growing random
// pauses, until ctx ends.
func (b *Broker) keep(ctx context.Context, session func(ctx context.Context, p *pipe.Pipe) error) error {
	for tries := 0; ; tries++ {
		u := b.URLs[tries%len(b.URLs)]
		began := time.Now()
		p, err := pipe.Dial(ctx, pipe.Options{
			URL: u, ClientID: b.ClientID, Username: b.Username, Password: b.Password, TLS: b.TLS, Proxy: b.Proxy,
			KeepAlive: 60 * time.Second, PingTimeout: 2 * time.Minute, Backlog: 256, WhenFull: pipe.Wait, Buffer: pipe.Large, Pace: 1 << 20, Dial: b.Dial,
		})
		if err == nil {
			err = b.hold(ctx, p, session)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, errDone) {
			return nil
		}
		if time.Since(began) > time.Minute {
			tries = 0
		}
		most := b.RetryCap
		if most == 0 {
			most = 30 * time.Second
		}
		pause := time.Duration(rand.Int64N(int64(min(time.Second<<min(tries, 6), most)) + 1))
		b.log().Warn("no link to the broker", "broker", u.Redacted(), "err", err, "again", pause.Round(time.Millisecond))
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

var errDone = errors.New("done")

func (b *Broker) hold(ctx context.Context, p *pipe.Pipe, session func(ctx context.Context, p *pipe.Pipe) error) error {
	defer p.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return session(ctx, p)
}

func (b *Broker) log() *slog.Logger {
	if b.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return b.Log
}

// A Directory knows the devices of a fleet.
type Directory interface {
	// Device returns the enrolment of a device; its report key is what the device signs with.
	Device(id trust.DeviceID) (*trust.Enrolment, bool)
	// All calls yield for every device.
	All(yield func(*trust.Enrolment) bool)
}

// Believe reads a .tideroot file and walks its chain from its first root, as a device that
// pinned that root would.
func Believe(file []byte) (trust.State, error) {
	s, _, err := trust.Pin(file, 0)
	if err != nil {
		return s, err
	}
	envs, err := envelope.ReadFile(envelope.Root, bytes.NewReader(file))
	if err != nil {
		return s, err
	}
	s, _, err = s.AddRoots(envs, 0, func(trust.State) error { return nil })
	return s, err
}

// unix is a time as messages have it.
func unix(t time.Time) uint64 { return uint64(max(t.Unix(), 0)) } //nolint:gosec // not negative

// labelled reports whether a device carries all labels.
func labelled(e *trust.Enrolment, labels []string) bool {
	for _, l := range labels {
		if !strings.Contains("\x00"+strings.Join(e.Labels, "\x00")+"\x00", "\x00"+l+"\x00") {
			return false
		}
	}
	return true
}

var errUnknown = refusal.New(refusal.Target, "device is not enrolled").WithHint("enrol it with tidectl fleet enroll, or check --devices")

func about(id trust.DeviceID, err error) error { return fmt.Errorf("device %s: %w", id, err) }
