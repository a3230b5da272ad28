package mqttsync

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net/url"
	"tidegate/platform/clock"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/pipe"
	"time"
)

const (
	retryFirst   = 2 * time.Second
	meteredCap   = time.Hour
	goodAfter    = 5 * time.Minute // a connection that lives so long, and is answered, was a good one
	unsyncedTry  = time.Hour       // outside windows, for the time only
	windowsCheck = time.Minute
)

// keep connects again and again. The pause before a try is random up to a limit that doubles,
// so that a fleet that lost its broker does not come back as one.
func (c *Client) keep(ctx context.Context) {
	pause := jitter(c.o.FirstAfter)
	for tries := 0; ; {
		for {
			purpose, wait := c.may()
			if purpose == nothing {
				pause = 0 // when it may be, it may be at once
				if c.budget.empty() {
					c.tell(c.newestAsk(), errBudget)
				}
			} else {
				if pause <= 0 {
					break
				}
				wait = pause
			}
			if !c.wait(ctx, wait) {
				return
			}
			pause -= wait
		}
		purpose, _ := c.may()
		how := c.try(ctx, purpose)
		if ctx.Err() != nil {
			return
		}
		if how != failed {
			tries = 0
		}
		most := c.o.RetryCap
		if c.o.Metered {
			most = max(most, meteredCap)
		}
		pause = jitter(min(most, retryFirst<<min(tries, 20)))
		switch {
		case purpose == timeOnly && c.o.Clock.Now().Quality == clock.Unsynced:
			pause = unsyncedTry/2 + jitter(unsyncedTry/2)
		case purpose == drainAll && how == done: // the window may be open still, and the radio sleeps
			pause = most/2 + jitter(most/2)
		}
		tries++
	}
}

func jitter(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return time.Duration(rand.Int64N(int64(most)))
}

// wait waits and reports whether the client goes on. Somebody who asks ends it.
func (c *Client) wait(ctx context.Context, d time.Duration) bool {
	c.set(func(l *Link) { l.State, l.Next, l.Publisher, l.Collector = Waiting, d, false, false })
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-c.wake:
	case <-timer.C:
	}
	return true
}

// A purpose is what a connection is for.
type purpose uint8

const (
	nothing  purpose = iota
	timeOnly         // outside windows, until the time is known
	drainAll         // until all is said, or the window ends
	stay
)

// may says what a connection may be for now and, if for nothing, when to ask again.
func (c *Client) may() (purpose, time.Duration) {
	if c.budget.empty() {
		return nothing, windowsCheck
	}
	switch {
	case c.o.Mode == Always:
		return stay, 0
	case c.asked():
		return drainAll, 0
	case c.o.Mode == Demand:
		return nothing, unsyncedTry
	}
	r := c.o.Clock.Now()
	if r.Quality == clock.Unsynced {
		return timeOnly, 0
	}
	if _, left := c.inWindow(r.Lower); left > 0 {
		return drainAll, 0
	}
	return nothing, windowsCheck
}

// An outcome is what became of a try.
type outcome uint8

const (
	failed outcome = iota
	good           // it was answered and lived long enough, or brought the time
	done           // all was said
)

// try connects to the first broker where somebody answers and stays until the connection ends.
func (c *Client) try(ctx context.Context, why purpose) outcome {
	var err error
	var s *session
	for _, u := range c.o.Brokers {
		c.set(func(l *Link) { l.State, l.Broker = Connecting, u.Redacted() })
		began := time.Now()
		s = newSession(c, why)
		var p *pipe.Pipe
		p, err = pipe.Dial(ctx, c.pipeOptions(u, s))
		if err == nil {
			err = s.run(ctx, p)
		} else if c.clockOnly(err) {
			if err = c.askTimeFirst(ctx, u, err); errors.Is(err, errDone) {
				return good // the time is known: what the connection was for comes next
			}
		}
		if ctx.Err() != nil {
			return failed
		}
		over := errors.Is(err, errDone)
		if !over {
			c.log.Info("link closed", "broker", u.Redacted(), "after", time.Since(began).Round(time.Second), "err", err)
		}
		c.set(func(l *Link) {
			l.Err = ""
			if err != nil && !over {
				l.Err = err.Error()
			}
			l.Hint = hint(err)
			l.Fetching = nil
		})
		switch {
		case over && why == timeOnly:
			return failed
		case over:
			return done
		case s.began && s.answered():
			if time.Since(began) >= goodAfter {
				return good
			}
			return failed
		}
	}
	c.tell(s.ask, err)
	return failed
}

