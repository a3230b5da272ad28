package media

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"tidegate/policy/refusal"
	"time"

	"golang.org/x/sys/unix"
)

func TestThisMachineHasAMountTable(t *testing.T) {
	all, err := mounts()
	if err != nil || len(all) == 0 {
		t.Fatalf("%d mounts, %v", len(all), err)
	}
}

func TestG9AFileSystemThatIsNotOnTheList(t *testing.T) {
	err := CheckFileSystem(Volume{Dir: t.TempDir(), Type: "ext4"})
	if !refusal.Is(err, refusal.MediaFS) {
		t.Errorf("got %v", err)
	}
	if err := CheckFileSystem(Volume{Dir: filepath.Join(t.TempDir(), "gone")}); !refusal.Is(err, refusal.MediaIO) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

// G9 on a real mount: the watcher sees it appear and go, and its file system is refused.
func TestG9ALoopMountOfExt4(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "media", "stick")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		t.Skipf("mkfs.ext4 is needed: %v %s", err, out)
	}
	w, err := NewWatcher(Options{Dirs: []string{filepath.Dir(at)}, Every: 10 * time.Millisecond, Quiet: 30 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	appeared, ended := make(chan Volume, 1), make(chan error, 1)
	go func() { ended <- w.Run(ctx, func(v Volume) { appeared <- v }) }()
	if out, err := exec.Command("mount", "-o", "loop,ro", image, at).CombinedOutput(); err != nil {
		t.Skipf("no loop devices here: %v %s", err, out)
	}
	var v Volume
	select {
	case v = <-appeared:
	case <-time.After(20 * time.Second):
		t.Fatal("the volume did not appear")
	}
	if err := CheckFileSystem(v); v.Dir != at || !v.ReadOnly || !refusal.Is(err, refusal.MediaFS) {
		t.Errorf("volume %+v: %v", v, err)
	}
	if !w.Present(v) {
		t.Error("the volume is not present")
	}
	if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v %s", err, out)
	}
	if w.Present(v) {
		t.Error("the volume is still present")
	}
	cancel()
	<-ended
}

// The kernel is heard, and a process that speaks in its name is not.
func TestOnlyTheKernelIsHeard(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := kernelEvents(ctx)
	if events == nil {
		t.Skip("listening to the kernel is not allowed here")
	}
	spoof, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(spoof)
	const lie = "remove@/devices/lie\x00SUBSYSTEM=block\x00MAJOR=8\x00MINOR=1\x00"
	// To the group, which needs root, and to the port that the first socket of a process gets.
	for _, to := range []unix.SockaddrNetlink{{Family: unix.AF_NETLINK, Groups: kernelGroup}, {Family: unix.AF_NETLINK, Pid: uint32(os.Getpid())}} {
		_ = unix.Sendto(spoof, []byte(lie), 0, &to)
	}
	if os.WriteFile("/sys/devices/virtual/mem/null/uevent", []byte("change"), 0) != nil {
		t.Skip("making the kernel speak needs root")
	}
	for {
		select {
		case e := <-events:
			if e.Device == "8:1" && e.Action == "remove" {
				t.Fatal("a process passes for the kernel")
			}
			if e.Device == "1:3" && e.Action == "change" {
				return
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the kernel was not heard")
		}
	}
}
