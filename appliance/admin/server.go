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
	"log/slog"
	"net/http"
	"strconv"
	"tidegate/appliance/accesslog"
	"tidegate/appliance/gateway"
	"tidegate/platform/logs"
	"tidegate/policy/refusal"
	"tidegate/policy/throttle"
	"tidegate/store"
	"tidegate/store/audit"
	"tidegate/store/counters"
	"tidegate/store/events"
	"tidegate/sync/bundle"
	"tidegate/sync/intake"
	"tidegate/sync/usbdrop/remote"
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
	Accounts   *Accounts
	Revoker    Revoker
	Recent     *Recent                                             // the newest calls
	Sync       func(ctx context.Context, wait bool) (*Link, error) // opens the link now
	Access     *accesslog.Ring                                     // the last lines of the access log; nil: none are kept
	Lines      *logs.Log                                           // the last lines of the log; nil: none are shown
	Facts      func() Facts
	Log        *slog.Logger
	// Stick looks into a volume that a helper holds, until it is let go.
	Stick func(ctx context.Context, name string, l *remote.Line) error
}

// API is the JSON API. It is an http.Handler for the unix socket, whose file's permissions
// say who may use it.
type API struct {
	d      Device
	mux    *http.ServeMux
	logins logins
	series series
}

// maxUpload bounds a request body: the largest bundle and its head.
const maxUpload = bundle.MaxContent + 2*bundle.MaxMetaset

// A route is one method and path of the API.
type route struct {
	pattern    string
	fn         func(http.ResponseWriter, *http.Request) error
	socketOnly bool // not on the admin listener, whoever has signed in
	harmless   bool // changes nothing, though it is a POST
}

// routes lists the API. openapi.json describes each of them.
func (a *API) routes() []route {
	return []route{
		{pattern: "GET /v1/status", fn: a.status},
		{pattern: "GET /v1/doctor", fn: a.doctor},
		{pattern: "GET /v1/apis", fn: a.apis},
		{pattern: "GET /v1/traffic", fn: a.traffic},
		{pattern: "GET /v1/series", fn: a.history1h},
		{pattern: "GET /v1/backends", fn: a.backends},
		{pattern: "GET /v1/counters", fn: a.counters},
		{pattern: "POST /v1/counters/reset", fn: a.resetCounter},
		{pattern: "GET /v1/history", fn: a.history},
		{pattern: "GET /v1/history/export", fn: a.exportHistory},
		{pattern: "GET /v1/events", fn: a.events},
		{pattern: "GET /v1/calls", fn: a.calls},
		{pattern: "GET /v1/logs", fn: a.logs},
		{pattern: "GET /v1/access", fn: a.accessLines},
		{pattern: "POST /v1/plan", fn: a.plan, harmless: true},
		{pattern: "POST /v1/apply", fn: a.apply},
		{pattern: "POST /v1/confirm", fn: a.confirm},
		{pattern: "POST /v1/rollback", fn: a.rollback},
		{pattern: "POST /v1/sync", fn: a.sync},
		{pattern: "GET /v1/revocations", fn: a.revocations},
		{pattern: "POST /v1/revocations", fn: a.revoke},
		{pattern: "GET /v1/trust", fn: a.trust},
		{pattern: "POST /v1/trust", fn: a.installTrust},
		{pattern: "GET /v1/enrol", fn: a.enrol},
		{pattern: "POST /v1/stick", fn: a.stick, socketOnly: true},
		{pattern: "GET /v1/admins", fn: a.admins, socketOnly: true},
		{pattern: "POST /v1/admins", fn: a.setAdmin, socketOnly: true},
		{pattern: "DELETE /v1/admins/{name}", fn: a.removeAdmin, socketOnly: true},
	}
}

// Patterns lists everything that is served over the socket or the admin listener, but the
// files of the page.
func Patterns() []string {
	all := []string{"GET /healthz/live", "GET /healthz/ready", "GET /metrics", "GET /openapi.json", "GET /v1/session", "POST /v1/login", "POST /v1/logout"}
	for _, r := range (&API{}).routes() {
		all = append(all, r.pattern)
	}
	return all
}

// New returns the API of a device.
func New(d Device) *API {
	a := &API{d: d, mux: http.NewServeMux()}
	for _, r := range a.routes() {
		a.mux.Handle(r.pattern, a.handle(r.fn))
	}
	a.mux.Handle("GET /metrics", a.handle(a.metrics))
	a.mux.Handle("GET /openapi.json", a.handle(openAPI))
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
		f := Fault{Error: err.Error(), Code: string(word), Hint: refusal.Hint(err), Exit: refusal.ExitCode(err)}
		status := http.StatusInternalServerError
		var bad *badRequestError
		var own *statusError
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &own):
			status, f.Hint = own.status, own.hint
			if own.after > 0 {
				w.Header().Set("Retry-After", retryAfter(own.after))
			}
		case errors.As(err, &large):
			status = http.StatusRequestEntityTooLarge
		case word == refusal.Busy:
			status = http.StatusConflict
		case word != "":
			status = http.StatusUnprocessableEntity
		case errors.As(err, &bad):
			status = http.StatusBadRequest
		}
		writeFault(w, status, f)
	})
}

// badRequestError is a request that is wrong by itself.
type badRequestError struct{ err error }

func (e *badRequestError) Error() string { return e.err.Error() }

func writeFault(w http.ResponseWriter, status int, f Fault) { writeJSON(w, status, f) }

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
