package admin

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
)

//go:embed assets
var files embed.FS

//go:embed openapi.json
var openAPIDocument []byte

// openAPI serves the description of the API.
func openAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(openAPIDocument) // the client is gone
	return nil
}

// types are the media types of the page's files; the system's table is not asked.
func types(ext string) string {
	switch ext {
	case ".html":
		return "text/html; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	return "application/octet-stream"
}

// assets serves the files of the page. Each has its own pattern: no path of a request ever
// reaches a file system.
func assets(mux *http.ServeMux) {
	list, err := fs.ReadDir(files, "assets")
	if err != nil {
		panic(err) // embedded: a mistake of the build
	}
	for _, e := range list {
		name := e.Name()
		body, err := fs.ReadFile(files, "assets/"+name)
		if err != nil {
			panic(err)
		}
		h := asset(name, body)
		if name == "index.html" {
			mux.Handle("GET /{$}", h)
			continue
		}
		mux.Handle("GET /"+name, h)
	}
}

// asset serves one file, packed where the client can take it. It is packed at first use.
func asset(name string, body []byte) http.Handler {
	sum := sha256.Sum256(body)
	tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	packed := sync.OnceValue(func() []byte { return pack(body) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", types(path.Ext(name)))
		h.Set("Cache-Control", "no-cache") // asked again each time, answered 304
		h.Set("ETag", tag)
		h.Set("Vary", "Accept-Encoding")
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		out := body
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			h.Set("Content-Encoding", "gzip")
			out = packed()
		}
		_, _ = w.Write(out) // the client is gone
	})
}

func pack(b []byte) []byte {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err == nil {
		_, err = z.Write(b)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		panic(err) // memory cannot fail
	}
	return out.Bytes()
}
