package admin

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"tidegate/appliance/gateway"
)

// logins counts sign-ins by result, since the start.
type logins struct{ right, wrong, throttled atomic.Uint64 }

// metrics answers in the Prometheus text format 0.0.4.
//
// Labels hold only what signed bundles and the program itself name: no part of a request
// ever becomes one. Operations that were never called have no series.
func (a *API) metrics(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	buf := bufio.NewWriterSize(w, 32<<10)
	e := &exposition{w: buf}
	s := a.d.Status()
	a.traceCalls(e)
	a.traceBackends(e)
	a.traceLimits(e, &s)
	traceEvents(e, &s)
	traceDevice(e, &s)
	traceMachine(e, &s)
	e.head("tidegate_admin_logins_total", "counter", "Sign-ins to the page by result.")
	e.count("tidegate_admin_logins_total", a.logins.right.Load(), label{"result", "right"})
	e.count("tidegate_admin_logins_total", a.logins.throttled.Load(), label{"result", "throttled"})
	e.count("tidegate_admin_logins_total", a.logins.wrong.Load(), label{"result", "wrong"})
	return buf.Flush()
}

// An exposition writes families of the text format: one head, then its samples.
type exposition struct{ w io.Writer }

func (e *exposition) head(name, kind, help string) {
	fmt.Fprintf(e.w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) //nolint:errcheck // Flush reports it
}

// label is a name and its value; values are quoted as the format wants.
type label struct{ name, value string }

// series is the name of a sample with its labels.
func seriesName(name string, labels ...label) string {
	if len(labels) == 0 {
		return name
	}
	b := []byte(name)
	for i, l := range labels {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		b = append(append(append(b, sep), l.name...), '=')
		b = appendQuoted(b, l.value)
	}
	return string(append(b, '}'))
}

// appendQuoted escapes what the text format escapes: backslash, quote and line end. What
// is not UTF-8 becomes U+FFFD.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch r {
		case '\\', '"':
			b = append(b, '\\', byte(r))
		case '\n':
			b = append(b, '\\', 'n')
		default:
			b = append(b, string(r)...)
		}
	}
	return append(b, '"')
}

// count writes a sample that is a whole number.
func (e *exposition) count(name string, v uint64, labels ...label) {
	fmt.Fprintf(e.w, "%s %d\n", seriesName(name, labels...), v) //nolint:errcheck // Flush reports it
}

// value writes a sample.
func (e *exposition) value(name string, v float64, labels ...label) {
	fmt.Fprintf(e.w, "%s %s\n", seriesName(name, labels...), strconv.FormatFloat(v, 'g', -1, 64)) //nolint:errcheck // Flush reports it
}

func (e *exposition) counter(name, help string, v uint64, labels ...label) {
	if help != "" {
		e.head(name, "counter", help)
	}
	e.count(name, v, labels...)
}

func (e *exposition) gauge(name, help string, v float64, labels ...label) {
	if help != "" {
		e.head(name, "gauge", help)
	}
	e.value(name, v, labels...)
}

// flag is a gauge of 0 or 1.
func (e *exposition) flag(name, help string, on bool, labels ...label) {
	v := 0.0
	if on {
		v = 1
	}
	e.gauge(name, help, v, labels...)
}

