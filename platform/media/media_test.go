package media

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// table is a mount table that a test changes.
type table struct {
	mu  sync.Mutex
	all []Mount
}

func (x *table) read() ([]Mount, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.all), nil
}

func (x *table) set(all ...Mount) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all = all
}

func stick(id int, dir string) Mount {
	return Mount{ID: id, Device: "0:99", Root: "/", Dir: dir, Type: "vfat", Source: "/dev/sda1"}
}

// appearances are the folders of the volumes that appeared.
type appearances struct {
	mu  sync.Mutex
	all []string
}

func (a *appearances) add(v Volume) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, v.Dir)
}

// watch runs a watcher over x in a bubble, and returns what appeared.
func watch(t *testing.T, x *table, events chan Event) (w *Watcher, appeared *appearances, stop func()) {
	t.Helper()
	var err error
	w, err = NewWatcher(Options{Dirs: []string{"/media", "/mnt/usb/"}, Mounts: x.read, Events: func(context.Context) <-chan Event { return events }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	appeared = new(appearances)
	var ended sync.WaitGroup
	ended.Go(func() {
		_ = w.Run(ctx, appeared.add) //nolint:errcheck // ctx ends it
	})
	synctest.Wait()
	return w, appeared, func() { cancel(); ended.Wait() }
}

func want(t *testing.T, appeared *appearances, all ...string) {
	t.Helper()
	synctest.Wait()
	appeared.mu.Lock()
	defer appeared.mu.Unlock()
	if !slices.Equal(appeared.all, all) {
		t.Errorf("appeared: %q, want %q", appeared.all, all)
	}
}

func TestAVolumeIsToldOncePerMountAndNotAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := new(table)
		x.set(stick(1, "/media/a"), stick(2, "/elsewhere"))
		_, got, stop := watch(t, x, nil)
		defer stop()
		time.Sleep(time.Minute)
		want(t, got)
		x.set(stick(1, "/media/a"), stick(2, "/elsewhere"), stick(3, "/media/b"), stick(4, "/mnt/usb"), stick(5, "/media/b/deep"))
		time.Sleep(2 * time.Second)
		want(t, got) // not quiet yet: the first look that saw them may be a second old
		time.Sleep(2 * time.Second)
		want(t, got, "/media/b", "/mnt/usb")
		time.Sleep(time.Minute)
		want(t, got, "/media/b", "/mnt/usb")
		x.set(stick(1, "/media/a"))
		time.Sleep(5 * time.Second)
		x.set(stick(1, "/media/a"), stick(3, "/media/b"))
		time.Sleep(5 * time.Second)
		want(t, got, "/media/b", "/mnt/usb", "/media/b")
	})
}

// A volume that comes and goes at once, as a bad contact does, is not told.
func TestABadContactIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := new(table)
		_, got, stop := watch(t, x, nil)
		defer stop()
		for i := range 20 {
			x.set(stick(i, "/media/a"))
			time.Sleep(1500 * time.Millisecond)
			x.set()
			time.Sleep(1500 * time.Millisecond)
		}
		want(t, got)
	})
}

// A stick that is swapped for another between two looks has the same line in the mount table:
// only the kernel's events tell.
func TestASwappedStickIsAnotherOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, events := new(table), make(chan Event)
		_, got, stop := watch(t, x, events)
		defer stop()
		x.set(stick(1, "/media/a"))
		time.Sleep(5 * time.Second)
		want(t, got, "/media/a")
		events <- Event{Action: "change", Subsystem: "block", Device: "0:99"} // nothing to do with the medium
		events <- Event{Action: "remove", Subsystem: "usb", Device: "0:99"}
		events <- Event{Action: "remove", Subsystem: "block", Device: "0:98"}
		time.Sleep(5 * time.Second)
		want(t, got, "/media/a")
		events <- Event{Action: "remove", Subsystem: "block", Device: "0:99"}
		time.Sleep(5 * time.Second)
		want(t, got, "/media/a", "/media/a")
		events <- Event{Action: "change", Subsystem: "block", Device: "0:99", MediaChange: true}
		time.Sleep(5 * time.Second)
		want(t, got, "/media/a", "/media/a", "/media/a")
		close(events) // the kernel does not speak any more: polling goes on
		x.set()
		time.Sleep(5 * time.Second)
		x.set(stick(2, "/media/a"))
		time.Sleep(5 * time.Second)
		want(t, got, "/media/a", "/media/a", "/media/a", "/media/a")
	})
}

