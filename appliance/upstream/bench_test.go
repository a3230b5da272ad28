package upstream

import (
	"context"
	"fmt"
	"io"
	"testing"
	"tidegate/appliance/wire"
	"tidegate/appliance/wire/wiretest"
	"tidegate/policy"
	"time"
)

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func drain(b *testing.B, resp *wire.Response, err error, buf []byte) {
	if err != nil {
		b.Fatal(err)
	}
	for {
		if _, err := resp.Body.Read(buf); err == io.EOF {
			break
		} else if err != nil {
			b.Fatal(err)
		}
	}
	resp.Body.Close()
}

// The client alone: what the rows of BenchmarkDo come on top of.
func BenchmarkClient(b *testing.B) {
	c := wire.NewClient(wire.Target{Addr: wiretest.Backend(b, okAnswer)})
	defer c.Close()
	buf := make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := c.Do(context.Background(), &wire.Request{Method: "GET", Path: "/x", Timeout: time.Minute})
		drain(b, resp, err, buf)
	}
}

func BenchmarkDo(b *testing.B) {
	for _, bc := range []struct {
		name string
		n    int
		spec policy.Endpoints
	}{
		{"one", 1, policy.Endpoints{}},
		{"round robin of 3", 3, policy.Endpoints{}},
		{"breaker", 1, policy.Endpoints{Breaker: &policy.Breaker{Window: time.Minute, Bucket: time.Second, Volume: 10, Share: 0.5, Reset: time.Second}}},
		{"everything", 3, policy.Endpoints{
			Kind: policy.LeastPending, Overall: time.Minute, Retry: policy.Retry{Count: 2, Statuses: []uint16{503}},
			Breaker: &policy.Breaker{Window: time.Minute, Bucket: time.Second, Volume: 10, Share: 0.5, Reset: time.Second},
			Eject:   &policy.Ejection{Failures: 3, For: time.Minute}, Health: &policy.Health{Path: "/h", Interval: time.Hour},
		}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			bc.spec.Name = "g"
			for range bc.n {
				bc.spec.Targets = append(bc.spec.Targets, policy.Target{URL: "http://" + wiretest.Backend(b, okAnswer)})
			}
			p, err := New(&policy.Set{Endpoints: []policy.Endpoints{bc.spec}}, Options{}, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			g := p.Group(1)
			buf := make([]byte, 512)
			b.ReportAllocs()
			for b.Loop() {
				resp, _, err := g.Do(context.Background(), &wire.Request{Method: "GET"}, Call{Suffix: "/x", Safe: true})
				drain(b, resp, err, buf)
			}
		})
	}
}

func BenchmarkPick(b *testing.B) {
	for _, kind := range []policy.GroupKind{policy.RoundRobin, policy.Failover, policy.LeastPending} {
		for _, n := range []int{1, 4, 64} {
			b.Run(fmt.Sprintf("%s/%d", [...]string{"round robin", "failover", "least pending"}[kind], n), func(b *testing.B) {
				spec := policy.Endpoints{Name: "g", Kind: kind}
				for i := range n {
					spec.Targets = append(spec.Targets, policy.Target{URL: fmt.Sprintf("http://h%d", i)})
				}
				p, err := New(&policy.Set{Endpoints: []policy.Endpoints{spec}}, Options{}, nil)
				if err != nil {
					b.Fatal(err)
				}
				g := p.Group(1)
				b.ReportAllocs()
				for b.Loop() {
					pl := newPlan(g, g.members.Load())
					if pl.pick() == nil {
						b.Fatal("none")
					}
				}
			})
		}
	}
}
