// Package admin is how people and programs look at a running device and tell it what to
// do: a JSON API over HTTP, on a unix socket for the commands and on the admin listener
// for the page, with metrics and health beside it.
//
// It decides nothing: bundles, roots and trials are the intake desk's. What it serves
// off the socket is read-only until somebody has signed in.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"tidegate/appliance/gateway"
	"tidegate/policy"
	"tidegate/policy/refusal"
	"tidegate/policy/throttle"
	"tidegate/store"
	"tidegate/store/audit"
	"tidegate/store/counters"
	"tidegate/store/events"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/intake"
	"tidegate/sync/trust"
)

// A Device is what the API shows and works on.
type Device struct {
	Status  func() Status
	Ready   func() bool
	Desk    *intake.Desk
	Gateway *gateway.Gateway
	Ledger  *counters.Ledger
	Events  *events.Log
	// EventsOpen is closed when the queue has its file: until then there is nothing to export.
	EventsOpen <-chan struct{}
	State      *store.DB
	Audit      func(audit.Entry) error // records what a person did
	Instant    func() throttle.Instant
	Enrol      func() ([]byte, error) // a signed enrolment request
	Log        *slog.Logger
}

// API is the JSON API. It is an http.Handler for the unix socket, whose file's permissions
// say who may use it.
type API struct {
	d   Device
	mux *http.ServeMux
}

// maxUpload bounds a request body: the largest bundle and its head.
const maxUpload = bundle.MaxContent + 2*bundle.MaxMetaset

// New returns the API of a device.
func New(d Device) *API {
	a := &API{d: d, mux: http.NewServeMux()}
	for pattern, fn := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /v1/status":          a.status,
		"GET /v1/apis":            a.apis,
		"GET /v1/counters":        a.counters,
		"POST /v1/counters/reset": a.resetCounter,
		"GET /v1/history":         a.history,
		"GET /v1/history/export":  a.exportHistory,
		"GET /v1/events":          a.events,
		"POST /v1/plan":           a.plan,
		"POST /v1/apply":          a.apply,
		"POST /v1/confirm":        a.confirm,
		"POST /v1/rollback":       a.rollback,
		"GET /v1/trust":           a.trust,
		"POST /v1/trust":          a.installTrust,
		"GET /v1/enrol":           a.enrol,
	} {
		a.mux.Handle(pattern, a.handle(fn))
	}
	a.mux.HandleFunc("GET /healthz/live", a.live)
	a.mux.HandleFunc("GET /healthz/ready", a.ready)
	return a
}

// ServeHTTP serves the API.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxUpload)
	a.mux.ServeHTTP(w, r)
}

// A Fault is the body of a refusal.
type Fault struct {
	Error string `json:"error"`
	Code  string `json:"code,omitempty"`
	Hint  string `json:"hint,omitempty"`
	Exit  int    `json:"exit"`
}

// handle turns the error of fn into a Fault.
func (a *API) handle(fn func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := fn(w, r)
		if err == nil {
			return
		}
		word, _ := refusal.Of(err)
		status := http.StatusInternalServerError
		var bad *badRequestError
		switch {
		case word == refusal.Busy:
			status = http.StatusConflict
		case word != "":
			status = http.StatusUnprocessableEntity
		case errors.As(err, &bad):
			status = http.StatusBadRequest
		}
		writeJSON(w, status, Fault{Error: err.Error(), Code: string(word), Hint: refusal.Hint(err), Exit: refusal.ExitCode(err)})
	})
}

// badRequestError is a request that is wrong by itself.
type badRequestError struct{ err error }

func (e *badRequestError) Error() string { return e.err.Error() }

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // the client is gone
}

func (a *API) live(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "healthy"})
}

func (a *API) ready(w http.ResponseWriter, _ *http.Request) {
	if !a.d.Ready() {
		writeJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "not ready"})
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}

func (a *API) status(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, a.d.Status())
	return nil
}

