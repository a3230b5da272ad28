// Package logs is the logger of both programs: a [slog.Handler] that writes to standard
// error as text, JSON, or lines with journal priorities, and keeps the last lines in
// memory for the admin page and the support dump. It writes no files: flash is not for logs.
package logs

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// A Format says how lines look.
type Format string

// The formats.
const (
	Auto    Format = "auto"    // Journal where standard error is the journal, else Text
	Text    Format = "text"    // key=value with the time
	JSON    Format = "json"    // one object a line
	Journal Format = "journal" // a priority <3> to <7> in front, no time: the journal has it
)

// Limits of what is kept in memory.
const (
	ringLines = 512
	lineBytes = 512
)

// Options say where lines go.
type Options struct {
	Out    io.Writer
	Format Format // "" is Auto
	Level  slog.Level
}

// A Line is one line kept in memory.
type Line struct {
	Time  time.Time
	Level slog.Level
	Text  string // without time and level, cut at 512 bytes
}

// Log is a logger and its last lines. Its methods are safe to call together.
type Log struct {
	*slog.Logger
	level *slog.LevelVar
	sink  *sink
}

// New returns a log that writes to o.Out.
func New(o Options) *Log {
	format := o.Format
	if format == "" || format == Auto {
		format = Text
		if isJournal(o.Out) {
			format = Journal
		}
	}
	level := new(slog.LevelVar)
	level.Set(o.Level)
	s := &sink{out: o.Out, journal: format == Journal}
	out := &slog.HandlerOptions{Level: level, ReplaceAttr: replace(format == Journal)}
	h := handler{sink: s, keep: slog.NewTextHandler(&s.kept, &slog.HandlerOptions{Level: level, ReplaceAttr: replace(true)})}
	if format == JSON {
		h.out = slog.NewJSONHandler(&s.line, out)
	} else {
		h.out = slog.NewTextHandler(&s.line, out)
	}
	return &Log{Logger: slog.New(h), level: level, sink: s}
}

// SetLevel changes the least level that is written, from now on.
func (l *Log) SetLevel(v slog.Level) { l.level.Set(v) }

// Tail returns up to n of the last lines, oldest first; at most 512 are kept.
func (l *Log) Tail(n int) []Line {
	l.sink.mu.Lock()
	defer l.sink.mu.Unlock()
	all := append(append([]Line{}, l.sink.ring[l.sink.next:]...), l.sink.ring[:l.sink.next]...)
	return all[max(0, len(all)-max(n, 0)):]
}

// Lost returns how many lines could not be written to Out. They are in Tail.
func (l *Log) Lost() uint64 {
	l.sink.mu.Lock()
	defer l.sink.mu.Unlock()
	return l.sink.lost
}

// replace hides what must not be in a log, whoever puts it there, and takes out what the
// journal or the ring have beside the text.
func replace(bare bool) func([]string, slog.Attr) slog.Attr {
	return func(groups []string, a slog.Attr) slog.Attr {
		if bare && len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		switch strings.ToLower(a.Key) {
		case "authorization", "token", "password", "passphrase", "secret", "apikey", "api_key", "cookie":
			return slog.String(a.Key, "(hidden)")
		}
		return a
	}
}

// handler writes each record twice: for Out, and for the ring.
type handler struct {
	sink *sink
	out  slog.Handler
	keep slog.Handler
}

func (h handler) Enabled(ctx context.Context, l slog.Level) bool { return h.out.Enabled(ctx, l) }

func (h handler) WithAttrs(a []slog.Attr) slog.Handler {
	return handler{sink: h.sink, out: h.out.WithAttrs(a), keep: h.keep.WithAttrs(a)}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{sink: h.sink, out: h.out.WithGroup(name), keep: h.keep.WithGroup(name)}
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	s := h.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line.Reset()
	s.kept.Reset()
	if s.journal {
		s.line.WriteString(priority(r.Level))
	}
	if err := h.out.Handle(ctx, r); err != nil {
		return err
	}
	if err := h.keep.Handle(ctx, r); err != nil {
		return err
	}
	s.add(Line{Time: r.Time, Level: r.Level, Text: cut(s.kept.Bytes())})
	if _, err := s.out.Write(s.line.Bytes()); err != nil {
		s.lost++
		return err
	}
	return nil
}

// priority is the prefix that the journal reads (sd-daemon(3)).
func priority(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "<3>"
	case l >= slog.LevelWarn:
		return "<4>"
	case l >= slog.LevelInfo:
		return "<6>"
	}
	return "<7>"
}

func cut(b []byte) string {
	b = bytes.TrimRight(b, "\n")
	if len(b) > lineBytes {
		return strings.ToValidUTF8(string(b[:lineBytes]), "") + "…"
	}
	return string(b)
}

// sink is the one place all handlers of a Log write to.
type sink struct {
	mu      sync.Mutex
	out     io.Writer
	journal bool
	line    bytes.Buffer // being written to out
	kept    bytes.Buffer // being kept
	ring    []Line
	next    int // where the oldest line is, once the ring is full
	lost    uint64
}

func (s *sink) add(l Line) {
	if len(s.ring) < ringLines {
		s.ring = append(s.ring, l)
		return
	}
	s.ring[s.next] = l
	s.next = (s.next + 1) % ringLines
}
