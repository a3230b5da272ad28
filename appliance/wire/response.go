package wire

import (
	"bytes"
	"fmt"
)

// A responseHead is a parsed response head; its strings alias what was parsed.
type responseHead struct {
	status  int
	header  Header
	length  int64 // of Content-Length; -1: none
	chunked bool
	close   bool // the connection ends after this response
	upgrade bool // Upgrade: websocket and Connection: upgrade
}

func badResponse(reason string) error { return fmt.Errorf("%w: %s", ErrBadResponse, reason) }

// parseResponse reads a whole head into r. Whatever another reader could frame
// differently is an error.
func parseResponse(b []byte, r *responseHead) error {
	*r = responseHead{header: r.header[:0], length: -1}
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' {
		return badResponse("status line")
	}
	line, rest := b[:i-1], b[i+1:]
	// HTTP/1.x SP 3DIGIT [SP reason], RFC 9112 §4; some servers leave out the last space.
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[7] != '0' && line[7] != '1' || line[8] != ' ' ||
		len(line) > 12 && line[12] != ' ' || !all(line[12:], isValue) {
		return badResponse("status line")
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return badResponse("status")
		}
		r.status = r.status*10 + int(c-'0')
	}
	if r.status < 100 {
		return badResponse("status")
	}
	http10 := line[7] == '0'
	r.close = http10
	options, codings, upgrade := 0, 0, false
	for {
		name, value, more, err := splitField(rest)
		if err != nil {
			return badResponse(err.reason)
		}
		rest = more
		if name == nil {
			break
		}
		switch {
		case len(name) == 14 && fold(name, "content-length"):
			n, ok := number(value)
			if !ok || r.length >= 0 {
				return badResponse("Content-Length")
			}
			r.length = n
		case len(name) == 17 && fold(name, "transfer-encoding"):
			if codings++; codings > 1 || !fold(value, "chunked") || http10 {
				return badResponse("Transfer-Encoding")
			}
			r.chunked = true
		case len(name) == 10 && fold(name, "connection"):
			options |= connectionOptions(value)
		case len(name) == 7 && fold(name, "upgrade"):
			upgrade = fold(value, "websocket")
		case hopByHop(name):
		default:
			r.header = append(r.header, Field{text(name), text(value)})
		}
	}
	if r.chunked && r.length >= 0 {
		return badResponse("both Content-Length and Transfer-Encoding")
	}
	if options&optKeepAlive != 0 {
		r.close = false
	}
	if options&optClose != 0 {
		r.close = true
	}
	r.upgrade = upgrade && options&optUpgrade != 0
	if options&optOther != 0 {
		r.dropNamed(b)
	}
	return nil
}

// dropNamed removes the fields that Connection names.
func (r *responseHead) dropNamed(b []byte) {
	rest := b[bytes.IndexByte(b, '\n')+1:]
	for {
		name, value, more, err := splitField(rest)
		if err != nil || name == nil {
			return
		}
		rest = more
		if !fold(name, "connection") {
			continue
		}
		tokens(value, func(t []byte) bool {
			kept := r.header[:0]
			for _, f := range r.header {
				if !sameName(f.Name, text(t)) {
					kept = append(kept, f)
				}
			}
			r.header = kept
			return true
		})
	}
}

// end returns how the body that follows ends, and its length.
func (r *responseHead) end(method string) (end int, length int64) {
	switch {
	case method == "HEAD" || r.status < 200 || r.status == 204 || r.status == 304:
		return endNone, 0
	case r.chunked:
		return endChunked, -1
	case r.length >= 0:
		return endLength, r.length
	}
	return endClose, -1
}