// APIView is one API that is served.
type APIView struct {
	Name       string          `json:"name"`
	Version    string          `json:"version"`
	BasePath   string          `json:"base_path"`
	Default    string          `json:"default_path,omitempty"`
	Plan       string          `json:"plan,omitempty"`
	Production string          `json:"production,omitempty"` // name of the endpoint group
	Sandbox    string          `json:"sandbox,omitempty"`
	Operations []OperationView `json:"operations"`
}

// OperationView is one operation with its counts since the start.
type OperationView struct {
	Method   string            `json:"method"`
	Template string            `json:"template"`
	ID       string            `json:"operation_id,omitempty"`
	Secured  bool              `json:"secured"`
	Scopes   []string          `json:"scopes,omitempty"`
	Plan     string            `json:"plan,omitempty"`
	Answers  map[string]uint64 `json:"answers"` // by class: "2xx"
	MeanMS   float64           `json:"mean_ms"`
}

func (a *API) apis(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, APIs(a.d.Gateway))
	return nil
}

// APIs describes what a gateway serves.
func APIs(g *gateway.Gateway) []APIView {
	out := []APIView{}
	set := g.Active()
	if set == nil {
		return out
	}
	counts := map[string]*gateway.OpStats{}
	g.Stats().Each(func(o *gateway.OpStats) { counts[o.API+"\x00"+o.Version+"\x00"+o.Method+"\x00"+o.Template] = o })
	group := func(r policy.EndpointRef) string {
		if r == 0 {
			return ""
		}
		return set.Endpoints[r-1].Name
	}
	for i := range set.APIs {
		p := &set.APIs[i]
		v := APIView{Name: p.Name, Version: p.Version, BasePath: orRoot(p.BasePath), Default: p.DefaultPath, Plan: p.Plan, Production: group(p.Production), Sandbox: group(p.Sandbox), Operations: []OperationView{}}
		for k := range p.Operations {
			o := &p.Operations[k]
			ov := OperationView{Method: o.Method, Template: o.Template, ID: o.ID, Secured: len(o.Security) > 0, Scopes: o.Scopes, Plan: o.Plan, Answers: map[string]uint64{}}
			if c := counts[p.Name+"\x00"+p.Version+"\x00"+o.Method+"\x00"+o.Template]; c != nil {
				var n uint64
				for class := range c.Classes {
					if k := c.Classes[class].Load(); k > 0 {
						ov.Answers[strconv.Itoa(class)+"xx"] = k
						n += k
					}
				}
				if n > 0 {
					ov.MeanMS = float64(c.Micros.Load()) / float64(n) / 1000
				}
			}
			v.Operations = append(v.Operations, ov)
		}
		out = append(out, v)
	}
	return out
}

func orRoot(p string) string {
	if p == "" {
		return "/"
	}
	return p
}

// CounterView is one count of a limit.
type CounterView struct {
	Key     string     `json:"key"`
	Plan    string     `json:"plan,omitempty"`
	Level   string     `json:"level,omitempty"`
	Kind    string     `json:"kind,omitempty"`
	Limit   int64      `json:"limit"`
	Used    int64      `json:"used"`
	Durable int64      `json:"durable"` // units that are on disk
	Start   *time.Time `json:"window_start,omitempty"`
	End     *time.Time `json:"window_end,omitempty"`
	Shared  bool       `json:"shared,omitempty"`
}

