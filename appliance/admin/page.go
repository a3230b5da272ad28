package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"tidegate/store/audit"
	"time"
)

// A PageOptions says how the admin listener is reached.
type PageOptions struct {
	TLS   bool     // the listener speaks TLS
	Hosts []string // names under which the page may be asked for, besides addresses and localhost
}

// page is the admin listener: the page, the API under rules of access, metrics, health.
//
// Addresses of this machine may read without signing in. Everybody else must sign in, and
// can only do so after an administrator was set at the device itself. Changes need a
// session of an administrator, wherever they come from.
type page struct {
	*API
	o        PageOptions
	hosts    []string
	cross    *http.CrossOriginProtection
	sessions sessions
	guard    guard
	basic    basicCache
	mux      *http.ServeMux
}

// Page returns the handler of the admin listener.
func (a *API) Page(o PageOptions) http.Handler {
	p := &page{API: a, o: o, cross: http.NewCrossOriginProtection(), mux: http.NewServeMux()}
	for _, h := range append([]string{"localhost"}, o.Hosts...) {
		p.hosts = append(p.hosts, strings.ToLower(strings.TrimSuffix(h, ".")))
	}
	p.mux.HandleFunc("GET /healthz/live", a.live)
	p.mux.HandleFunc("GET /healthz/ready", a.ready)
	p.mux.Handle("GET /v1/session", a.handle(p.session))
	p.mux.Handle("POST /v1/login", a.handle(p.login))
	p.mux.Handle("POST /v1/logout", a.handle(p.logout))
	for _, r := range a.routes() {
		if r.socketOnly {
			continue
		}
		p.mux.Handle(r.pattern, p.protect(r))
	}
	p.mux.Handle("GET /metrics", p.protect(route{fn: a.metrics}))
	p.mux.Handle("GET /openapi.json", p.protect(route{fn: openAPI}))
	assets(p.mux)
	return p
}

// ServeHTTP applies what holds for every request: the name asked for, the headers of every
// answer, and where a change may come from.
func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; object-src 'none'; "+
		"base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
	if !p.named(r.Host) {
		writeFault(w, http.StatusForbidden, Fault{
			Error: fmt.Sprintf("this device is not called %q", clip(r.Host)),
			Hint:  "ask by its address, or add the name to admin.hosts", Exit: 1,
		})
		return
	}
	if err := p.cross.Check(r); err != nil {
		writeFault(w, http.StatusForbidden, Fault{Error: "the request comes from another site: " + err.Error(), Exit: 1})
		return
	}
	if r.ContentLength > maxUpload {
		writeFault(w, http.StatusRequestEntityTooLarge, Fault{Error: fmt.Sprintf("%d bytes; at most %d", r.ContentLength, maxUpload), Exit: 1})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxUpload)
	p.mux.ServeHTTP(w, r)
}

// named reports whether a Host field names this device. Addresses always do: a name that
// a stranger controls and lets point here (DNS rebinding) is never an address.
func (p *page) named(host string) bool {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), ""
	}
	if strings.Trim(port, "0123456789") != "" {
		return false
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return slices.Contains(p.hosts, strings.ToLower(strings.TrimSuffix(name, ".")))
}

// clip shortens what a stranger sent, for a message.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

// A visitor is who asks.
type visitor struct {
	name  string
	level Level // "": nobody
	csrf  string
	token string
	local bool // from this machine, not through a proxy
	addr  netip.Addr
}

func (v visitor) source() string {
	return "page " + v.name + "@" + v.addr.String()
}

// visitor finds out who asks.
func (p *page) visitor(r *http.Request) (v visitor, err error) {
	v.addr = address(r)
	v.local = v.addr.IsLoopback() && r.Header.Get("X-Forwarded-For") == "" && r.Header.Get("Forwarded") == "" && r.Header.Get("Via") == ""
	if c, err := r.Cookie(p.cookieName()); err == nil {
		if s, ok := p.sessions.find(c.Value, time.Now()); ok {
			if p.d.Accounts.still(&s.account) {
				v.name, v.level, v.csrf, v.token = s.account.Name, s.account.Level, s.csrf, c.Value
				return v, nil
			}
			p.sessions.end(c.Value)
		}
	}
	if name, password, ok := r.BasicAuth(); ok && r.Method == http.MethodGet {
		x, right, err := p.tryBasic(r, v.addr, name, password)
		if err != nil {
			return v, err
		}
		if right {
			v.name, v.level = x.Name, Viewer
			return v, nil
		}
	}
	if v.local {
		v.name, v.level = "local", Viewer
	}
	return v, nil
}

func address(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.IPv4Unspecified()
	}
	return ap.Addr().Unmap()
}

// A statusError is an answer with a status of its own.
type statusError struct {
	status int
	after  time.Duration // for Retry-After
	text   string
	hint   string
}

func (e *statusError) Error() string { return e.text }

func forbidden(text, hint string) error {
	return &statusError{status: http.StatusForbidden, text: text, hint: hint}
}

// notSetUp is what somebody off the box is told before an administrator was set.
func notSetUp() error {
	return forbidden("this page is open to the device itself only: no administrator is set",
		"at the device: tidegate admin passwd")
}

