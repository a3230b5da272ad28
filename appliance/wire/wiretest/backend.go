// Package wiretest has what tests and benchmarks of several packages stand on.
package wiretest

import (
	"bufio"
	"net"
	"strings"
	"testing"
)

// JSON is an answer with 1 KiB of content.
var JSON = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("0123456789abcdef", 64)

// Backend answers every request without a body with the same bytes and allocates nothing for it.
// It returns its address on loopback, host and port; it ends with the test.
func Backend(t testing.TB, answer string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(c, []byte(answer))
		}
	}()
	return ln.Addr().String()
}

func serve(c net.Conn, answer []byte) {
	defer c.Close()
	r := bufio.NewReaderSize(c, 16<<10)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if len(line) > 2 {
			continue // of the head
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}
