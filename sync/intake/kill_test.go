//go:build unix

package intake

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"tidegate/sync/bundle/bundletest"
)

// The names under which a test tells its child what to do.
const (
	killDir  = "TIDEGATE_TEST_KILL_DIR"  // the device's folder
	killStep = "TIDEGATE_TEST_KILL_STEP" // the step before which it kills itself; 0: none
)

// TestChildThatTellsTheStory is the process that is killed: it starts the device in a folder and goes on with
// the story. It runs only as a child of the test below.
func TestChildThatTellsTheStory(t *testing.T) {
	dir := os.Getenv(killDir)
	if dir == "" {
		t.Skip("a part of TestI7SIGKILLAtEveryCrashPoint, not a test of its own")
	}
	at, err := strconv.Atoi(os.Getenv(killStep))
	if err != nil {
		t.Fatal(err)
	}
	_, s := fleetAndStory(t)
	w := again(t, dir, bundletest.New(t, "a"))
	steps := 0
	w.step = func(string) {
		if steps++; steps == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it arrives
		}
	}
	w.start()
	s.run(w)
	fmt.Printf("steps %d\n", steps)
}

// fleetAndStory makes the files of the story, which are the same in every process.
func fleetAndStory(t testing.TB) (*bundletest.Fleet, story) {
	t.Helper()
	f := bundletest.New(t, "a")
	f.Rotate(t, nil)
	return f, storyOf(t, f)
}

// A real SIGKILL of a real process before each step that changes the disk, and a second one
// in the start that follows. What the kernel holds survives, so this is weaker than a power
// cut, and stronger than a panic: locks, mappings and files of the process are gone at once.
func TestI7SIGKILLAtEveryCrashPoint(t *testing.T) {
	dir, fleet, s := tell(t)
	child := func(dir string, step int) (killed bool, steps int) {
		t.Helper()
		cmd := exec.Command(os.Args[0], "-test.run=^TestChildThatTellsTheStory$", "-test.count=1")
		cmd.Env = append(os.Environ(), killDir+"="+dir, killStep+"="+strconv.Itoa(step))
		out, err := cmd.CombinedOutput()
		if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signaled() && st.Signal() == syscall.SIGKILL {
			return true, 0
		}
		if err != nil {
			t.Fatalf("child at step %d: %v\n%s", step, err, out)
		}
		if _, rest, ok := strings.Cut(string(out), "steps "); ok {
			steps, _ = strconv.Atoi(strings.Fields(rest)[0])
		}
		return false, steps
	}
	_, total := child(clone(t, dir), 0)
	if total < 30 {
		t.Fatalf("only %d steps", total)
	}
	stride := 11
	if os.Getenv("TIDEGATE_ALL_CUTS") != "" {
		stride = 1
	}
	for step := 1; step <= total; step += stride {
		at := clone(t, dir)
		if killed, _ := child(at, step); !killed {
			t.Fatalf("the child lived through step %d of %d", step, total)
		}
		child(at, 1+step%7) // in the start, or soon after it
		w := again(t, at, fleet)
		w.start()
		w.sound(fmt.Sprintf("killed at step %d of %d", step, total))
		s.run(w)
		s.ended(w, fmt.Sprintf("killed at step %d of %d", step, total))
		w.stop()
		_ = os.RemoveAll(filepath.Clean(at)) // only to save space
	}
}