// traceCalls writes rate, errors and duration: counts per operation, histograms per API.
func (a *API) traceCalls(e *exposition) {
	stats := a.d.Gateway.Stats()
	e.head("tidegate_requests_total", "counter", "Calls answered, by operation of the bundle and class of the status.")
	stats.Each(func(o *gateway.OpStats) {
		c := o.Counts()
		for class := range c.Classes {
			if n := c.Classes[class].Load(); n > 0 {
				e.counter("tidegate_requests_total", "", n, label{"api", o.API}, label{"version", o.Version}, label{"method", o.Method},
					label{"template", o.Template}, label{"class", className(class)})
			}
		}
	})
	e.head("tidegate_request_seconds_total", "counter", "Time spent on calls, by operation of the bundle.")
	stats.Each(func(o *gateway.OpStats) {
		if n := o.Counts().Micros.Load(); n > 0 {
			e.value("tidegate_request_seconds_total", float64(n)/1e6, label{"api", o.API}, label{"version", o.Version},
				label{"method", o.Method}, label{"template", o.Template})
		}
	})
	rows, other := a.apiRows()
	e.head("tidegate_request_duration_seconds", "histogram", "Duration of calls, by API. Calls that matched no API have an empty one.")
	for _, t := range append(rows, other) {
		e.histogram("tidegate_request_duration_seconds", &t)
	}
	e.head("tidegate_refusals_total", "counter", "Calls refused by the device, by code of the answer's body: 9008xx limits, 9009xx authentication, 1xxxxx backends.")
	counts := map[uint32]uint64{}
	stats.Codes(func(code uint32, n uint64) { counts[code] = n })
	for _, code := range sortedCodes(counts) {
		e.counter("tidegate_refusals_total", "", counts[code], label{"code", strconv.FormatUint(uint64(code), 10)}, label{"kind", kindOf(code)})
	}
	held, most := a.d.Gateway.Tokens()
	remembered, checked := stats.Authenticated()
	e.head("tidegate_token_cache_total", "counter", "Authenticated calls, by whether the credential was remembered.")
	e.counter("tidegate_token_cache_total", "", remembered, label{"result", "hit"})
	e.counter("tidegate_token_cache_total", "", checked, label{"result", "miss"})
	e.gauge("tidegate_token_cache_entries", "Verified tokens remembered.", float64(held))
	e.gauge("tidegate_token_cache_limit", "Verified tokens that may be remembered.", float64(most))
	r := a.d.Gateway.Responses()
	e.head("tidegate_response_cache_total", "counter", "Looks into the response cache by what came of them; collapsed ones waited for the answer to another call, stale ones served while the backend was away.")
	for _, c := range []struct {
		result string
		n      uint64
	}{{"hit", r.Hits}, {"miss", r.Misses}, {"validated", r.Validations}, {"collapsed", r.Collapsed}, {"stale", r.Offline}} {
		e.counter("tidegate_response_cache_total", "", c.n, label{"result", c.result})
	}
	e.gauge("tidegate_response_cache_entries", "Answers stored.", float64(r.Entries))
	e.gauge("tidegate_response_cache_bytes", "Memory of the answers stored.", float64(r.Bytes))
}

func className(class int) string {
	if class == 0 {
		return "none"
	}
	return strconv.Itoa(class) + "xx"
}

// kindOf groups the fault codes.
func kindOf(code uint32) string {
	switch {
	case throttles(code):
		return "limit"
	case code >= 900900 && code < 901000:
		return "auth"
	case code >= 101000 && code < 310000:
		return "upstream"
	}
	return "protocol"
}

func sortedCodes(m map[uint32]uint64) []uint32 {
	codes := make([]uint32, 0, len(m))
	for c := range m {
		codes = append(codes, c)
	}
	slices.Sort(codes)
	return codes
}

func (e *exposition) histogram(name string, t *TrafficRow) {
	if len(t.Buckets) == 0 {
		return
	}
	api, version := label{"api", t.API}, label{"version", t.Version}
	var sum uint64
	for i, n := range t.Buckets {
		sum += n
		le := "+Inf"
		if i < len(gateway.Bounds) {
			le = strconv.FormatFloat(gateway.Bounds[i], 'g', -1, 64)
		}
		e.count(name+"_bucket", sum, api, version, label{"le", le})
	}
	e.value(name+"_sum", float64(t.Micros)/1e6, api, version)
	e.count(name+"_count", sum, api, version)
}

