package host_test

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/fstest"
	"tidegate/platform/host"
)

func tree(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func TestMountOfIsTheDeepest(t *testing.T) {
	root := tree(map[string]string{"proc/self/mountinfo": `21 1 179:2 / / rw,relatime shared:1 - ext4 /dev/mmcblk0p2 rw
40 21 179:3 / /var/lib rw,noatime - ext4 /dev/mmcblk0p3 rw,fast_commit,commit=30
41 40 179:4 / /var/lib/my\040data ro - f2fs /dev/sda1 rw
broken line
`})
	for name, want := range map[string]string{
		"/etc/x": "/dev/mmcblk0p2", "/var/lib/tidegate": "/dev/mmcblk0p3", "/var/library": "/dev/mmcblk0p2", "/var/lib/my data/x": "/dev/sda1",
	} {
		if got := host.MountOf(root, name); got.Device != want {
			t.Errorf("%s: got %+v, want %s", name, got, want)
		}
	}
	m := host.MountOf(root, "/var/lib/tidegate")
	if !m.Has("fast_commit") || !m.Has("commit") || m.Has("fast") || m.Type != "ext4" {
		t.Errorf("got %+v", m)
	}
}

func TestKernelAtLeast(t *testing.T) {
	for _, c := range []struct {
		release string
		want    bool
	}{{"5.10.93", false}, {"5.10.94", true}, {"5.10.94-rpi", true}, {"5.9.200", false}, {"6.1.0-18-arm64", true}, {"odd", true}, {"5.10", true}} {
		if got := host.KernelAtLeast(c.release, 5, 10, 94); got != c.want {
			t.Errorf("%s: got %v, want %v", c.release, got, c.want)
		}
	}
}

func TestWearAndWritten(t *testing.T) {
	root := tree(map[string]string{
		"sys/block/mmcblk0/device/life_time": "0x02 0x0b\n",
		"proc/self/io":                       "rchar: 1\nwrite_bytes: 8192\n",
	})
	if got := host.WornPercent(root); got != 110 {
		t.Errorf("worn: got %d", got)
	}
	if got := host.WornPercent(tree(nil)); got != -1 {
		t.Errorf("without a card: got %d", got)
	}
	if got := host.Written(root); got != 8192 {
		t.Errorf("written: got %d", got)
	}
}

func FuzzMountOf(f *testing.F) {
	f.Add("21 1 179:2 / / rw - ext4 /dev/x rw\n")
	f.Add("1 2 3 4 \\04 6 - 7 8 9")
	f.Fuzz(func(t *testing.T, s string) {
		m := host.MountOf(tree(map[string]string{"proc/self/mountinfo": s}), "/var/lib/tidegate")
		if m.Point != "" && m.Type == "" {
			t.Errorf("a mount without a type: %+v", m)
		}
	})
}

func TestPeerIsThisProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("peer credentials are known on Linux only")
	}
	dir, err := os.MkdirTemp("", "host")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, ok := host.Peer(s)
	if !ok || got.PID != os.Getpid() || got.UID != os.Getuid() {
		t.Errorf("got %+v, %v", got, ok)
	}
}
