package wire

import "bytes"

var (
	errRequestLine = &refusal{400, "malformed request line"}
	errMethod      = &refusal{400, "method is not in capital letters"}
	errConnect     = &refusal{400, "CONNECT is not served"}
	errVersion     = &refusal{505, "HTTP version is neither 1.0 nor 1.1"}
	errLongTarget  = &refusal{414, "request target is too long"}
	errLongHead    = &refusal{431, "head is too long"}
	errNoHost      = &refusal{400, "no Host"}
	errHosts       = &refusal{400, "several Host fields"}
	errLength      = &refusal{400, "malformed or repeated Content-Length"}
	errCoding      = &refusal{400, "Transfer-Encoding is not chunked alone"}
	errCodings     = &refusal{501, "transfer coding below chunked"}
	errBoth        = &refusal{400, "both Content-Length and Transfer-Encoding"}
	errOldCoding   = &refusal{400, "Transfer-Encoding in HTTP/1.0"}
	errConnection  = &refusal{400, "Connection names a field that is not for one connection"}
	errExpect      = &refusal{400, "unknown expectation"}
	errUpgrade     = &refusal{400, "malformed upgrade to websocket"}
)

// A request is a parsed head: what the handler sees, and what only the engine needs.
type request struct {
	Head
	hostLen   int  // of Authority without its port
	http10    bool //
	chunked   bool //
	close     bool // the client will not send another request
	keepAlive bool // HTTP/1.0 client asked to keep the connection
	expect    bool // 100-continue is awaited
	dropped   int  // fields with names that backends read differently
}

// options of a Connection field.
const (
	optClose = 1 << iota
	optKeepAlive
	optUpgrade
	optOther // names another field
)

// parseRequest reads a whole head, from the request line to the empty line, into q. Its
// strings alias b. On a refusal q holds what was read before it.
func parseRequest(b []byte, lim *Limits, q *request) *refusal {
	h := q.Header[:0]
	*q = request{}
	q.Header = h
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' {
		return errLineEnd
	}
	line, rest := b[:i-1], b[i+1:]
	authority, err := q.parseLine(line, lim)
	if err != nil {
		return err
	}
	var host, key, version []byte
	var hosts, lengths, codings, upgrades, fields, options int
	var coding, upgrade []byte
	for {
		name, value, more, err := splitField(rest)
		if err != nil {
			return err
		}
		rest = more
		if name == nil {
			break
		}
		if fields++; fields > lim.HeaderFields {
			return errTooMany
		}
		if !all(name, isName) {
			q.dropped++
			continue
		}
		switch {
		case len(name) == 4 && fold(name, "host"):
			hosts++
			host = value
			continue
		case len(name) == 14 && fold(name, "content-length"):
			n, ok := number(value)
			if lengths++; !ok || lengths > 1 {
				return errLength
			}
			q.Length = n
			continue
		case len(name) == 17 && fold(name, "transfer-encoding"):
			codings++
			coding = value
			continue
		case len(name) == 10 && fold(name, "connection"):
			options |= connectionOptions(value)
			continue
		case len(name) == 7 && fold(name, "upgrade"):
			upgrades++
			upgrade = value
			continue
		case len(name) == 2 && fold(name, "te"):
			tokens(value, func(t []byte) bool {
				q.Trailers = q.Trailers || fold(t, "trailers")
				return true
			})
			continue
		case len(name) == 6 && fold(name, "expect"):
			if !fold(value, "100-continue") {
				return errExpect
			}
			q.expect = !q.http10
			continue
		case len(name) == 7 && fold(name, "trailer"):
			q.Announced = text(value)
			continue
		case hopByHop(name):
			continue
		case len(name) == 12 && fold(name, "content-type"):
			q.GRPC = len(value) >= 16 && fold(value[:16], "application/grpc")
		case len(name) == 17 && fold(name, "sec-websocket-key"):
			key = value
		case len(name) == 21 && fold(name, "sec-websocket-version"):
			version = value
		}
		q.Header = append(q.Header, Field{text(name), text(value)})
	}
	if err := q.setHost(host, hosts, authority); err != nil {
		return err
	}
	if codings > 0 {
		if err := q.setCoding(coding, codings, lengths); err != nil {
			return err
		}
	}
	q.close = options&optClose != 0
	q.keepAlive = q.http10 && options&optKeepAlive != 0 && !q.close
	if options&optOther != 0 {
		if err := q.checkConnection(b); err != nil {
			return err
		}
	}
	if upgrades > 0 {
		return q.setUpgrade(upgrade, upgrades, options, key, version)
	}
	return nil
}

