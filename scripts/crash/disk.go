// Package crash runs the device on a disk whose power is cut.
//
// The disk is one file of a FUSE file system, made a block device by a loop device, with ext4
// on it. Writes to the file are volatile until the file is synced, as in the cache of a real
// disk. A cut is a copy of what is durable, plus any part of the writes that were not
// synced yet, each whole, torn at a sector, or lost. The copy is mounted, the device is started
// on it, and what it confirmed before the cut must be there.
//
// A disk that lies drops writes although it was told to sync. It is the control: on it the same
// checks must fail, or they prove nothing.
package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

const sector = 512

// disk is the file. Lies makes it forget that it was synced.
type disk struct {
	fs.Inode
	lies bool

	mu      sync.Mutex
	view    []byte // what a reader sees
	durable []byte
	pending []write // since the last sync
	syncs   int
	bytes   int64 // written
}

type write struct {
	off  int64
	data []byte
}

var (
	_ fs.NodeGetattrer = (*disk)(nil)
	_ fs.NodeSetattrer = (*disk)(nil)
	_ fs.NodeOpener    = (*disk)(nil)
	_ fs.NodeReader    = (*disk)(nil)
	_ fs.NodeWriter    = (*disk)(nil)
	_ fs.NodeFsyncer   = (*disk)(nil)
)

func (d *disk) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o600, uint64(len(d.view))
	return 0
}

func (d *disk) Setattr(ctx context.Context, h fs.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return d.Getattr(ctx, h, out)
}

func (d *disk) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (d *disk) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := copy(dest, d.view[min(off, int64(len(d.view))):])
	return fuse.ReadResultData(dest[:n]), 0
}

func (d *disk) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off+int64(len(data)) > int64(len(d.view)) {
		return 0, syscall.ENOSPC
	}
	copy(d.view[off:], data)
	d.bytes += int64(len(data))
	d.pending = append(d.pending, write{off, append([]byte(nil), data...)})
	return uint32(len(data)), 0
}

func (d *disk) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs++
	if d.lies {
		return 0 // says yes, keeps nothing
	}
	for _, w := range d.pending {
		copy(d.durable[w.off:], w.data)
	}
	d.pending = nil
	return 0
}

// settle makes everything durable, on a disk that lies too: it is the state a test begins with.
func (d *disk) settle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.durable, d.view)
	d.pending = nil
}

// cut returns the disk as it is after its power went now: before is called with the disk
// standing still, so that what it reads was true at the cut.
func (d *disk) cut(r *rand.Rand, before func()) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	before()
	image := append([]byte(nil), d.durable...)
	keep := r.Float64() // some cuts lose nearly all that is pending, some nearly nothing
	for _, w := range d.pending {
		switch p := r.Float64(); {
		case p < keep*0.9:
			copy(image[w.off:], w.data)
		case p < keep: // torn: some sectors of it
			for at := 0; at < len(w.data); at += sector {
				if r.IntN(2) == 0 {
					copy(image[w.off+int64(at):], w.data[at:min(at+sector, len(w.data))])
				}
			}
		}
	}
	return image
}

// machine holds what must be undone.
type machine struct {
	undo []func() error
}

func (m *machine) close() error {
	var errs []error
	for i := len(m.undo) - 1; i >= 0; i-- {
		errs = append(errs, m.undo[i]())
	}
	m.undo = nil
	return errors.Join(errs...)
}

func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// serve mounts the FUSE file system and returns the path of the disk's file.
func (m *machine) serve(d *disk, dir string, size int) (string, error) {
	d.view, d.durable = make([]byte, size), make([]byte, size)
	root := &fs.Inode{}
	server, err := fs.Mount(dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{FsName: "crashdisk", DisableXAttrs: true, DirectMount: true, MaxWrite: 128 << 10},
		OnAdd: func(ctx context.Context) {
			root.AddChild("disk", root.NewPersistentInode(ctx, d, fs.StableAttr{Mode: syscall.S_IFREG}), true)
		},
	})
	if err != nil {
		return "", err
	}
	m.undo = append(m.undo, server.Unmount)
	return filepath.Join(dir, "disk"), nil
}

// mount makes a block device of file and mounts its ext4 on dir; format makes the ext4 first.
func (m *machine) mount(file, dir string, format bool) error {
	dev, err := run("losetup", "--find", "--show", file)
	if err != nil {
		return err
	}
	m.undo = append(m.undo, func() error { _, err := run("losetup", "--detach", dev); return err })
	if format {
		if _, err := run("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", dev); err != nil {
			return err
		}
	}
	if _, err := run("mount", "-t", "ext4", "-o", "noatime,nodiscard", dev, dir); err != nil {
		return err
	}
	m.undo = append(m.undo, func() error { _, err := run("umount", dir); return err })
	return nil
}

// possible returns why this machine cannot do it, "" if it can.
func possible() string {
	if os.Getuid() != 0 {
		return "needs root"
	}
	for _, dev := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(dev); err != nil {
			return dev + " is not here"
		}
	}
	for _, tool := range []string{"losetup", "mkfs.ext4", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			return tool + " is not here"
		}
	}
	return ""
}
