// Package apimtest is a stand-in for WSO2 API Manager, written after the contract that
// package apim keeps: methods, paths, headers, encodings, statuses and paging of 2.6, 3.x
// and 4.x. It answers what the contract names and notes everything else as a violation,
// which fails the test. It serves TLS with a certificate of a private authority.
package apimtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"tidegate/policy/wso2/wso2test"
	"time"
)

// The user of the stand-in, and the client it registers.
const (
	User     = "admin"
	Password = "pass word&+%"
)

// A Server is one API Manager. Its fields may be changed between imports, not during one.
type Server struct {
	URL     string
	CA      []byte // PEM of the authority of its certificate
	Version string // 2.6, 3.0 … 4.2

	APIs         []map[string]any // as the list of 2.6 gives them
	Application  []map[string]any // policies as 2.6 gives them
	Subscription []map[string]any
	Advanced     []map[string]any
	Custom       []map[string]any
	Blocked      []map[string]any

	ShortAdvanced bool // the list of advanced policies lacks their groups
	NoPagination  bool
	IgnoreOffset  bool
	NoKeys        bool   // no JWKS
	PageSize      int    // largest page; 0: 500
	Scope         string // granted; "": what was asked for
	Data          map[string][]map[string]any

	t      testing.TB
	mu     sync.Mutex
	calls  []string
	faults map[string]Fault
	client string // secret of the registered client
	kept   int    // clients registered
}

// A Fault replaces the answer to the calls whose "METHOD path" begins with its key.
type Fault struct {
	Status int
	Type   string // content type; "": application/json
	Body   string
	Hang   bool // closes the connection instead
	After  int  // lets this many calls pass first
}

// New starts a server with the replies of package wso2test. It ends with the test, which
// fails if a call was not one of the contract.
func New(t testing.TB, version string) *Server {
	t.Helper()
	s := &Server{Version: version, t: t, faults: map[string]Fault{}, client: "example-secret-not-real-0001"}
	s.APIs = listOf(t, "apis-by-label.json")
	s.Application = listOf(t, "application-policies.json")
	s.Subscription = listOf(t, "subscription-policies.json")
	s.Advanced = listOf(t, "advanced-policies.json")
	s.Custom = listOf(t, "custom-rules.json")
	s.Blocked = listOf(t, "block-conditions.json")
	s.Data = map[string][]map[string]any{}
	cert, ca := certificate(t)
	s.CA = ca
	h := httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	h.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.StartTLS()
	t.Cleanup(h.Close)
	s.URL = h.URL
	return s
}

// List returns the entries of a reply.
func listOf(t testing.TB, name string) []map[string]any {
	t.Helper()
	var l struct {
		List []map[string]any `json:"list"`
	}
	if err := json.Unmarshal(wso2test.Reply(name), &l); err != nil {
		t.Fatal(err)
	}
	return l.List
}

// Fail makes calls fail: key is "METHOD /path" or its beginning.
func (s *Server) Fail(key string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[key] = f
}

// Heal takes all faults away.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = map[string]Fault{}
}

// Calls returns the calls so far, "METHOD path?query", and forgets them.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls
	s.calls = nil
	return c
}

// Registered returns how many clients were registered.
func (s *Server) Registered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept
}

// Forget makes the server forget the clients it registered.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client += "x"
}

// Many replaces the APIs by n of the given number of operations.
func (s *Server) Many(n, operations int) {
	s.APIs = nil
	for i := range n {
		paths := map[string]any{}
		for j := range operations {
			paths[fmt.Sprintf("/things%d/{id}", j)] = map[string]any{"get": map[string]any{
				"parameters":  []any{map[string]any{"name": "id", "in": "path", "required": true, "type": "string"}},
				"responses":   map[string]any{"200": map[string]any{"description": "a thing"}},
				"x-auth-type": "Application", "x-throttling-tier": "2KPerMinGuarded",
			}}
		}
		def, err := json.Marshal(map[string]any{"swagger": "2.0", "info": map[string]any{"title": "x", "version": "x"}, "paths": paths})
		if err != nil {
			s.t.Fatal(err)
		}
		s.APIs = append(s.APIs, map[string]any{
			"id": fmt.Sprintf("id-%04d", i), "name": fmt.Sprintf("Api%04d", i), "version": "1.0", "context": fmt.Sprintf("/api%04d", i), "status": "PUBLISHED",
			"provider": "admin", "apiDefinition": string(def), "type": "HTTP", "tiers": []any{"Gold"}, "transport": []any{"https"},
			"endpointConfig": fmt.Sprintf(`{"production_endpoints":{"url":"http://10.1.%d.%d:8080"},"endpoint_type":"http"}`, i/250, i%250+1),
			"labels":         []any{map[string]any{"name": "quay-7"}},
		})
	}
}

// certificate makes a certificate for loopback and the PEM of its authority.
func certificate(t testing.TB) (tls.Certificate, []byte) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "private authority"}, NotBefore: now.Add(-time.Hour),
		NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "apim"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	check(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
}

// violation notes a call that is not of the contract.
func (s *Server) violation(w http.ResponseWriter, r *http.Request, format string, args ...any) {
	text := fmt.Sprintf("%s %s: %s", r.Method, r.URL.RequestURI(), fmt.Sprintf(format, args...))
	s.t.Errorf("not in the contract: %s", text)
	http.Error(w, text, http.StatusTeapot)
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client notices what is missing
}

// fault answers in place of a call, and reports whether it did.
func (s *Server) fault(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, r.Method+" "+r.URL.RequestURI())
	at := r.Method + " " + r.URL.Path
	for key, f := range s.faults {
		if !strings.HasPrefix(at, key) {
			continue
		}
		if f.After > 0 {
			f.After--
			s.faults[key] = f
			continue
		}
		if f.Hang {
			panic(http.ErrAbortHandler)
		}
		if f.Type == "" {
			f.Type = "application/json"
		}
		w.Header().Set("Content-Type", f.Type)
		w.WriteHeader(f.Status)
		_, _ = w.Write([]byte(f.Body))
		return true
	}
	return false
}
