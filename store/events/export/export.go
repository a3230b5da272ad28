// Package export writes recorded calls for other programs: as JSON lines, as a table for
// spreadsheets, and in the usage-data format of the WSO2 API Microgateway.
//
// Package export reads batches from whoever has them, a device's queue or the fleet's
// store. It keeps no state: what was exported stays where it was.
package export

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"tidegate/store/events/batch"
	"time"
)

// Batches are detail batches, oldest first; an error is the last thing they yield.
type Batches = iter.Seq2[*batch.Batch, error]

// A Tally says what an export did.
type Tally struct {
	Events  int // written
	Earlier int // before the time asked for, not written
	Refused int // refused before a plan or a backend had to do with them; the wso2 format has no place for them
	Files   int // written by WSO2
}

// An entry is an event and where it comes from.
type entry struct {
	*batch.Event
	batch *batch.Header
	index int // in its batch, from 0
}

// A field is one column of the table and one member of the JSON objects.
type field struct {
	name   string
	number func(*entry) uint64 // nil: it is text
	text   func(*entry) string
}

func text(name string, f func(*entry) string) field   { return field{name: name, text: f} }
func number(name string, f func(*entry) uint64) field { return field{name: name, number: f} }

func latency(name string, f func(*entry) time.Duration) field {
	return number(name, func(e *entry) uint64 { return uint64(max(f(e), 0).Microseconds()) })
}

// fields are what an export holds, in this order. Names are only ever added, at the end.
func fields() []field {
	return []field{
		text("time", func(e *entry) string { return e.Time.UTC().Format("2006-01-02T15:04:05.000000Z") }),
		text("clock", func(e *entry) string { return e.batch.Start.Quality.String() }),
		text("api", func(e *entry) string { return e.API }),
		text("version", func(e *entry) string { return e.Version }),
		text("context", func(e *entry) string { return e.Context }),
		text("method", func(e *entry) string { return e.Method }),
		text("template", func(e *entry) string { return e.Template }),
		text("operation", func(e *entry) string { return e.Operation }),
		text("publisher", func(e *entry) string { return e.Publisher }),
		number("status", func(e *entry) uint64 { return uint64(e.Status) }),
		number("fault", func(e *entry) uint64 { return uint64(e.Fault) }),
		text("refused_by", func(e *entry) string { return e.Level.String() }),
		text("application_id", func(e *entry) string { return e.ApplicationID }),
		text("application", func(e *entry) string { return e.ApplicationName }),
		text("application_owner", func(e *entry) string { return e.ApplicationOwner }),
		text("application_plan", func(e *entry) string { return e.ApplicationTier }),
		text("consumer_key", func(e *entry) string { return e.ConsumerKey }),
		text("key_type", func(e *entry) string { return e.KeyType }),
		text("plan", func(e *entry) string { return e.Plan }),
		text("user", func(e *entry) string { return e.User }),
		text("client", func(e *entry) string {
			if !e.Client.IsValid() {
				return ""
			}
			return e.Client.String()
		}),
		text("user_agent", func(e *entry) string { return e.UserAgent }),
		text("protocol", func(e *entry) string { return e.Protocol.String() }),
		text("upstream", func(e *entry) string { return e.Upstream }),
		number("retries", func(e *entry) uint64 { return uint64(e.Retries) }),
		latency("total_us", func(e *entry) time.Duration { return e.Total }),
		latency("backend_us", func(e *entry) time.Duration { return e.Backend }),
		latency("security_us", func(e *entry) time.Duration { return e.Security }),
		latency("throttling_us", func(e *entry) time.Duration { return e.Throttling }),
		number("bytes_in", func(e *entry) uint64 { return e.BytesIn }),
		number("bytes_out", func(e *entry) uint64 { return e.BytesOut }),
		number("token_cached", flag(batch.TokenCached)),
		number("response_cached", flag(batch.ResponseCached)),
		number("over_quota", flag(batch.OverQuota)),
		text("request_id", func(e *entry) string { return id(e.RequestID) }),
		text("trace_id", func(e *entry) string { return id(e.TraceID) }),
		text("epoch", func(e *entry) string { return hex.EncodeToString(e.batch.Epoch[:]) }),
		number("batch", func(e *entry) uint64 { return e.batch.Seq }),
		number("index", func(e *entry) uint64 { return uint64(e.index) }),
	}
}

func flag(f batch.Flags) func(*entry) uint64 {
	return func(e *entry) uint64 {
		if e.Flags&f != 0 {
			return 1
		}
		return 0
	}
}

func id(b [16]byte) string {
	if b == [16]byte{} {
		return ""
	}
	return hex.EncodeToString(b[:])
}

