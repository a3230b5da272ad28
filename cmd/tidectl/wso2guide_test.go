package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"tidegate/sync/apim/apimtest"
)

// TestMigrationGuideWorksAsPasted runs the shell blocks of the guide, those of the box and
// those of the workstation in one shell, against the stand-in and a real device. Only names
// and addresses are replaced, and the service by a process.
func TestMigrationGuideWorksAsPasted(t *testing.T) {
	guide, err := os.ReadFile("../../docs/migrate-from-wso2.md")
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	script.WriteString("set -eu\n")
	// What stands below is run with real services by scripts/docs.sh.
	way, _, _ := strings.Cut(string(guide), "\n## Afterwards\n")
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(way, -1)
	for _, b := range blocks {
		script.WriteString(b[1])
	}
	s := newSite(t, "2.6")
	work := t.TempDir()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "tidegate"), "tidegate/cmd/tidegate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	// A unix socket's path must be short.
	short, err := os.MkdirTemp("", "tg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(short) })
	addr, _, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "backend: "+r.URL.Path) }))
	t.Cleanup(backend.Close)
	s.APIs[0]["endpointConfig"] = strings.ReplaceAll(s.APIs[0]["endpointConfig"].(string), "http://10.20.0.15:8080", backend.URL)
	if err := os.WriteFile(filepath.Join(work, "apim-ca.pem"), s.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	text := script.String()
	for old, now := range map[string]string{
		"https://apim.example:9443":     s.URL,
		"http://127.0.0.1:9090":         "http://" + addr,
		"sudo tidegate service install": "",
		"sudo tidegate service start":   "tidegate run --config= --data data --set listen.http=" + addr + " --set listen.https= --set admin.listen= & DEVICE=$!; trap 'kill $DEVICE; wait $DEVICE' EXIT\nfor i in $(seq 200); do tidegate status >status.txt 2>&1 && break; sleep 0.1; done",
	} {
		if !strings.Contains(text, old) {
			t.Fatalf("the guide does not say %q", old)
		}
		text = strings.ReplaceAll(text, old, now)
	}
	cmd := exec.Command("sh", "-c", text)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"), wso2PasswordVariable+"="+apimtest.Password,
		passphraseVariable+"=correct horse", "XDG_CONFIG_HOME="+filepath.Join(work, "config"), "TIDEGATE_ADMIN_SOCKET="+filepath.Join(short, "s"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "backend: /metering/status") {
		t.Errorf("it ends with:\n%s", out[max(0, len(out)-1500):])
	}
}