// Events of its device while it is mounted put the two seconds of quiet off.
func TestQuietBeginsAgainWithEveryEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, events := new(table), make(chan Event)
		_, got, stop := watch(t, x, events)
		defer stop()
		x.set(stick(1, "/media/a"))
		for range 10 {
			time.Sleep(1100 * time.Millisecond)
			events <- Event{Action: "change", Subsystem: "block", Device: "0:99"}
		}
		want(t, got)
		time.Sleep(4 * time.Second)
		want(t, got, "/media/a")
	})
}

func TestPresent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := new(table)
		w, _, stop := watch(t, x, nil)
		defer stop()
		x.set(stick(1, "/media/a"))
		v := volumes(x.all, w.o.Dirs)[0]
		if !w.Present(v) {
			t.Error("a volume that is mounted is not present")
		}
		x.set(stick(2, "/media/a"))
		if w.Present(v) {
			t.Error("another volume in the same place passes for the first")
		}
	})
}

func TestMountTable(t *testing.T) {
	const text = `22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/root rw
61 22 8:17 / /media/USB\040DISK ro,nosuid,nodev,noexec - vfat /dev/sdb1 ro,utf8
62 22 0:40 / /media/auto rw - autofs systemd-1 rw
63 22 8:33 / /media/a rw - exfat /dev/sdc1 rw
64 22 8:49 / /media/a rw - iso9660 /dev/sr0 ro
`
	all, err := ParseMounts(strings.NewReader(text))
	if err != nil || len(all) != 5 {
		t.Fatalf("%d mounts, %v", len(all), err)
	}
	got := volumes(all, []string{"/media"})
	if len(got) != 2 || got[0].Dir != "/media/USB DISK" || got[0].Device != "8:17" || !got[0].ReadOnly || got[0].Type != "vfat" {
		t.Errorf("volumes: %+v", got)
	}
	if got[1].Dir != "/media/a" || got[1].Type != "iso9660" || !got[1].ReadOnly {
		t.Errorf("of two mounts in one place the later one counts: %+v", got[1])
	}
	for _, bad := range []string{"x", "1 2 3 4 5 6", "x 1 8:1 / /a rw - vfat s rw", "1 1 8:1 / /a - vfat s rw"} {
		if _, err := ParseMounts(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is no mount table", bad)
		}
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add(`61 22 8:17 / /media/USB\040DISK ro - vfat /dev/sdb1 ro`)
	f.Add("1 2 3:4 / / rw - a b\n1 2 3:4 \\ \\1 rw - a b")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ParseMounts(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, v := range volumes(all, []string{"/media", "/"}) {
			if v.id == "" {
				t.Error("a volume without an id")
			}
		}
	})
}

func TestParseEvent(t *testing.T) {
	e, ok := ParseEvent([]byte("change@/devices/x/block/sr0\x00ACTION=change\x00SUBSYSTEM=block\x00MAJOR=11\x00MINOR=0\x00DISK_MEDIA_CHANGE=1\x00"))
	if want := (Event{Action: "change", Subsystem: "block", Device: "11:0", MediaChange: true}); !ok || e != want {
		t.Errorf("got %+v, want %+v", e, want)
	}
	for _, bad := range []string{"", "libudev\x00\xfe\xed\xca\xfe", "add@/devices/x", "@/devices\x00", "add/devices\x00", "add@devices\x00"} {
		if e, ok := ParseEvent([]byte(bad)); ok {
			t.Errorf("%q passes as %+v", bad, e)
		}
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte("add@/devices/x\x00SUBSYSTEM=block\x00MAJOR=8\x00MINOR=1\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, ok := ParseEvent(b); ok && e.Action == "" {
			t.Error("an event without an action")
		}
	})
}
