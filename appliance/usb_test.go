package appliance_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
	"time"
)

// A stick that is mounted while the device serves is looked into, by the mount table of this
// machine; one with a file system that is not on the list is refused as a whole.
func TestAMountedStickIsLookedInto(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	at, inAtStart := filepath.Join(dir, "stick"), filepath.Join(dir, "there")
	for _, d := range []string{at, inAtStart} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(at string) {
		t.Helper()
		if out, err := exec.Command("mount", "-t", "tmpfs", "tmpfs", at).CombinedOutput(); err != nil {
			t.Skipf("mounting is not allowed here: %v %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
				t.Errorf("umount: %v %s", err, out)
			}
		})
	}
	mount(inAtStart)
	d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) { c.USB.Mounts = []string{dir} }})
	mount(at)
	for deadline := time.Now().Add(time.Minute); !strings.Contains(d.Log(), "E_MEDIA_FS"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the stick was not looked into")
		}
	}
	if strings.Contains(d.Log(), inAtStart) {
		t.Error("the stick that was in at the start was looked into")
	}
	if !strings.Contains(d.Log(), at) {
		t.Error("the log does not name the stick")
	}
}