// parseLine reads the request line and returns the authority of an absolute-form target.
func (q *request) parseLine(line []byte, lim *Limits) (authority []byte, err *refusal) {
	sp := bytes.IndexByte(line, ' ')
	if sp < 1 {
		return nil, errRequestLine
	}
	method, rest := line[:sp], line[sp+1:]
	sp = bytes.LastIndexByte(rest, ' ')
	if sp < 1 {
		return nil, errRequestLine
	}
	target, version := rest[:sp], rest[sp+1:]
	if !all(method, isToken) {
		return nil, errRequestLine
	}
	switch {
	case string(version) == "HTTP/1.1":
		q.Proto = "HTTP/1.1"
	case string(version) == "HTTP/1.0":
		q.Proto, q.http10 = "HTTP/1.0", true
	case len(version) == 8 && string(version[:5]) == "HTTP/" && version[6] == '.' &&
		version[5]-'0' < 10 && version[7]-'0' < 10:
		return nil, errVersion
	default:
		return nil, errRequestLine
	}
	if !all(method, isMethod) || len(method) > 32 {
		return nil, errMethod
	}
	q.Method = text(method)
	if q.Method == "CONNECT" {
		return nil, errConnect
	}
	if len(target) > lim.URIBytes {
		return nil, errLongTarget
	}
	authority, path, query, err := splitTarget(target)
	if err != nil {
		return nil, err
	}
	q.Path, q.Query = text(path), text(query)
	return authority, nil
}

func (q *request) setHost(host []byte, hosts int, authority []byte) *refusal {
	switch {
	case hosts > 1:
		return errHosts
	case hosts == 0:
		if !q.http10 {
			return errNoHost
		}
		host = authority
		if host == nil {
			return nil
		}
	case authority != nil && !bytes.EqualFold(host, authority):
		return errOtherHost
	}
	n, err := checkHost(host)
	q.Authority, q.hostLen = text(host), n
	return err
}

func (q *request) setCoding(coding []byte, codings, lengths int) *refusal {
	switch {
	case lengths > 0:
		return errBoth
	case q.http10:
		return errOldCoding
	case codings > 1:
		return errCoding
	case fold(coding, "chunked"):
		q.chunked, q.Length = true, -1
		return nil
	}
	// Chunked last, with one coding below it, is well-formed but not served.
	if i := bytes.LastIndexByte(coding, ','); i > 0 && fold(bytes.Trim(coding[i+1:], " \t"), "chunked") &&
		all(bytes.TrimRight(coding[:i], " \t"), isToken) && !fold(bytes.TrimRight(coding[:i], " \t"), "chunked") {
		return errCodings
	}
	return errCoding
}

// connectionOptions reads one Connection field.
func connectionOptions(v []byte) (options int) {
	tokens(v, func(t []byte) bool {
		switch {
		case fold(t, "close"):
			options |= optClose
		case fold(t, "keep-alive"):
			options |= optKeepAlive
		case fold(t, "upgrade"):
			options |= optUpgrade
		case fold(t, "te"), fold(t, "http2-settings"), fold(t, "trailer"), fold(t, "proxy-connection"):
		default:
			options |= optOther
		}
		return true
	})
	return options
}

// checkConnection refuses a Connection field that names a field of this request which is
// meant for the backend: to obey would let a client take away what a proxy before us set, not to obey
// would differ from what other servers do. b is the head.
func (q *request) checkConnection(b []byte) *refusal {
	rest := b[bytes.IndexByte(b, '\n')+1:]
	var bad *refusal
	for bad == nil {
		name, value, more, err := splitField(rest)
		if err != nil || name == nil {
			return err
		}
		rest = more
		if !fold(name, "connection") {
			continue
		}
		tokens(value, func(t []byte) bool {
			if q.Header.Has(text(t)) || fold(t, "host") || fold(t, "content-length") ||
				fold(t, "transfer-encoding") || fold(t, "expect") || fold(t, "connection") {
				bad = errConnection
			}
			return bad == nil
		})
	}
	return bad
}

// setUpgrade judges an Upgrade field: websocket is the only protocol let through (RFC 6455
// §4.2.1), and only well-formed. Anything else, h2c among it, is not seen, and the call
// goes on as HTTP/1.1, as RFC 9110 §7.8 allows.
func (q *request) setUpgrade(v []byte, n, options int, key, version []byte) *refusal {
	websocket := false
	tokens(v, func(t []byte) bool {
		websocket = websocket || fold(t, "websocket")
		return true
	})
	if !websocket && n == 1 {
		return nil
	}
	if n > 1 || !fold(v, "websocket") || options&optUpgrade == 0 || q.Method != "GET" || q.http10 ||
		q.chunked || q.Length != 0 || string(version) != "13" || !isKey(key) {
		return errUpgrade
	}
	q.Upgrade = "websocket"
	return nil
}

// isKey reports whether v is 16 bytes in base64.
func isKey(v []byte) bool {
	if len(v) != 24 || v[22] != '=' || v[23] != '=' {
		return false
	}
	for _, c := range v[:22] {
		if unhex(c) > 15 && c|0x20-'a' >= 26 && c != '+' && c != '/' {
			return false
		}
	}
	return true
}
