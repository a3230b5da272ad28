// Package accesslog writes a line per call to standard output, or keeps it in memory, in the combined form that
// web servers use or as JSON. It never makes a call wait: lines that nobody takes in time
// are dropped and counted.
//
// Query strings, credentials and bodies are never in a line.
package accesslog

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"sync/atomic"
	"tidegate/appliance/wire"
	"tidegate/store/events"
	"time"
	"unicode/utf8"
)

// A Format is the form of a line.
type Format string

// The formats.
const (
	Combined Format = "combined" // of the NCSA, with request id and microseconds behind it
	JSON     Format = "json"
)

// queue is how many lines wait for a slow reader: about 256 KiB.
const queue = 1024

// maxText is the most bytes that one field has in a line.
const maxText = 1024

// A Log takes calls (gateway.AccessLog) and writes them in Run. Its methods are safe for
// concurrent use.
type Log struct {
	out    io.Writer
	format Format
	sample float64
	lines  chan []byte
	lost   atomic.Uint64
}

// New returns a log of a share of the calls, 0 to 1; calls that failed are always in it.
func New(out io.Writer, format Format, sample float64) *Log {
	return &Log{out: out, format: format, sample: sample, lines: make(chan []byte, queue)}
}

// Lost returns how many lines were dropped since the start.
func (l *Log) Lost() uint64 { return l.lost.Load() }

// Log takes one call. It does not wait and keeps neither x nor e.
func (l *Log) Log(x wire.Exchange, e *events.Event) {
	if !e.Failed() && l.sample < 1 && rand.Float64() >= l.sample {
		return
	}
	b := make([]byte, 0, 256)
	if l.format == JSON {
		b = appendJSON(b, x, e)
	} else {
		b = appendCombined(b, x, e)
	}
	select {
	case l.lines <- append(b, '\n'):
	default:
		l.lost.Add(1)
	}
}

// lastWords is how long the end waits for a reader of the last lines.
const lastWords = time.Second

// Run writes until ctx ends, then what is left. A reader that has stopped reading does not
// hold up the end for more than a second.
func (l *Log) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.write(ctx)
	}()
	<-ctx.Done()
	late := time.NewTimer(lastWords)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
	}
	return ctx.Err()
}

// write joins the lines that wait into one write.
func (l *Log) write(ctx context.Context) {
	var buf bytes.Buffer
	for {
		select {
		case line := <-l.lines:
			buf.Write(line)
		case <-ctx.Done():
			if len(l.lines) == 0 {
				return
			}
		}
		n := uint64(1)
		for more := true; more && buf.Len() < 32<<10; {
			select {
			case line := <-l.lines:
				buf.Write(line)
				n++
			default:
				more = false
			}
		}
		if _, err := l.out.Write(buf.Bytes()); err != nil {
			l.lost.Add(n)
		}
		buf.Reset()
	}
}

// appendCombined writes: client - user [time] "METHOD /path PROTO" status bytes "referer"
// "agent" request-id microseconds.
func appendCombined(b []byte, x wire.Exchange, e *events.Event) []byte {
	h := x.Head()
	b = appendAddr(b, e.Client)
	b = append(b, " - "...)
	if e.User == "" {
		b = append(b, '-')
	} else {
		b = appendSafe(b, e.User, true)
	}
	b = append(b, " ["...)
	b = e.Time.UTC().AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
	b = append(b, `] "`...)
	b = appendSafe(b, h.Method, false)
	b = append(b, ' ')
	b = appendSafe(b, h.Path, false)
	b = append(b, ' ')
	b = appendSafe(b, h.Proto, false)
	b = append(b, `" `...)
	b = strconv.AppendUint(b, uint64(e.Status), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, e.BytesOut, 10)
	for _, name := range []string{"Referer", "User-Agent"} {
		b = append(b, ` "`...)
		if v := x.Header(name); v == "" {
			b = append(b, '-')
		} else {
			b = appendSafe(b, withoutQuery(name, v), false)
		}
		b = append(b, '"')
	}
	b = append(b, ' ')
	if id := x.ID(); id == "" {
		b = append(b, '-')
	} else {
		b = appendSafe(b, id, true)
	}
	b = append(b, ' ')
	return strconv.AppendInt(b, e.Total.Microseconds(), 10)
}

// withoutQuery takes the query out of a Referer: it may hold credentials.
func withoutQuery(name, v string) string {
	if name == "Referer" {
		for i := range len(v) {
			if v[i] == '?' || v[i] == '#' {
				return v[:i]
			}
		}
	}
	return v
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return append(b, '-')
	}
	return a.Unmap().AppendTo(b)
}

const hexDigits = "0123456789abcdef"

// appendSafe escapes everything but printable ASCII as \xNN, and quotes and backslashes, so
// that no client can forge a line or send codes to a terminal. Words also lose their spaces.
func appendSafe(b []byte, s string, word bool) []byte {
	if len(s) > maxText {
		s = s[:maxText]
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 || c > 0x7e || word && c == ' ':
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}

func appendJSON(b []byte, x wire.Exchange, e *events.Event) []byte {
	h := x.Head()
	b = append(b, `{"time":"`...)
	b = e.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, '"')
	b = member(b, "client", addr(e.Client))
	b = member(b, "user", e.User)
	b = member(b, "method", h.Method)
	b = member(b, "path", h.Path)
	b = member(b, "protocol", h.Proto)
	b = append(b, `,"status":`...)
	b = strconv.AppendUint(b, uint64(e.Status), 10)
	for _, n := range []struct {
		name string
		v    uint64
	}{{"fault", uint64(e.Fault)}, {"retries", uint64(e.Retries)}} {
		if n.v != 0 {
			b = append(append(append(b, `,"`...), n.name...), `":`...)
			b = strconv.AppendUint(b, n.v, 10)
		}
	}
	b = member(b, "refused_by", e.Level.String())
	b = member(b, "api", e.API)
	b = member(b, "version", e.Version)
	b = member(b, "template", e.Template)
	b = member(b, "application", e.ApplicationName)
	b = member(b, "plan", e.Plan)
	b = member(b, "upstream", e.Upstream)
	for _, n := range []struct {
		name string
		v    int64
	}{{"bytes_in", int64(e.BytesIn)}, {"bytes_out", int64(e.BytesOut)}, {"total_us", e.Total.Microseconds()}, {"backend_us", e.Backend.Microseconds()}} {
		b = append(append(append(b, `,"`...), n.name...), `":`...)
		b = strconv.AppendInt(b, n.v, 10)
	}
	b = member(b, "user_agent", x.Header("User-Agent"))
	b = member(b, "request_id", x.ID())
	if e.TraceID != [16]byte{} {
		b = append(b, `,"trace_id":"`...)
		b = hex.AppendEncode(b, e.TraceID[:])
		b = append(b, '"')
	}
	return append(b, '}')
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().String()
}

// member adds a text, unless it is empty.
func member(b []byte, name, v string) []byte {
	if v == "" {
		return b
	}
	b = append(append(append(b, `,"`...), name...), `":"`...)
	if len(v) > maxText {
		v = v[:maxText]
	}
	for len(v) > 0 {
		r, n := utf8.DecodeRuneInString(v)
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, "\ufffd"...)
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20 || r == 0x7f || r == '\u2028' || r == '\u2029':
			b = append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
		default:
			b = append(b, v[:n]...)
		}
		v = v[n:]
	}
	return append(b, '"')
}
