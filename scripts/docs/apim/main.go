// Command apim is the stand-in for WSO2 API Manager 2.6 that the tests use, as a program for
// scripts/docs.sh: management on one address, the receiver of usage files on another. A call that is
// not of the contract is told on standard error.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"testing"
	"tidegate/sync/apim/apimtest"
)

// outside is a test's interface for a program: what fails is told, what ends never does.
type outside struct{ testing.TB }

func (outside) Helper()                   {}
func (outside) Cleanup(func())            {}
func (outside) Errorf(f string, a ...any) { fmt.Fprintf(os.Stderr, "contract: "+f+"\n", a...) }
func (outside) Fatalf(f string, a ...any) { fail(fmt.Errorf(f, a...)) }
func (outside) Fatal(a ...any)            { fail(errors.New(fmt.Sprint(a...))) }
func (outside) Logf(f string, a ...any)   { fmt.Fprintf(os.Stderr, f+"\n", a...) }

func main() {
	cert := flag.String("cert", "", "PEM certificate of the servers")
	key := flag.String("key", "", "PEM private key of it")
	manage := flag.String("listen", "127.0.0.1:9443", "address of the management APIs")
	receive := flag.String("receiver", "127.0.0.1:9444", "address of the receiver of usage files")
	flag.Parse()
	s, r := apimtest.New(outside{}, "2.6"), apimtest.NewReceiver(outside{})
	failed := make(chan error, 2)
	go func() { failed <- http.ListenAndServeTLS(*receive, *cert, *key, to(r.URL, r.CA)) }()
	go func() { failed <- http.ListenAndServeTLS(*manage, *cert, *key, to(s.URL, s.CA)) }()
	fail(<-failed)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "apim:", err)
	os.Exit(1)
}

// to leads to a server of the test's, under its authority.
func to(address string, ca []byte) http.Handler {
	u, err := url.Parse(address)
	if err != nil {
		fail(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = u.Scheme, u.Host },
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}},
	}
}