// traceBackends writes the state of backends and breakers.
func (a *API) traceBackends(e *exposition) {
	list := a.d.Gateway.Backends()
	labels := func(i int) []label { return []label{{"group", list[i].Group}, {"url", list[i].URL}} }
	seen := map[[2]string]bool{} // a URL twice in one group is one backend
	first := list[:0:0]
	for _, b := range list {
		if k := [2]string{b.Group, b.URL}; !seen[k] {
			seen[k] = true
			first = append(first, b)
		}
	}
	list = first
	family := func(name, kind, help string, v func(i int) float64) {
		e.head(name, kind, help)
		for i := range list {
			e.value(name, v(i), labels(i)...)
		}
	}
	family("tidegate_backend_up", "gauge", "1 while a backend takes calls; 0 while a health check, a breaker or ejection keeps them away.", func(i int) float64 {
		if list[i].State == "up" || list[i].State == "half-open" {
			return 1
		}
		return 0
	})
	family("tidegate_backend_breaker_open", "gauge", "0 closed, 0.5 half-open, 1 open.", func(i int) float64 {
		return map[string]float64{"open": 1, "half-open": 0.5}[list[i].State]
	})
	family("tidegate_backend_in_flight", "gauge", "Calls at a backend.", func(i int) float64 { return float64(list[i].InFlight) })
	family("tidegate_backend_connections", "gauge", "Open connections to a backend.", func(i int) float64 { return float64(list[i].Active + list[i].Idle) })
	family("tidegate_backend_waiting", "gauge", "Calls that wait for a connection.", func(i int) float64 { return float64(list[i].Waiting) })
	family("tidegate_backend_dials_total", "counter", "Connections opened to a backend.", func(i int) float64 { return float64(list[i].Dialed) })
}

func (a *API) traceLimits(e *exposition, s *Status) {
	c := &s.Limits
	e.gauge("tidegate_counters", "Counts of limits in memory.", float64(c.Keys))
	e.gauge("tidegate_counters_limit", "Counts that there is room for.", float64(c.Capacity))
	e.counter("tidegate_counters_shared_calls_total", "Calls counted on a shared counter because the table was full.", uint64(c.Shared))
	e.counter("tidegate_counters_stalls_total", "Calls refused because no durable unit came in time.", uint64(c.Stalls))
	e.counter("tidegate_counters_written_bytes_total", "Bytes that counters gave to the flash, estimated.", uint64(c.Written))
	e.gauge("tidegate_counters_flush_seconds", "Seconds between two commits of counters.", c.Period)
	e.flag("tidegate_counters_durable", "1 while counts can be made durable.", c.Error == "")
}

func traceEvents(e *exposition, s *Status) {
	q := &s.Events
	e.gauge("tidegate_events_stored", "Recorded calls in the queue.", float64(q.Calls))
	e.gauge("tidegate_events_in_memory", "Recorded calls that are not yet on disk.", float64(q.Waiting))
	e.gauge("tidegate_events_batches", "Batches in the queue.", float64(q.Batches))
	e.gauge("tidegate_events_bytes", "Bytes of the queue.", float64(q.Bytes))
	e.gauge("tidegate_events_limit_bytes", "Bytes above which the oldest are dropped.", float64(q.Cap))
	e.head("tidegate_events_lost_total", "counter", "Recorded calls lost, by reason.")
	for _, reason := range lossReasons() {
		e.counter("tidegate_events_lost_total", "", q.Lost[reason], label{"reason", reason})
	}
	e.flag("tidegate_events_writing", "1 while the queue can be written.", q.Error == "")
	if l := s.Link; l != nil {
		traceLink(e, l)
	}
}

// traceLink writes how the link to the fleet is.
func traceLink(e *exposition, l *Link) {
	e.flag("tidegate_sync_connected", "1 while the link to the fleet is open and somebody answers.", l.State == "connected")
	e.flag("tidegate_sync_publisher_answers", "1 while somebody answers for bundles.", l.Publisher)
	e.flag("tidegate_sync_collector_answers", "1 while somebody acknowledges events.", l.Collector)
	contact := 0.0
	if l.Contact != nil {
		contact = float64(l.Contact.Unix())
	}
	e.gauge("tidegate_sync_contact_timestamp_seconds", "When somebody answered last, seconds since 1970 by the system clock; 0 for not since the start.", contact)
	e.gauge("tidegate_sync_state_timestamp_seconds", "Since when the link is as it is, seconds since 1970 by the system clock.", float64(l.Since.Unix()))
	e.counter("tidegate_sync_batches_sent_total", "Batches of events sent.", l.Sent)
	e.counter("tidegate_sync_batches_repeated_total", "Batches of events sent again.", l.Repeated)
	e.counter("tidegate_sync_batches_acknowledged_total", "Batches of events acknowledged by the fleet.", l.Acked)
	e.gauge("tidegate_sync_batches_in_flight", "Batches of events that wait for an acknowledgement.", float64(l.Unacked))
	e.counter("tidegate_sync_acknowledgements_refused_total", "Acknowledgements whose signature or number was wrong.", l.BadAcks)
	e.gauge("tidegate_sync_today_bytes", "Bytes over the link since midnight UTC.", float64(l.Today))
}

