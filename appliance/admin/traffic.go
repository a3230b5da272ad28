package admin

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"sync"
	"tidegate/appliance/gateway"
	"time"
)

// TrafficView are the counts since the start. Rates are the difference of two of them.
type TrafficView struct {
	At       float64           `json:"at"` // seconds since the start
	InFlight int64             `json:"in_flight"`
	Bounds   []float64         `json:"bounds"`  // upper ends of buckets, in seconds
	Rows     []TrafficRow      `json:"rows"`    // of each API, or of each operation of one API
	Other    TrafficRow        `json:"other"`   // calls that matched no operation
	Faults   map[string]uint64 `json:"faults"`  // refusals by code
	Started  time.Time         `json:"started"` // another one: the counts began anew
}

// TrafficRow are the counts of one API or operation.
type TrafficRow struct {
	API      string    `json:"api"`
	Version  string    `json:"version"`
	Method   string    `json:"method,omitempty"`
	Template string    `json:"template,omitempty"`
	Answers  [6]uint64 `json:"answers"` // by class of the status; 0: none was sent
	Micros   uint64    `json:"micros"`  // latency, summed
	Buckets  []uint64  `json:"buckets"` // calls by latency; one more than bounds; empty: no calls
}

func (t *TrafficRow) add(o *gateway.OpStats) {
	any := false
	c := o.Counts()
	for i := range c.Classes {
		n := c.Classes[i].Load()
		t.Answers[i] += n
		any = any || n > 0
	}
	if !any {
		return
	}
	t.Micros += c.Micros.Load()
	if t.Buckets == nil {
		t.Buckets = make([]uint64, len(c.Buckets))
	}
	for i := range c.Buckets {
		t.Buckets[i] += c.Buckets[i].Load()
	}
}

func (a *API) traffic(w http.ResponseWriter, r *http.Request) error {
	s := a.d.Status()
	v := TrafficView{At: s.Uptime, Started: s.Since, InFlight: s.Calls.InFlight, Bounds: gateway.Bounds[:], Rows: []TrafficRow{}, Faults: map[string]uint64{}}
	q := r.URL.Query()
	if api := q.Get("api"); api != "" {
		v.Rows = a.operationRows(api, q.Get("version"))
		v.Other.Buckets = []uint64{}
	} else {
		v.Rows, v.Other = a.apiRows()
	}
	for i := range v.Rows {
		if v.Rows[i].Buckets == nil {
			v.Rows[i].Buckets = []uint64{}
		}
	}
	if v.Other.Buckets == nil {
		v.Other.Buckets = []uint64{}
	}
	a.d.Gateway.Stats().Codes(func(code uint32, n uint64) { v.Faults[strconv.FormatUint(uint64(code), 10)] = n })
	writeJSON(w, http.StatusOK, v)
	return nil
}

// apiRows adds the operations of each API up. An API that is no longer served keeps its row.
func (a *API) apiRows() (rows []TrafficRow, other TrafficRow) {
	at := map[[2]string]int{}
	rows = []TrafficRow{}
	a.d.Gateway.Stats().Each(func(o *gateway.OpStats) {
		if o.API == "" {
			other.add(o)
			return
		}
		k := [2]string{o.API, o.Version}
		i, ok := at[k]
		if !ok {
			i = len(rows)
			at[k] = i
			rows = append(rows, TrafficRow{API: o.API, Version: o.Version})
		}
		rows[i].add(o)
	})
	return rows, other
}

func (a *API) operationRows(api, version string) []TrafficRow {
	rows := []TrafficRow{}
	a.d.Gateway.Stats().Each(func(o *gateway.OpStats) {
		if o.API == api && (version == "" || o.Version == version) {
			t := TrafficRow{API: o.API, Version: o.Version, Method: o.Method, Template: o.Template}
			t.add(o)
			rows = append(rows, t)
		}
	})
	return rows
}

// The series of the last hour.
const (
	seriesStep = 10 * time.Second
	seriesLen  = 360
)

// A series holds what the whole device answered in each step of the last hour.
type series struct {
	mu     sync.Mutex
	points []Point // a ring
	next   int
	last   totals
}

type totals struct {
	answers, throttled, client, server uint64
	micros                             uint64
	buckets                            [len(gateway.Bounds) + 1]uint64
}