// protect lets through who may do what the route does.
func (p *page) protect(rt route) http.Handler {
	return p.handle(func(w http.ResponseWriter, r *http.Request) error {
		v, err := p.visitor(r)
		if err != nil {
			return err
		}
		changes := r.Method != http.MethodGet && r.Method != http.MethodHead
		switch {
		case v.level == "" && !p.d.Accounts.Any():
			return notSetUp()
		case v.level == "":
			return &statusError{status: http.StatusUnauthorized, text: "sign in first"}
		case changes && v.token == "":
			return &statusError{status: http.StatusUnauthorized, text: "sign in to change something", hint: "an administrator is set at the device: tidegate admin passwd"}
		case changes && !sameText(r.Header.Get(csrfHeader), v.csrf):
			return forbidden("the request does not carry the token of its session", "load the page again")
		case changes && v.level != Operator && !rt.harmless:
			return forbidden(v.name+" may look, not change", "sign in as an administrator")
		}
		return rt.fn(w, r.WithContext(WithSource(r.Context(), v.source())))
	})
}

const csrfHeader = "X-Tidegate-Csrf"

func (p *page) cookieName() string {
	if p.o.TLS {
		return "__Host-tidegate"
	}
	return "tidegate"
}

func (p *page) cookie(value string, age int) *http.Cookie {
	return &http.Cookie{Name: p.cookieName(), Value: value, Path: "/", HttpOnly: true, Secure: p.o.TLS, SameSite: http.SameSiteStrictMode, MaxAge: age}
}

// SessionView says who the page is talking to.
type SessionView struct {
	Name     string `json:"name"` // "" for nobody
	Level    Level  `json:"role"` // "", viewer, admin
	SignedIn bool   `json:"signed_in"`
	Accounts bool   `json:"accounts"` // whether anybody could sign in
	CSRF     string `json:"csrf,omitempty"`
}

func (p *page) session(w http.ResponseWriter, r *http.Request) error {
	v, err := p.visitor(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, SessionView{Name: v.name, Level: v.level, SignedIn: v.token != "", Accounts: p.d.Accounts.Any(), CSRF: v.csrf})
	return nil
}

func (p *page) login(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Name     string `json:"name"`
		Password string `json:"password"`
	}
	if ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); ct != "application/json" {
		return &badRequestError{errors.New("want a body of application/json")}
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10))
	if err := d.Decode(&in); err != nil {
		return &badRequestError{errors.New("the body is not a name and a password")}
	}
	if !p.d.Accounts.Any() {
		return notSetUp()
	}
	addr := address(r)
	x, right, err := p.try(r.Context(), addr, in.Name, in.Password)
	if err != nil {
		return err
	}
	if !right {
		return &statusError{status: http.StatusUnauthorized, text: "name or password is wrong"}
	}
	token, s := p.sessions.begin(x, time.Now())
	p.note("page "+x.Name+"@"+addr.String(), "signed in as "+string(x.Level))
	http.SetCookie(w, p.cookie(token, int(sessionLife.Seconds())))
	writeJSON(w, http.StatusOK, SessionView{Name: x.Name, Level: x.Level, SignedIn: true, Accounts: true, CSRF: s.csrf})
	return nil
}

// try checks a password, slowly for who guesses.
func (p *page) try(ctx context.Context, addr netip.Addr, name, password string) (Account, bool, error) {
	wait, n := p.guard.wait(addr, time.Now())
	if wait > 0 {
		p.logins.throttled.Add(1)
		return Account{}, false, &statusError{status: http.StatusTooManyRequests, after: wait, text: "too many wrong passwords from your address", hint: "lost it? at the device: tidegate admin passwd"}
	}
	x, right, err := p.d.Accounts.Login(ctx, name, password)
	switch {
	case err != nil:
		return x, false, &statusError{status: http.StatusServiceUnavailable, after: time.Second, text: err.Error()}
	case right:
		p.guard.succeeded(addr)
		p.logins.right.Add(1)
	default:
		p.logins.wrong.Add(1)
		if n == 1 || n >= freeTries { // the audit log is no place for a flood: the guard paces the rest
			p.note("page @"+addr.String(), fmt.Sprintf("wrong password, %d in a row", n))
		}
	}
	return x, right, nil
}

func (p *page) logout(w http.ResponseWriter, r *http.Request) error {
	v, err := p.visitor(r)
	if err != nil {
		return err
	}
	if v.token == "" || !sameText(r.Header.Get(csrfHeader), v.csrf) {
		return forbidden("not signed in", "")
	}
	p.sessions.end(v.token)
	p.note(v.source(), "signed out")
	http.SetCookie(w, p.cookie("", -1))
	writeJSON(w, http.StatusOK, SessionView{Accounts: true})
	return nil
}

// note writes to the audit log; that it cannot is logged, for a full disk must not keep the
// technician out who could mend it.
func (a *API) note(source, detail string) {
	if err := a.d.Audit(audit.Entry{Event: audit.Operator, Source: source, Detail: detail}); err != nil {
		a.d.Log.Warn("not in the audit log", "what", detail, "source", source, "error", err)
	}
}

// retryAfter is a number of whole seconds, rounded up.
func retryAfter(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