func traceDevice(e *exposition, s *Status) {
	e.head("tidegate_info", "gauge", "What runs here.")
	e.gauge("tidegate_info", "", 1, label{"version", s.Build.Version}, label{"commit", s.Build.Commit}, label{"platform", s.Build.Platform}, label{"device", s.Device})
	e.flag("tidegate_ready", "1 while the device serves.", s.Ready)
	e.gauge("tidegate_start_time_seconds", "Start of the process, seconds since 1970 by the system clock.", float64(s.Since.UnixMilli())/1000)
	e.head("tidegate_mode", "gauge", "1 for the mode of the store; any but normal means that nothing is written.")
	e.gauge("tidegate_mode", "", 1, label{"mode", s.Mode})
	e.head("tidegate_bundle_state", "gauge", "1 for the state of the bundle.")
	for _, state := range []string{"none", "trial", "confirmed", "safe-mode"} {
		e.flag("tidegate_bundle_state", "", s.Bundle.State == state, label{"state", state})
	}
	var seq, expires float64
	if b := s.Bundle.Serving; b != nil {
		seq = float64(b.Seq)
		if b.Expires != nil {
			expires = float64(b.Expires.Unix())
		}
	}
	e.gauge("tidegate_bundle_seq", "Number of the bundle that serves; 0 for none.", seq)
	e.gauge("tidegate_bundle_expires_timestamp_seconds", "When the bundle that serves expires as a new one; 0 for never.", expires)
	e.gauge("tidegate_trust_root_version", "Version of the trust root; 0 for none.", float64(s.Trust.Root))
	e.flag("tidegate_trust_locked", "1 while updates are refused as a whole.", s.Trust.Locked != "")
	e.gauge("tidegate_alarms", "Alarms that need a person.", float64(len(s.Alarms)))
	e.head("tidegate_clock_state", "gauge", "1 for the state of the clock.")
	for _, state := range []string{"SYNCED", "HOLDOVER", "UNSYNCED"} {
		e.flag("tidegate_clock_state", "", s.Clock.State == state, label{"state", state})
	}
	e.gauge("tidegate_clock_floor_timestamp_seconds", "The time that has surely passed.", float64(s.Clock.Floor.Unix()))
	e.gauge("tidegate_in_flight", "Calls being served.", float64(s.Calls.InFlight))
	e.gauge("tidegate_connections", "Connections of clients.", float64(s.Calls.Open))
	e.counter("tidegate_connections_refused_total", "Requests refused because of their form.", uint64(s.Calls.Refused))
}

func traceMachine(e *exposition, s *Status) {
	m := &s.Machine
	e.gauge("tidegate_memory_resident_bytes", "Memory of the process.", float64(m.Resident))
	e.gauge("tidegate_memory_heap_bytes", "Heap in use.", float64(s.Process.Heap))
	e.gauge("tidegate_memory_limit_bytes", "What the process may use before the collector works harder.", float64(s.Process.Limit))
	e.gauge("tidegate_goroutines", "Goroutines.", float64(s.Process.Goroutines))
	e.gauge("tidegate_disk_free_bytes", "Free space of the data partition.", float64(m.DiskFree))
	e.gauge("tidegate_disk_size_bytes", "Size of the data partition.", float64(m.DiskTotal))
	e.counter("tidegate_disk_written_bytes_total", "Bytes that the process gave to block devices.", uint64(max(m.Written, 0)))
	if m.WornPercent >= 0 {
		e.gauge("tidegate_disk_worn_ratio", "Share of its life that the eMMC says it has used.", float64(m.WornPercent)/100)
	}
	e.counter("tidegate_access_log_lost_total", "Lines of the access log that nobody took in time.", m.AccessLost)
}
