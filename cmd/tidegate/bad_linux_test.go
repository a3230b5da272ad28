package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"tidegate/appliance/admin"
	"tidegate/appliance/devicetest"
	"tidegate/policy"
	"time"
)

// partition gives the test an ext4 of its own in which a device has room, on a loop device.
func partition(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount an ext4")
	}
	dir, image := t.TempDir(), filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 256<<20); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"mke2fs", "-q", "-t", "ext4", "-m", "0", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%s: %v: %s", strings.Join(c, " "), err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// fill writes a file until the disk is full, and returns its name.
func fill(t *testing.T, dir string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size >= 512; {
		if _, err = f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v, want a full disk", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// command runs the program beside the device of the rig.
func (r *rig) command(args ...string) (out, errs string, code int) {
	r.t.Helper()
	var o, e bytes.Buffer
	c := exec.Command(r.program, args...)
	c.Stdout, c.Stderr = &o, &e
	c.Env = append(os.Environ(), "TIDEGATE_ADMIN_SOCKET="+r.socket, "TIDEGATE_CONFIG=", "TIDEGATE_DATA="+r.data)
	if err := c.Run(); err != nil && c.ProcessState == nil {
		r.t.Fatal(err)
	}
	return o.String(), e.String(), c.ProcessState.ExitCode()
}

// status calls a path and returns the status.
func (r *rig) status(path string) int {
	r.t.Helper()
	resp, err := http.Get("http://" + r.port + path)
	if err != nil {
		r.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode
}

// disk returns what doctor finds of the disk.
func (r *rig) disk() admin.Finding {
	r.t.Helper()
	out, errs, _ := r.command("doctor", "--json")
	var found []admin.Finding
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		r.t.Fatalf("%v in %q, %s", err, out, errs)
	}
	for _, f := range found {
		if f.What == "disk" {
			return f
		}
	}
	r.t.Fatalf("no finding of the disk in %+v", found)
	return admin.Finding{}
}

// A data partition that fills while the device runs: it serves and limits as before, takes no
// bundle and says so, starts again like that, and goes on by itself once there is room.
func TestAFullDataPartition(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	defer backend.Close()
	mount := partition(t)
	r := newRig(t)
	r.data = filepath.Join(mount, "data")
	fleet := devicetest.NewFleet(t)
	set := fleet.API(t, backend.URL, "/open", "/open-limited")
	set.Plans = []policy.Plan{{Kind: policy.ResourcePlan, Name: "five", Limit: policy.Limit{Count: 5, Window: 365 * 24 * time.Hour}}}
	set.APIs[0].Operations[1].Plan = "five"
	p, _ := r.start()
	defer func() { p.kill() }()
	root, fp := fleet.Root(t)
	r.ask("POST", "/v1/trust?fingerprint="+fp.String(), bytes.NewReader(root))
	r.ask("POST", "/v1/apply?name=one.tide", bytes.NewReader(fleet.Bundle(t, set, nil)))
	r.ask("POST", "/v1/confirm", nil)
	next := filepath.Join(t.TempDir(), "two.tide")
	if err := os.WriteFile(next, fleet.Bundle(t, set, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if f := r.disk(); f.State == admin.StateFault {
		t.Fatalf("before: %+v", f)
	}

	ballast := fill(t, mount)
	admitted := 0
	calls := func(n int) {
		t.Helper()
		for range n {
			if got := r.status("/echo/1.0/open"); got != http.StatusOK {
				t.Fatalf("on a full disk: got %d, want 200", got)
			}
			switch got := r.status("/echo/1.0/open-limited"); got {
			case http.StatusOK:
				admitted++
			case http.StatusTooManyRequests:
			default:
				t.Fatalf("a limited call on a full disk: got %d", got)
			}
		}
	}
	full := func(when string) {
		t.Helper()
		if f := r.disk(); f.State != admin.StateFault || f.Remedy != "make room on the partition of "+r.data {
			t.Errorf("doctor %s: %+v", when, f)
		}
		if out, _, code := r.command("apply", "--no-wait", "--json", next); code != 11 || !strings.Contains(out, "E_NO_SPACE") {
			t.Errorf("apply %s: exit code %d, %s", when, code, out)
		}
		if _, errs, code := r.command("health"); code != 0 {
			t.Errorf("health %s: exit code %d, %s", when, code, errs)
		}
	}
	calls(3)
	full("while it runs")
	p.kill()
	p, _ = r.start()
	calls(10)
	full("after a start")
	if admitted == 0 || admitted > 5 {
		t.Errorf("%d calls were admitted over a kill on a full disk, the limit is 5", admitted)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if f := r.disk(); f.State == admin.StateFault {
		t.Errorf("with room again: %+v", f)
	}
	if out, errs, code := r.command("apply", "--no-wait", next); code != 75 && code != 0 {
		t.Errorf("apply with room again: exit code %d, %s%s\n%s", code, out, errs, p.log)
	}
	r.ask("POST", "/v1/confirm", nil)
	calls(1)
	if ids, _ := r.recorded(); len(ids) == 0 {
		t.Errorf("no call is recorded\n%s", p.log)
	}
}

// A second service on one data folder: refused with its word and exit code, and the first one
// does not notice.
func TestTwoServicesOnOneDataFolder(t *testing.T) {
	r := newRig(t)
	p, _ := r.start()
	defer func() { p.kill() }()
	_, errs, code := r.command("run", "--config", "", "--data", r.data, "--set", "listen.http=127.0.0.1:0", "--set", "listen.https=", "--set", "admin.listen=")
	for _, want := range []string{r.data, "hint: stop the other tidegate, or choose another directory with --data"} {
		if !strings.Contains(errs, want) {
			t.Errorf("got %q, want %q in it", errs, want)
		}
	}
	if code != 70 {
		t.Errorf("exit code %d, want 70", code)
	}
	if out, _, code := r.command("health"); code != 0 {
		t.Errorf("the first: exit code %d, %s", code, out)
	}
	p.kill()
	p, _ = r.start() // nobody is in the way of the next one
}