// each calls fn for the events that are not before since.
func each(batches Batches, since time.Time, tally *Tally, fn func(*entry) error) error {
	for b, err := range batches {
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		index := 0
		for e, err := range b.Events() {
			if err != nil {
				return fmt.Errorf("batch %d: %w", b.Seq, err)
			}
			if e.Time.Before(since) {
				tally.Earlier++
			} else {
				if err := fn(&entry{Event: e, batch: &b.Header, index: index}); err != nil {
					return err
				}
				tally.Events++
			}
			index++
		}
	}
	return nil
}

// NDJSON writes one JSON object per line: first the losses, each with a member "loss",
// then the events that are not before since. Empty members are left out.
func NDJSON(w io.Writer, losses []batch.Loss, batches Batches, since time.Time) (Tally, error) {
	var tally Tally
	out := bufio.NewWriter(w)
	for i := range losses {
		if err := writeLoss(out, &losses[i]); err != nil {
			return tally, err
		}
	}
	fields := fields()
	line := newLine()
	err := each(batches, since, &tally, func(e *entry) error {
		line.begin()
		for i := range fields {
			f := &fields[i]
			if f.number != nil {
				if v := f.number(e); v != 0 {
					line.number(f.name, v)
				}
			} else if v := f.text(e); v != "" {
				if err := line.text(f.name, v); err != nil {
					return err
				}
			}
		}
		_, err := out.Write(line.end())
		return err
	})
	if err != nil {
		return tally, err
	}
	return tally, out.Flush()
}

func writeLoss(w io.Writer, l *batch.Loss) error {
	line := struct {
		Loss  batch.Reason `json:"loss"`
		Class string       `json:"class"`
		Calls *uint64      `json:"calls,omitempty"` // absent: not known
		First string       `json:"first"`
		Last  string       `json:"last"`
		Epoch string       `json:"epoch"`
		From  uint64       `json:"from,omitempty"`
		To    uint64       `json:"to,omitempty"`
	}{
		l.Reason, l.Class.String(), nil, l.First.UTC().Format(time.RFC3339), l.Last.UTC().Format(time.RFC3339),
		hex.EncodeToString(l.Epoch[:]), l.From, l.To,
	}
	if l.Known {
		line.Calls = &l.Calls
	}
	return json.NewEncoder(w).Encode(line)
}

// A line is one JSON object.
type line struct {
	buf  bytes.Buffer
	json *json.Encoder
}

func newLine() *line {
	l := new(line)
	l.json = json.NewEncoder(&l.buf)
	l.json.SetEscapeHTML(false)
	return l
}

func (l *line) begin() {
	l.buf.Reset()
	l.buf.WriteByte('{')
}

func (l *line) name(n string) {
	if l.buf.Len() > 1 {
		l.buf.WriteByte(',')
	}
	l.buf.WriteByte('"')
	l.buf.WriteString(n)
	l.buf.WriteString(`":`)
}

func (l *line) number(name string, v uint64) {
	l.name(name)
	l.buf.Write(strconv.AppendUint(l.buf.AvailableBuffer(), v, 10))
}

func (l *line) text(name, v string) error {
	l.name(name)
	if err := l.json.Encode(v); err != nil {
		return err
	}
	l.buf.Truncate(l.buf.Len() - 1) // the line end of Encode
	return nil
}

func (l *line) end() []byte {
	l.buf.WriteString("}\n")
	return l.buf.Bytes()
}

// CSV writes a table by RFC 4180, with a line of names, of the events that are not before
// since. Text that a spreadsheet would take for a formula gets an apostrophe in front: what
// must be exact is read from NDJSON.
func CSV(w io.Writer, batches Batches, since time.Time) (Tally, error) {
	var tally Tally
	fields := fields()
	out := csv.NewWriter(w)
	out.UseCRLF = true
	cells := make([]string, len(fields))
	for i := range fields {
		cells[i] = fields[i].name
	}
	if err := out.Write(cells); err != nil {
		return tally, err
	}
	err := each(batches, since, &tally, func(e *entry) error {
		for i := range fields {
			if f := &fields[i]; f.number != nil {
				cells[i] = strconv.FormatUint(f.number(e), 10)
			} else {
				cells[i] = plain(f.text(e))
			}
		}
		return out.Write(cells)
	})
	if err != nil {
		return tally, err
	}
	out.Flush()
	return tally, out.Error()
}

// plain keeps text from being run as a formula. Spreadsheets skip white space, and some
// take the full-width forms of the signs.
func plain(s string) string {
	t := strings.TrimLeft(s, " \t\r\n\u00a0\u3000")
	if t == "" {
		return s
	}
	switch r := []rune(t)[0]; r {
	case '=', '+', '-', '@', '|', '＝', '＋', '－', '＠':
		return "'" + s
	}
	return s
}
