package apimtest

import (
	"archive/zip"
	"bytes"
	"crypto/tls"
	"io"
	"log"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// ReceiverPath is where usage files are received.
const ReceiverPath = "/analytics/v1.0/usage/upload-file"

// A Receiver is a stand-in for what receives usage files. It tells files apart by name, and
// counts each event once.
type Receiver struct {
	URL string
	CA  []byte

	t      testing.TB
	mu     sync.Mutex
	files  map[string]string // name to content
	plan   []Answer
	posted int
}

// An Answer is how the receiver behaves for one upload.
type Answer struct {
	Status int    // 0: as the contract says
	Body   string // of another status
	Lose   bool   // close the connection before anything is stored
	Cut    func() // called after the file was stored; then the connection is closed
}

// NewReceiver starts a receiver that ends with the test.
func NewReceiver(t testing.TB) *Receiver {
	t.Helper()
	r := &Receiver{t: t, files: map[string]string{}}
	cert, ca := certificate(t)
	r.CA = ca
	h := httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	h.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.StartTLS()
	t.Cleanup(h.Close)
	r.URL = h.URL + ReceiverPath
	return r
}

// Plan sets the answers to the next uploads, in their order.
func (r *Receiver) Plan(a ...Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plan = a
}

// Posted returns how many uploads there were.
func (r *Receiver) Posted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.posted
}

// Lines returns every line of every file that is stored.
func (r *Receiver) Lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, text := range r.files {
		out = append(out, strings.Split(strings.TrimSuffix(text, "\n"), "\n")...)
	}
	return out
}

func (r *Receiver) serve(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.posted++
	var a Answer
	if len(r.plan) > 0 {
		a, r.plan = r.plan[0], r.plan[1:]
	}
	if a.Lose {
		panic(http.ErrAbortHandler)
	}
	if a.Status != 0 {
		w.WriteHeader(a.Status)
		_, _ = w.Write([]byte(a.Body))
		return
	}
	user, password, _ := q.BasicAuth()
	if user != User || password != Password {
		http.Error(w, "", http.StatusUnauthorized)
		return
	}
	name, text, bad := r.read(q)
	if bad != "" {
		r.t.Errorf("not in the contract: %s", bad)
		http.Error(w, bad, http.StatusTeapot)
		return
	}
	if _, twice := r.files[name]; twice {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"message":"A duplicate entry found for the file `+name+`"}`)
		return
	}
	r.files[name] = text
	if a.Cut != nil {
		a.Cut()
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusCreated)
}

// read takes an upload apart and says what is not of the contract.
func (r *Receiver) read(q *http.Request) (name, text, bad string) {
	if q.Method != http.MethodPost || q.URL.Path != ReceiverPath || q.Header.Get("Accept") != "application/json" {
		return "", "", q.Method + " " + q.URL.Path
	}
	form, err := q.MultipartReader()
	if err != nil {
		return "", "", err.Error()
	}
	var part *multipart.Part
	if part, err = form.NextPart(); err != nil || part.FormName() != "file" || part.FileName() == "" || part.FileName() != q.Header.Get("FileName") {
		return "", "", "want one part file with the name in FileName"
	}
	name = part.FileName()
	b, err := io.ReadAll(part)
	if err != nil {
		return "", "", err.Error()
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil || len(z.File) != 1 || z.File[0].Name != "api-usage-data.dat" {
		return "", "", name + " is no usage file"
	}
	f, err := z.File[0].Open()
	if err != nil {
		return "", "", err.Error()
	}
	defer f.Close()
	content, err := io.ReadAll(f)
	if err != nil {
		return "", "", err.Error()
	}
	if _, err := form.NextPart(); err != io.EOF {
		return "", "", "more than one part"
	}
	return name, string(content), ""
}
