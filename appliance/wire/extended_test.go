package wire

import (
	"bytes"
	"crypto/tls"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestExtendedConnectIsNotOffered shows that WebSockets are for HTTP/1.1: the setting of RFC 8441
// is not sent, a client that asks all the same has its stream reset before any rule or backend
// sees it, and the connection goes on.
func TestExtendedConnectIsNotOffered(t *testing.T) {
	var served atomic.Int64
	server, client := testTLS(t)
	addr := start(t, &Server{TLSConfig: server, Handler: handlerFunc(func(x Exchange) {
		served.Add(1)
		say(x, 200, x.Path())
	})})
	client.NextProtos = []string{"h2"}
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, client)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // a hanging test fails instead
	if _, err := c.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	ask := func(stream uint32, fields ...string) {
		var b bytes.Buffer
		e := hpack.NewEncoder(&b)
		for i := 0; i < len(fields); i += 2 {
			if err := e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: b.Bytes(), EndHeaders: true, EndStream: stream != 1}); err != nil {
			t.Fatal(err)
		}
	}
	ask(1, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/live", ":authority", "gateway.test", "sec-websocket-version", "13")
	ask(3, ":method", "GET", ":scheme", "https", ":path", "/plain", ":authority", "gateway.test")
	settings, reset, status := false, http2.ErrCode(0), ""
	for status == "" || reset == 0 {
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("after settings %v, reset %v, status %q: %v", settings, reset, status, err)
		}
		switch fr := fr.(type) {
		case *http2.SettingsFrame:
			if fr.IsAck() {
				continue
			}
			settings = true
			if v, ok := fr.Value(http2.SettingEnableConnectProtocol); ok && v != 0 {
				t.Error("extended CONNECT is offered")
			}
		case *http2.RSTStreamFrame:
			if fr.StreamID != 1 {
				t.Errorf("stream %d is reset", fr.StreamID)
			}
			reset = fr.ErrCode
		case *http2.MetaHeadersFrame:
			if fr.StreamID != 3 {
				t.Errorf("stream %d is answered: %v", fr.StreamID, fr.Fields)
				continue
			}
			status = fr.PseudoValue("status")
		case *http2.GoAwayFrame:
			t.Fatalf("the connection ends: %v", fr.ErrCode)
		}
	}
	if !settings || reset != http2.ErrCodeProtocol || status != "200" || served.Load() != 1 {
		t.Errorf("settings %v, reset %v, the other call %s, %d calls served", settings, reset, status, served.Load())
	}
}
