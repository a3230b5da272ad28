package admin

import (
	"encoding/hex"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"tidegate/appliance/wire"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"time"
)

// Recent keeps the newest calls in memory while somebody looks at them, so that the page
// shows a call at once and not when its batch is written. While nobody looks it costs a
// call one atomic load. It is a gateway.AccessLog; methods are safe for concurrent use.
type Recent struct {
	form events.AddressForm

	until atomic.Int64 // seconds since begin: calls are kept until then
	begin time.Time

	mu    sync.Mutex
	since time.Time // no call was missed from here on
	ring  []CallView
	next  int
}

const (
	recentCalls = 256
	lookFor     = time.Minute // after the last look
)

// NewRecent returns an empty Recent. Client addresses are kept in the given form.
func NewRecent(form events.AddressForm) *Recent { return &Recent{form: form, begin: time.Now()} }

func (r *Recent) clock() int64 { return int64(time.Since(r.begin) / time.Second) }

// Log takes one call.
func (r *Recent) Log(_ wire.Exchange, e *events.Event) {
	if r.until.Load() <= r.clock() {
		return
	}
	v := callView(e)
	v.Client = address1(r.form, e.Client)
	// The strings may be views of buffers that are used again.
	for _, s := range []*string{&v.API, &v.Version, &v.Method, &v.Template, &v.Application, &v.User, &v.Plan, &v.Upstream} {
		*s = strings.Clone(*s)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ring) < recentCalls {
		r.ring = append(r.ring, v)
		return
	}
	r.ring[r.next] = v
	r.next = (r.next + 1) % recentCalls
	r.since = r.ring[r.next].Time
}

// look returns what is kept, newest first, and from when on that is complete. It keeps
// calls for a minute from now.
func (r *Recent) look() ([]CallView, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock()
	if r.until.Load() <= now { // calls were missed since the last look
		r.ring, r.next, r.since = nil, 0, time.Now()
	}
	r.until.Store(now + int64(lookFor/time.Second))
	out := make([]CallView, 0, len(r.ring))
	for i := range r.ring {
		out = append(out, r.ring[(r.next+len(r.ring)-1-i)%len(r.ring)])
	}
	return out, r.since
}

func address1(form events.AddressForm, a netip.Addr) string {
	if !a.IsValid() || form == events.AddressNone {
		return ""
	}
	a = a.Unmap()
	if form == events.AddressPrefix {
		bits := 24
		if a.Is6() {
			bits = 48
		}
		if p, err := a.WithZone("").Prefix(bits); err == nil {
			return p.Addr().String()
		}
	}
	return a.String()
}

// CallView is one recorded call.
type CallView struct {
	Time        time.Time `json:"time"`
	API         string    `json:"api,omitempty"`
	Version     string    `json:"version,omitempty"`
	Method      string    `json:"method,omitempty"`
	Template    string    `json:"template,omitempty"`
	Status      uint16    `json:"status"`
	Fault       uint32    `json:"fault,omitempty"`
	RefusedBy   string    `json:"refused_by,omitempty"`
	Application string    `json:"application,omitempty"`
	User        string    `json:"user,omitempty"`
	Plan        string    `json:"plan,omitempty"`
	Client      string    `json:"client,omitempty"`
	Protocol    string    `json:"protocol"`
	Upstream    string    `json:"upstream,omitempty"`
	Retries     uint8     `json:"retries,omitempty"`
	TotalUS     int64     `json:"total_us"`
	BackendUS   int64     `json:"backend_us"`
	BytesIn     uint64    `json:"bytes_in"`
	BytesOut    uint64    `json:"bytes_out"`
	RequestID   string    `json:"request_id,omitempty"`
	TraceID     string    `json:"trace_id,omitempty"`
}

func callView(e *events.Event) CallView {
	return CallView{
		Time: e.Time.UTC(), API: e.API, Version: e.Version, Method: e.Method, Template: e.Template, Status: e.Status, Fault: e.Fault,
		RefusedBy: e.Level.String(), Application: e.ApplicationName, User: e.User, Plan: e.Plan, Protocol: e.Protocol.String(), Upstream: e.Upstream,
		Retries: e.Retries, TotalUS: e.Total.Microseconds(), BackendUS: e.Backend.Microseconds(), BytesIn: e.BytesIn, BytesOut: e.BytesOut,
		RequestID: idText(e.RequestID), TraceID: idText(e.TraceID),
	}
}