func (a *API) counters(w http.ResponseWriter, r *http.Request) error {
	limit, err := number(r, "limit", 10_000)
	if err != nil {
		return err
	}
	plan := r.URL.Query().Get("plan")
	out := []CounterView{}
	a.d.Ledger.Rows(func(row counters.Row) bool {
		if plan != "" && row.Plan != plan {
			return true
		}
		v := CounterView{Key: row.Key.String(), Plan: row.Plan, Limit: row.Limit, Used: row.Used, Durable: row.Durable, Shared: row.Shared}
		if row.Plan != "" {
			v.Level, v.Kind = row.Level.String(), row.Kind.String()
		}
		if !row.End.IsZero() {
			v.Start, v.End = &row.Start, &row.End
		}
		out = append(out, v)
		return len(out) < limit
	})
	slices.SortFunc(out, func(x, y CounterView) int {
		if c := strings.Compare(x.Plan, y.Plan); c != 0 {
			return c
		}
		return strings.Compare(x.Key, y.Key)
	})
	writeJSON(w, http.StatusOK, out)
	return nil
}

// number reads a whole number from the query.
func number(r *http.Request, name string, or int) (int, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return or, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, &badRequestError{errors.New(name + " is not a whole number")}
	}
	return n, nil
}

func (a *API) resetCounter(w http.ResponseWriter, r *http.Request) error {
	text := r.URL.Query().Get("key")
	key, err := throttle.ParseKey(text)
	if err != nil {
		return &badRequestError{err}
	}
	n, err := a.d.Ledger.Reset(a.d.Instant(), key)
	if err != nil {
		return err
	}
	if err := a.d.Audit(audit.Entry{Event: audit.Operator, Source: source(r), Detail: "counters reset: " + key.String()}); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"key": key.String(), "reset": n})
	return nil
}

// source says how a request came in, for the audit log.
func source(r *http.Request) string {
	if s, ok := r.Context().Value(sourceKey{}).(string); ok {
		return s
	}
	return "socket"
}

type sourceKey struct{}

// WithSource names how requests come in.
func WithSource(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, sourceKey{}, name)
}

// HistoryView is one entry of the audit log.
type HistoryView struct {
	N      uint64    `json:"n"`
	Floor  time.Time `json:"floor"`
	System time.Time `json:"system,omitzero"`
	Uptime float64   `json:"uptime_seconds"`
	Event  string    `json:"event"`
	Code   string    `json:"code,omitempty"`
	Digest string    `json:"digest,omitempty"`
	Source string    `json:"source,omitempty"`
	Detail string    `json:"detail,omitempty"`
	Count  uint64    `json:"count,omitempty"`
	Hash   string    `json:"hash"`
}

func (a *API) history(w http.ResponseWriter, r *http.Request) error {
	n, err := number(r, "limit", 100)
	if err != nil {
		return err
	}
	records, err := audit.Tail(a.d.State, min(n, 1000))
	if err != nil {
		return err
	}
	out := []HistoryView{}
	for _, e := range records {
		out = append(out, HistoryView{
			N: e.N, Floor: e.Floor.UTC(), System: e.Wall, Uptime: e.Uptime.Seconds(), Event: string(e.Event), Code: string(e.Word),
			Digest: hexOf(e.Digest), Source: e.Source, Detail: e.Detail, Count: e.Count, Hash: hexOf(e.Hash[:]),
		})
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (a *API) exportHistory(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/vnd.tidegate.audit+cbor-seq")
	_, err := audit.Export(a.d.State, w)
	return err
}

func (a *API) enrol(w http.ResponseWriter, _ *http.Request) error {
	b, err := a.d.Enrol()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/vnd.tidegate.enroll+cbor-seq")
	_, err = w.Write(b)
	return err
}

func (a *API) trust(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, a.d.Status().Trust)
	return nil
}

func (a *API) installTrust(w http.ResponseWriter, r *http.Request) error {
	file, err := io.ReadAll(io.LimitReader(r.Body, bundle.MaxRoots*envelope.MaxRoot+4096))
	if err != nil {
		return err
	}
	var print trust.Digest
	if s := r.URL.Query().Get("fingerprint"); s != "" {
		d, err := bundle.ParseDigest(s)
		if err != nil {
			return err
		}
		print = trust.Digest(d)
	}
	report, err := a.d.Desk.InstallRoot(r.Context(), file, print)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, OutcomeOf(report))
	return nil
}
