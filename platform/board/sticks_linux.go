package board

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// sticks looks into each volume that is plugged in, until it is pulled.
func (f *first) sticks() {
	events := make(chan Uevent, 16)
	go func() {
		for ; ; time.Sleep(time.Second) {
			f.note("sticks", Uevents(context.Background(), events))
		}
	}()
	group, err := Group("stick", f.Helper, f.Tasks)
	f.note("sticks", err)
	here := map[string]context.CancelFunc{}
	for u := range events {
		if pulled := here[u.Name]; pulled != nil && u.Action == "remove" {
			pulled()
			delete(here, u.Name)
		}
		if !u.Volume() || strings.HasPrefix(u.Name, f.disk) || here[u.Name] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		here[u.Name] = cancel
		go f.volume(ctx, u, group)
	}
}

// volume looks into one volume after a moment of quiet.
func (f *first) volume(ctx context.Context, u Uevent, group *os.File) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(f.Quiet):
	}
	if u.Type == "disk" && hasPartitions(u.Name) {
		return // they have events of their own
	}
	f.sticky.RLock()
	defer f.sticky.RUnlock()
	f.stick(ctx, u.Name, group)
}

func hasPartitions(disk string) bool {
	m, _ := filepath.Glob("/sys/class/block/" + disk + "/" + disk + "*")
	return len(m) > 0
}

// stick lets a helper hold one volume for the gateway.
func (f *first) stick(ctx context.Context, name string, group *os.File) {
	dev := "/dev/" + name
	d, err := os.Open(dev)
	if err != nil {
		f.note("stick "+name, err)
		return
	}
	kind := FileSystem(ReadOnly{d})
	_ = d.Close()
	if kind != "vfat" && kind != "exfat" && kind != "iso9660" {
		f.say("stick %s: E_MEDIA_FS: want a FAT, exFAT or ISO 9660 file system, found %q", name, kind)
		return
	}
	where := "/run/stick/" + name
	if err := MountRead(dev, kind, where); err != nil {
		f.note("stick "+name, err)
		return
	}
	defer func() { f.note("stick "+name, Unmount(where)) }()
	if info, err := os.Lstat(where + "/tide/out"); err == nil && info.IsDir() { // its owner wants something on it
		f.note("stick "+name, MountWrite(dev, kind, where, f.User))
	}
	f.say("stick %s: looking", name)
	err = f.stream(ctx, group, &lines{say: func(line string) { f.say("stick %s: %s", name, line) }}, "take", "--stay", where)
	switch {
	case ctx.Err() != nil:
		f.say("stick %s: pulled", name)
		return
	case err != nil:
		f.say("stick %s: %v", name, err)
	}
	f.say("stick %s: done, it can be pulled", name)
}
