package wire

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
)

// A call is one exchange of an HTTP/1.1 connection. Calls are pooled with their buffer;
// a connection has one only while a request is there.
type call struct {
	c   *conn
	req request
	in  *block // the head, then body bytes
	n   int    // bytes in it

	body      body
	whole     []byte // the body when Body read it
	replay    int    // of whole, read again so far
	isWhole   bool
	bodyErr   error
	bodyLimit int64 // 0: none
	bodyIn    int64 // body bytes received
	wireIn    int64 // with framing
	bodyFrom  int64 // tick of the first wait for body bytes

	reply

	idBuf   [32]byte
	hasID   bool
	id      string
	client  netip.Addr
	host    string
	hostBuf [64]byte
}

// reset makes k ready for the next request of its connection; in and n are the caller's.
func (k *call) reset() {
	h := k.req.Header
	clear(h)
	c, in := k.c, k.in
	k.bodyReset()
	*k = call{c: c, in: in}
	k.req.Header = h[:0]
}

func (k *call) bodyReset() { k.body = body{} }

// takeCall returns a call for c.
func (s *Server) takeCall(c *conn) *call {
	k, ok := s.state.calls.Get().(*call)
	if !ok {
		k = &call{in: s.state.buffers.take(smallBlock)}
		k.req.Header = make(Header, 0, 16)
	}
	k.c = c
	return k
}

// giveCall takes k back and wipes what it held.
func (s *Server) giveCall(k *call) {
	k.body.release()
	s.state.buffers.give(k.out)
	if len(k.in.b) == smallBlock {
		clear(k.in.b)
	} else {
		s.state.buffers.give(k.in)
		k.in = s.state.buffers.take(smallBlock)
	}
	k.reset()
	k.c, k.n = nil, 0
	s.state.calls.Put(k)
}

// The view of the rules: policy.Call.

func (k *call) Method() string { return k.req.Method }
func (k *call) Path() string   { return k.req.Path }
func (k *call) Query() string  { return k.req.Query }

func (k *call) Host() string {
	if k.host == "" {
		k.host = lowerHost(k.req.Authority[:k.req.hostLen], k.hostBuf[:0])
	}
	return k.host
}

// lowerHost returns h in lower case, in scratch if it must change and fits.
func lowerHost(h string, scratch []byte) string {
	for i := 0; i < len(h); i++ {
		if h[i]-'A' < 26 {
			b := append(scratch, h...)
			for ; i < len(b); i++ {
				b[i] = lower(b[i])
			}
			return text(b)
		}
	}
	return h
}

func (k *call) Header(name string) string { return k.req.Header.Value(name) }

func (k *call) HeaderValues(name string, yield func(string) bool) { k.req.Header.Values(name, yield) }

func (k *call) Client() netip.Addr {
	if !k.client.IsValid() {
		k.client = k.c.srv.clientOf(k.c.peer.Addr(), k.c.trusted, k.req.Header)
	}
	return k.client
}

func (k *call) TrustedPeer() bool         { return k.c.trusted }
func (k *call) TLS() *tls.ConnectionState { return k.c.tls }

// The rest of Exchange.

func (k *call) Context() context.Context { return &k.c.life }
func (k *call) Head() *Head              { return &k.req.Head }
func (k *call) Peer() netip.AddrPort     { return k.c.peer }

func (k *call) ID() string {
	if !k.hasID {
		k.hasID = true
		if k.c.trusted {
			k.id = k.req.Header.Value("X-Request-Id")
		}
		if !goodID(k.id) {
			k.id = newID(&k.idBuf)
		}
	}
	return k.id
}

// newID makes a request id in b: 128 random bits in hex.
func newID(b *[32]byte) string {
	var r [16]byte
	binary.LittleEndian.PutUint64(r[:], rand.Uint64())
	binary.LittleEndian.PutUint64(r[8:], rand.Uint64())
	hex.Encode(b[:], r[:])
	return text(b[:])
}

// goodID reports whether a proxy's request id may be taken over.
func goodID(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; class[c]&isName == 0 && c != '.' && c != '_' && c != ':' && c != '/' && c != '+' && c != '=' {
			return false
		}
	}
	return true
}

func (k *call) RequestBody() io.Reader { return (*requestBody)(k) }
func (k *call) RequestTrailer() Header { return k.body.trailer }
func (k *call) LimitBody(n int64)      { k.bodyLimit = n }

func (k *call) Counts() (in, out int64) { return k.bodyIn, k.bodyOut }

// A requestBody is the body of a call: again what Body has read, then the rest.
type requestBody call

func (r *requestBody) Read(p []byte) (int, error) {
	k := (*call)(r)
	if k.replay < len(k.whole) {
		n := copy(p, k.whole[k.replay:])
		k.replay += n
		return n, nil
	}
	return k.readBody(p)
}

// readBody reads new body bytes and keeps the limit.
func (k *call) readBody(p []byte) (int, error) {
	if k.bodyErr != nil {
		return 0, k.bodyErr
	}
	if k.bodyLimit > 0 && k.req.Length > k.bodyLimit {
		k.bodyErr = errBodyLimit
		return 0, k.bodyErr
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := k.body.Read(p)
	k.bodyIn += int64(n)
	if k.bodyLimit > 0 && k.bodyIn > k.bodyLimit {
		k.bodyErr = errBodyLimit
		return 0, k.bodyErr
	}
	if err != nil && err != io.EOF {
		k.bodyErr = bodyError(err)
		k.lastCall = true
		return n, k.bodyErr
	}
	return n, err
}

var errBodyLimit error = &BodyError{Status: 413, Reason: "longer than allowed"}

// bodyError says what the end of a body's reading means for the client.
func bodyError(err error) error {
	var why *refusal
	switch {
	case errors.As(err, &why):
		return &BodyError{Status: why.status, Reason: why.reason}
	case err == io.ErrUnexpectedEOF:
		return &BodyError{Status: 400, Reason: "client left before the end"}
	}
	return &BodyError{Status: 400, Reason: "connection broke", Err: err}
}

func (k *call) Body(limit int64) ([]byte, error) {
	if !k.isWhole {
		whole, err := readWhole(k.whole, k.readBody, k.req.Length, limit)
		k.whole = whole
		if err != nil {
			return nil, err
		}
		k.isWhole = true
	}
	if int64(len(k.whole)) > limit {
		return nil, errBodyLimit
	}
	return k.whole, nil
}

// readWhole appends to b what read yields, until EOF, if that is at most limit bytes in all. The
// bytes read before an error are returned with it. length is -1 when not known.
func readWhole(b []byte, read func([]byte) (int, error), length, limit int64) ([]byte, error) {
	if length > limit || int64(len(b)) > limit {
		return b, errBodyLimit
	}
	if length < 0 {
		length = min(limit, 4<<10)
	}
	if need := int(length) + 1; cap(b) < need { // one more, to see EOF without growing
		b = append(make([]byte, 0, need), b...)
	}
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
		if int64(len(b)) > limit {
			return b, errBodyLimit
		}
	}
}
