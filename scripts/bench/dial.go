package main

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// generateSlow runs l with a goroutine for each connection: over TLS, and with a new connection
// for every call. It costs more than [generate], which the gateway's own processor time does not
// notice.
func generateSlow(l load, conf *tls.Config, fresh bool) (*measured, error) {
	dial := func() (net.Conn, error) {
		c, err := net.Dial("tcp", l.addr.String())
		if err != nil || conf == nil {
			return c, err
		}
		return tls.Client(c, conf), nil
	}
	start := time.Now()
	warm, end := start.Add(l.warm), start.Add(l.warm+l.time)
	all := make([]*measured, l.conns)
	errs := make([]error, l.conns)
	var wg sync.WaitGroup
	for i := range l.conns {
		m := &measured{other: map[int]uint64{}}
		all[i] = m
		wg.Go(func() {
			var c net.Conn
			var br *bufio.Reader
			for turn := i; ; turn++ {
				from := time.Now()
				if from.After(end) {
					break
				}
				if c == nil {
					if c, errs[i] = dial(); errs[i] != nil {
						return
					}
					br = bufio.NewReaderSize(c, 8<<10)
				}
				status := exchange(c, br, l.requests[turn%len(l.requests)])
				if from.After(warm) {
					if status == http.StatusOK {
						m.calls++
						m.latency.add(time.Since(from))
					} else {
						m.failed++
						m.other[status]++
					}
				}
				if fresh || status != http.StatusOK {
					c.Close()
					c = nil
				}
			}
			if c != nil {
				c.Close()
			}
		})
	}
	time.Sleep(time.Until(warm))
	begun := time.Now()
	if l.atStart != nil {
		l.atStart()
	}
	wg.Wait()
	sum := &measured{other: map[int]uint64{}, took: time.Since(begun)}
	for i, m := range all {
		if errs[i] != nil {
			return nil, errs[i]
		}
		sum.calls += m.calls
		sum.failed += m.failed
		for k, v := range m.other {
			sum.other[k] += v
		}
		for b, n := range m.latency.count {
			sum.latency.count[b] += n
		}
		sum.latency.n += m.latency.n
		sum.latency.most = max(sum.latency.most, m.latency.most)
	}
	return sum, nil
}

// exchange makes one call and returns its status, 0 for none.
func exchange(c net.Conn, br *bufio.Reader, request []byte) int {
	if _, err := c.Write(request); err != nil {
		return 0
	}
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0
	}
	return resp.StatusCode
}
