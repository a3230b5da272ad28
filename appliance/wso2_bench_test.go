package appliance_test

import (
	"runtime"
	"testing"
	"testing/fstest"
	"tidegate/appliance/devicetest"
	"tidegate/policy/project"
	"tidegate/policy/wso2"
	"tidegate/sync/apim"
	"tidegate/sync/apim/apimtest"
)

// manyAPIs imports a label from the stand-in and reads the project, all in memory.
func manyAPIs(tb testing.TB, apis, operations int) *project.Project {
	tb.Helper()
	s := apimtest.New(tb, "2.6")
	s.Many(apis, operations)
	h, err := apim.NewHTTPClient(s.CA, false)
	if err != nil {
		tb.Fatal(err)
	}
	defer h.CloseIdleConnections()
	c := &apim.Client{Server: s.URL, HTTP: h, User: apimtest.User, Password: apimtest.Password, Version: "2.6"}
	x, err := c.Fetch(tb.Context(), apim.Selector{Label: "quay-7"})
	if err != nil {
		tb.Fatal(err)
	}
	r, err := wso2.Convert(x, nil)
	if err != nil {
		tb.Fatal(err)
	}
	changes, err := wso2.Plan(fstest.MapFS{}, r, nil, wso2.Lock{}, false)
	if err != nil {
		tb.Fatal(err)
	}
	p, findings := project.Load(changes.Over(fstest.MapFS{}))
	if p == nil {
		tb.Fatal(findings)
	}
	return p
}

// BenchmarkManyAPIs measures what a device needs to take a bundle of 1,000 APIs with 20
// operations each: verify, store, compile and activate, and the memory it holds then.
func BenchmarkManyAPIs(b *testing.B) {
	p := manyAPIs(b, 1000, 20)
	d := devicetest.Start(b, devicetest.Options{})
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	bundle := d.Fleet.Bundle(b, p.Set, nil)
	b.ReportMetric(float64(len(bundle))/1024, "bundle-KiB")
	before := heap()
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		if d.Desk().Status().Trial != nil {
			if _, err := d.Desk().Confirm(b.Context(), "test"); err != nil {
				b.Fatal(err)
			}
			bundle = d.Fleet.Bundle(b, p.Set, nil)
		}
		b.StartTimer()
		if _, err := d.Offer(b, "many.tide", bundle); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(heap()-before, "held-MiB")
	b.ReportMetric(float64(len(bundle))/1024, "bundle-KiB")
}
