package gateway

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"tidegate/appliance/cache"
	"tidegate/appliance/wire"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxSqueezed bounds the answers that are compressed at a time: each holds up to 1 MiB. Those above
// it go as they are.
const maxSqueezed = 16

// An encoder compresses what is written to it.
type encoder interface {
	io.WriteCloser
	Reset(io.Writer)
	Flush() error
}

// squeezing is what compression keeps between calls.
type squeezing struct {
	slots chan struct{}
	gzip  sync.Pool
	zstd  sync.Pool
}

func newSqueezing() *squeezing {
	return &squeezing{
		slots: make(chan struct{}, maxSqueezed),
		gzip: sync.Pool{New: func() any {
			w, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
			if err != nil {
				panic(err) // the level is a constant of the package
			}
			return w
		}},
		zstd: sync.Pool{New: func() any {
			w, err := zstd.NewWriter(io.Discard, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
				zstd.WithWindowSize(128<<10), zstd.WithEncoderLevel(zstd.SpeedFastest))
			if err != nil {
				panic(err) // the options are constants
			}
			return w
		}},
	}
}

// nothing is the end of an answer that is not compressed.
func nothing() error { return nil }

// squeeze returns the exchange through which the body of an answer goes, and what to call after
// its last byte. It edits c.header. length is that of the body, -1 if not known.
func (c *call) squeeze(x wire.Exchange, status int, length int64) (wire.Exchange, func() error) {
	if c.match.API == nil || !c.match.API.Compress || !c.compressible(status, length) {
		return x, nothing
	}
	c.add("Vary", "Accept-Encoding")
	coding := accepted(c.x)
	s := c.ed.gw.squeezing
	if coding == "" || c.x.Head().Method == http.MethodHead {
		return x, nothing
	}
	select {
	case s.slots <- struct{}{}:
	default:
		return x, nothing
	}
	pool := &s.gzip
	if coding == "zstd" {
		pool = &s.zstd
	}
	e := pool.Get().(encoder)
	q := &squeezed{Exchange: x, e: e, streams: length < 0}
	e.Reset(writeOnly{x})
	c.add("Content-Encoding", coding)
	c.drop("Accept-Ranges")
	for i := range c.header { // the bytes are others now (RFC 9110 §8.8.1)
		if f := &c.header[i]; strings.EqualFold(f.Name, "Etag") && !strings.HasPrefix(f.Value, "W/") {
			f.Value = "W/" + f.Value
		}
	}
	return q, func() error {
		err := e.Close()
		e.Reset(io.Discard)
		pool.Put(e)
		<-s.slots
		return err
	}
}

// compressible reports whether an answer is worth it and may be changed on its way.
func (c *call) compressible(status int, length int64) bool {
	if status < 200 || status == http.StatusNoContent || status == http.StatusPartialContent || status == http.StatusNotModified ||
		length >= 0 && length < c.ed.gw.o.CompressMin {
		return false
	}
	if c.header.Has("Content-Encoding") || c.header.Has("Content-Range") || cache.NoTransform(c.header) {
		return false
	}
	t, _, _ := strings.Cut(c.header.Value("Content-Type"), ";")
	t = strings.ToLower(strings.TrimSpace(t))
	switch {
	case t == "text/event-stream":
		return false
	case strings.HasPrefix(t, "text/"), strings.HasSuffix(t, "+json"), strings.HasSuffix(t, "+xml"):
		return true
	}
	switch t {
	case "application/json", "application/xml", "application/javascript", "application/yaml", "application/x-ndjson", "application/graphql":
		return true
	}
	return false
}

// accepted returns the coding to use, "" for none (RFC 9110 §12.5.3).
func accepted(x wire.Exchange) string {
	zstdQ, gzipQ, anyQ := -1.0, -1.0, -1.0
	x.HeaderValues("Accept-Encoding", func(v string) bool {
		for part := range strings.SplitSeq(v, ",") {
			name, params, _ := strings.Cut(part, ";")
			q := 1.0
			if k, w, ok := strings.Cut(params, "="); ok && strings.EqualFold(strings.TrimSpace(k), "q") {
				f, err := strconv.ParseFloat(strings.TrimSpace(w), 64)
				if err != nil || !(f >= 0 && f <= 1) {
					f = 0
				}
				q = f
			}
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "zstd":
				zstdQ = q
			case "gzip", "x-gzip":
				gzipQ = q
			case "*":
				anyQ = q
			}
		}
		return true
	})
	if gzipQ < 0 {
		gzipQ = anyQ
	}
	switch {
	case zstdQ > 0 && zstdQ >= gzipQ:
		return "zstd"
	case gzipQ > 0:
		return "gzip"
	}
	return ""
}

// squeezed is an exchange whose body is compressed on its way.
type squeezed struct {
	wire.Exchange
	e       encoder
	streams bool
}

// Start sends the header; the length is not known any more.
func (s *squeezed) Start(status int, h wire.Header, _ int64) error {
	return s.Exchange.Start(status, h, -1)
}

// Write compresses p.
func (s *squeezed) Write(p []byte) (int, error) { return s.e.Write(p) }

// Flush sends what was written so far, where the client may wait for it.
func (s *squeezed) Flush() error {
	if !s.streams {
		return nil
	}
	if err := s.e.Flush(); err != nil {
		return err
	}
	return s.Exchange.Flush()
}

// writeOnly hides everything of an exchange but Write.
type writeOnly struct{ x wire.Exchange }

func (w writeOnly) Write(p []byte) (int, error) { return w.x.Write(p) }