// Point is one step.
type Point struct {
	Calls     uint64  `json:"calls"`
	Throttled uint64  `json:"throttled"` // 429
	Client    uint64  `json:"client_errors"`
	Server    uint64  `json:"server_errors"`
	MeanMS    float64 `json:"mean_ms"`
	P95MS     float64 `json:"p95_ms"`
}

// Run keeps the series of the last hour until ctx ends.
func (a *API) Run(ctx context.Context) error {
	tick := time.NewTicker(seriesStep)
	defer tick.Stop()
	a.series.last = a.totals()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			a.series.add(a.totals())
		}
	}
}

func (a *API) totals() (t totals) {
	add := func(o *gateway.OpStats) {
		c := o.Counts()
		for i := range c.Classes {
			n := c.Classes[i].Load()
			t.answers += n
			switch i {
			case 4:
				t.client += n
			case 5:
				t.server += n
			}
		}
		t.micros += c.Micros.Load()
		for i := range c.Buckets {
			t.buckets[i] += c.Buckets[i].Load()
		}
	}
	a.d.Gateway.Stats().Each(add)
	a.d.Gateway.Stats().Codes(func(code uint32, n uint64) {
		if throttles(code) {
			t.throttled += n
		}
	})
	return t
}

// throttles reports whether a fault code is that of a limit (WSO2's 9008xx).
func throttles(code uint32) bool { return code >= 900800 && code < 900900 }

func (s *series) add(t totals) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := Point{Calls: t.answers - s.last.answers, Throttled: t.throttled - s.last.throttled, Client: t.client - s.last.client, Server: t.server - s.last.server}
	if p.Calls > 0 {
		p.MeanMS = round(float64(t.micros-s.last.micros) / float64(p.Calls) / 1000)
		var b [len(gateway.Bounds) + 1]uint64
		for i := range b {
			b[i] = t.buckets[i] - s.last.buckets[i]
		}
		p.P95MS = round(quantile(b[:], 0.95) * 1000)
	}
	s.last = t
	if len(s.points) < seriesLen {
		s.points = append(s.points, p)
		return
	}
	s.points[s.next] = p
	s.next = (s.next + 1) % seriesLen
}

func round(f float64) float64 { return math.Round(f*1000) / 1000 }

// quantile returns the seconds below which a share q of the calls lie, by a straight line
// within the bucket. The last bucket has no end: its begin is returned.
func quantile(buckets []uint64, q float64) float64 {
	var n uint64
	for _, b := range buckets {
		n += b
	}
	if n == 0 {
		return 0
	}
	rank, seen := q*float64(n), 0.0
	for i, b := range buckets {
		if seen+float64(b) < rank || b == 0 {
			seen += float64(b)
			continue
		}
		low := 0.0
		if i > 0 {
			low = gateway.Bounds[i-1]
		}
		if i == len(gateway.Bounds) {
			return low
		}
		return low + (gateway.Bounds[i]-low)*(rank-seen)/float64(b)
	}
	return gateway.Bounds[len(gateway.Bounds)-1]
}

// SeriesView is the last hour.
type SeriesView struct {
	Step   float64 `json:"step_seconds"`
	Points []Point `json:"points"` // oldest first
}

func (a *API) history1h(w http.ResponseWriter, _ *http.Request) error {
	a.series.mu.Lock()
	v := SeriesView{Step: seriesStep.Seconds(), Points: append(append([]Point{}, a.series.points[a.series.next:]...), a.series.points[:a.series.next]...)}
	a.series.mu.Unlock()
	writeJSON(w, http.StatusOK, v)
	return nil
}

func (a *API) backends(w http.ResponseWriter, _ *http.Request) error {
	out := []BackendView{}
	for _, b := range a.d.Gateway.Backends() {
		out = append(out, BackendView{Group: b.Group, URL: b.URL, State: b.State, InFlight: b.InFlight, Connections: b.Active + b.Idle, Waiting: b.Waiting, Dialed: b.Dialed, Failures: b.Failures})
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// BackendView is one backend as one group uses it.
type BackendView struct {
	Group       string `json:"group"`
	URL         string `json:"url"`
	State       string `json:"state"` // up, down, open, half-open, ejected
	InFlight    int64  `json:"in_flight"`
	Connections int    `json:"connections"`
	Waiting     int    `json:"waiting"`
	Dialed      int64  `json:"dialed"`
	Failures    uint32 `json:"failures_in_a_row"`
}
