package admin

import "net/http"

// Page returns the handler of the admin listener: health, readiness and a short status for
// everybody who reaches it.
func (a *API) Page() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/live", a.live)
	mux.HandleFunc("GET /healthz/ready", a.ready)
	return mux
}
