package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// demoBackend answers every call with what it saw, so that a project can be tried without
// its real backends.
type demoBackend struct {
	server *http.Server
	url    string
}

// startDemo listens on a free loopback port.
func startDemo() (*demoBackend, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &demoBackend{url: "http://" + ln.Addr().String()}
	d.server = &http.Server{Handler: http.HandlerFunc(answerDemo), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = d.server.Serve(ln) }() // ends with Close
	return d, nil
}

func (d *demoBackend) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if d.server.Shutdown(ctx) != nil {
		_ = d.server.Close()
	}
}

// answerDemo echoes the call as JSON. ?status=N asks for another status.
func answerDemo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	status := http.StatusOK
	if s, err := strconv.Atoi(r.URL.Query().Get("status")); err == nil && s >= 200 && s <= 599 {
		status = s
	}
	header := map[string]string{}
	for _, name := range []string{"X-Request-Id", "X-Forwarded-For", "X-Jwt-Assertion", "Content-Type"} {
		if v := r.Header.Get(name); v != "" {
			header[name] = v
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(map[string]any{
		"backend": "demo", "method": r.Method, "path": r.URL.EscapedPath(), "query": r.URL.RawQuery, "header": header,
		"bytes": len(body), "time": fmt.Sprint(time.Now().UTC().Format(time.RFC3339)),
	})
}