func idText(b [16]byte) string {
	if b == [16]byte{} {
		return ""
	}
	return hex.EncodeToString(b[:])
}

// CallsView are the newest calls that fit a search.
type CallsView struct {
	Calls   []CallView `json:"calls"`   // newest first
	Scanned int        `json:"scanned"` // calls that were looked at
	More    bool       `json:"more"`    // older ones were not looked at
}

// A search is what calls are looked for by.
type search struct {
	text, api, status string
}

func (s *search) fits(v *CallView) bool {
	if s.api != "" && v.API != s.api {
		return false
	}
	code := strconv.Itoa(int(v.Status))
	if s.status != "" && code != s.status && (len(s.status) != 3 || s.status[1:] != "xx" || code[:1] != s.status[:1]) {
		return false
	}
	if s.text == "" {
		return true
	}
	for _, f := range []string{v.API, v.Template, v.Method, v.Application, v.User, v.Plan, v.Client, v.RefusedBy, v.Upstream, v.RequestID, v.TraceID, strconv.FormatUint(uint64(v.Fault), 10), code} {
		if strings.Contains(strings.ToLower(f), s.text) {
			return true
		}
	}
	return false
}

// maxScan bounds the batches that one search reads; each holds at most 4,096 calls.
const maxScan = 64

// calls answers with the newest calls that fit, newest first: those in memory, then those
// on disk before them. Nothing is written for it.
func (a *API) calls(w http.ResponseWriter, r *http.Request) error {
	limit, err := number(r, "limit", 100)
	if err != nil {
		return err
	}
	limit = min(max(limit, 1), 1000)
	q := r.URL.Query()
	s := search{text: strings.ToLower(q.Get("q")), api: q.Get("api"), status: q.Get("status")}
	v := CallsView{Calls: []CallView{}}
	recent, since := a.d.Recent.look()
	for i := range recent {
		if v.Scanned++; s.fits(&recent[i]) && len(v.Calls) < limit {
			v.Calls = append(v.Calls, recent[i])
		}
	}
	if err := a.stored(&v, &s, since, limit); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, v)
	return nil
}

// stored adds the calls on disk that began before a time, newest batch first.
func (a *API) stored(v *CallsView, s *search, before time.Time, limit int) error {
	select {
	case <-a.d.EventsOpen:
	default:
		return nil // the queue is still being checked
	}
	st := a.d.Events.Status().Classes[0]
	scanned := 0
	for seq := st.Head; seq > st.Acked && len(v.Calls) < limit; seq-- {
		if scanned++; scanned > maxScan {
			v.More = true
			return nil
		}
		list, err := a.d.Events.Read(events.Cursor{Class: batch.Detail, Epoch: st.Epoch, Seq: seq - 1}, 1)
		if err != nil {
			return err
		}
		if len(list) == 0 || list[0].Seq != seq {
			continue // released or dropped meanwhile
		}
		var found []CallView
		for e, err := range list[0].Events() {
			if err != nil {
				return err
			}
			if !e.Time.Before(before) {
				continue
			}
			c := callView(e)
			c.Client = address1(events.AddressFull, e.Client)
			if v.Scanned++; s.fits(&c) {
				found = append(found, c)
			}
		}
		// A batch is not in order of time: each core hands in its own calls.
		slices.SortStableFunc(found, func(x, y CallView) int { return y.Time.Compare(x.Time) })
		v.Calls = append(v.Calls, found[:min(len(found), limit-len(v.Calls))]...)
	}
	return nil
}

// LogLine is one line of the log.
type LogLine struct {
	Time  time.Time `json:"time"`
	Level string    `json:"level"`
	Text  string    `json:"text"`
}

func (a *API) logs(w http.ResponseWriter, r *http.Request) error {
	n, err := number(r, "limit", 200)
	if err != nil {
		return err
	}
	out := []LogLine{}
	if a.d.Lines != nil {
		for _, l := range a.d.Lines.Tail(n) {
			out = append(out, LogLine{l.Time.UTC(), l.Level.String(), l.Text})
		}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// accessLines answers with what is kept of the access log, oldest first, in its own form.
func (a *API) accessLines(w http.ResponseWriter, _ *http.Request) error {
	if a.d.Access == nil {
		return &statusError{status: http.StatusConflict, text: "no access log is kept in memory", hint: "set log.access and log.access_memory"}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(a.d.Access.Lines()) // the client is gone
	return nil
}