func (c *Client) pipeOptions(u *url.URL, s *session) pipe.Options {
	o := pipe.Options{
		URL: u, ClientID: c.o.Device.String(), Username: c.o.Username, Password: c.o.Password,
		TLS: c.o.TLS, Proxy: c.o.Proxy, KeepAlive: c.o.KeepAlive, Up: c.o.Up, Down: c.o.Down,
		Meter: c.budget, Dial: c.o.Dial, Backlog: backlog,
	}
	if will, err := message.Encode(&message.Will{Boot: c.o.BootID, Nonce: s.nonce}); err == nil {
		o.Will = &pipe.Message{Topic: c.topic(message.StatusPart), Payload: will}
	}
	return o
}

func (c *Client) topic(p message.Part) string { return c.o.Fleet.Device(c.o.Device, p) }

// clockOnly reports whether TLS failed on nothing but the time, on a device that does not
// know it.
func (c *Client) clockOnly(err error) bool {
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.Expired &&
		c.o.Clock.Now().Quality == clock.Unsynced && c.o.TLS != nil && c.o.TLS.RootCAs != nil
}

// askTimeFirst makes one connection with the pinned authority and no judgement of time, that
// asks for an attested time and nothing else. Who can answer it holds a key of the time role.
func (c *Client) askTimeFirst(ctx context.Context, u *url.URL, was error) error {
	c.log.Warn("certificate judged by a clock that is not proven; asking for the time", "broker", u.Redacted(), "err", was)
	s := newSession(c, timeOnly)
	o := c.pipeOptions(u, s)
	o.TLS = withoutTime(c.o.TLS, u)
	o.Will = nil
	p, err := pipe.Dial(ctx, o)
	if err != nil {
		return errors.Join(was, err)
	}
	return s.run(ctx, p)
}

// withoutTime returns a configuration that verifies everything of a certificate but its dates.
func withoutTime(t *tls.Config, u *url.URL) *tls.Config {
	relaxed := t.Clone()
	name := relaxed.ServerName
	if name == "" {
		name = u.Hostname()
	}
	relaxed.InsecureSkipVerify = true //nolint:gosec // VerifyConnection judges all but the dates
	relaxed.VerifyConnection = func(s tls.ConnectionState) error {
		leaf := s.PeerCertificates[0]
		o := x509.VerifyOptions{Roots: t.RootCAs, DNSName: name, Intermediates: x509.NewCertPool()}
		for _, c := range s.PeerCertificates[1:] {
			o.Intermediates.AddCert(c)
		}
		// Authorities outlive what they sign, at one of its two ends at least.
		var err error
		for _, at := range []time.Time{leaf.NotBefore.Add(time.Second), leaf.NotAfter.Add(-time.Second)} {
			o.CurrentTime = at
			if _, err = leaf.Verify(o); err == nil {
				return nil
			}
		}
		return err
	}
	return relaxed
}

// hint says what a person can do about an error.
func hint(err error) string {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case err == nil, errors.Is(err, errDone):
		return ""
	case errors.As(err, &authority):
		return "set mqtt.ca_file to the authority of the broker's certificate"
	case errors.As(err, &name):
		return "the broker's certificate is for another name: set mqtt.server_name, or another broker"
	case errors.As(err, &invalid):
		return "check the broker's certificate and the clock of this device"
	case errors.Is(err, errBudget):
		return "mqtt.bytes_per_day is spent; the link opens again tomorrow"
	case errors.Is(err, errSilent):
		return "connected, but nobody answers: check the broker's access control, mqtt.fleet, and that tidectl fleet publish and collect run"
	}
	return ""
}
