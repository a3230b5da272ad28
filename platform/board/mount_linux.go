package board

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MountSystem mounts what every Linux program expects.
func MountSystem() error {
	const plainFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	var errs []error
	for _, m := range []struct {
		what, kind, where string
		flags             uintptr
		options           string
	}{
		{"proc", "proc", "/proc", plainFlags, "hidepid=2"},
		{"sysfs", "sysfs", "/sys", plainFlags, ""},
		{"devtmpfs", "devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
		{"tmpfs", "tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=16m"},
		{"tmpfs", "tmpfs", "/tmp", plainFlags, "mode=1777,size=16m"},
		{"cgroup2", "cgroup2", "/sys/fs/cgroup", plainFlags, ""},
	} {
		err := unix.Mount(m.what, m.where, m.kind, m.flags, m.options)
		if err != nil && !errors.Is(err, unix.EBUSY) { // the kernel mounts /dev itself
			errs = append(errs, fmt.Errorf("mount %s: %w", m.where, err))
		}
	}
	return errors.Join(errs...)
}

// MountRead mounts a volume that nobody vouches for: read-only, and nothing on it is run,
// opened as a device or followed as a link.
func MountRead(dev, kind, where string) error {
	if err := os.MkdirAll(where, 0o755); err != nil {
		return err
	}
	options := ""
	if kind == "vfat" {
		options = "umask=0222"
	}
	if err := unix.Mount(dev, where, kind, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOSYMFOLLOW, options); err != nil {
		return fmt.Errorf("mount %s: %w", dev, err)
	}
	return nil
}

// MountWrite mounts a volume that is mounted already anew, so that a user may write to it.
func MountWrite(dev, kind, where string, user uint32) error {
	options := ""
	if kind != "iso9660" {
		options = fmt.Sprintf("uid=%d,gid=%d,fmask=0177,dmask=0077", user, user)
	}
	if err := unix.Unmount(where, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", where, err)
	}
	if err := unix.Mount(dev, where, kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOSYMFOLLOW, options); err != nil {
		return errors.Join(fmt.Errorf("mount %s: %w", dev, err), MountRead(dev, kind, where))
	}
	return nil
}

// Unmount takes a volume off, also one that is gone or in use.
func Unmount(where string) error { return unix.Unmount(where, unix.MNT_DETACH) }

// MountData mounts the ext4 of the data partition.
func MountData(dev, where string) error {
	if err := unix.Mount(dev, where, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOATIME, "errors=remount-ro"); err != nil {
		return fmt.Errorf("mount %s: %w", dev, err)
	}
	return nil
}

// SizeOf returns the bytes of a block device.
func SizeOf(f *os.File) (int64, error) { return f.Seek(0, 2) }

// Refresh makes the next reads of a disk come from it and not from memory.
func Refresh(disk *os.File) error {
	if err := unix.IoctlSetInt(int(disk.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("flush buffers: %w", err)
	}
	return nil
}

// blkpgPartition and blkpg are struct blkpg_partition and struct blkpg_ioctl_arg of linux/blkpg.h.
type blkpgPartition struct {
	start, length int64
	number        int32
	_             [64 + 64]byte
	_             [4]byte
}

type blkpg struct {
	op, flags, size int32
	data            *blkpgPartition
}

// Resize tells the kernel that partition n of disk became longer, while it is in use.
func Resize(disk *os.File, n int, x Extent) error {
	p := blkpgPartition{start: x.Start, length: x.Size, number: int32(n)}
	a := blkpg{op: 3 /* BLKPG_RESIZE_PARTITION */, size: int32(unsafe.Sizeof(p)), data: &p}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&a))); e != 0 {
		return fmt.Errorf("resize partition %d: %w", n, e)
	}
	return nil
}

// GrowData makes the mounted ext4 fill its partition of size bytes.
func GrowData(where string, size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(where, &st); err != nil {
		return err
	}
	d, err := os.Open(where)
	if err != nil {
		return err
	}
	defer d.Close()
	blocks := uint64(size / int64(st.Bsize))
	const ext4ResizeFS = 0x40086610 // EXT4_IOC_RESIZE_FS: _IOW('f', 16, __u64)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), ext4ResizeFS, uintptr(unsafe.Pointer(&blocks))); e != 0 {
		return fmt.Errorf("grow %s: %w", where, e)
	}
	return nil
}

// Group makes a control group with a memory limit in bytes and at most tasks threads, and
// returns an open directory for starting processes in it.
func Group(name string, memory, tasks int64) (*os.File, error) {
	const root = "/sys/fs/cgroup"
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory +pids"), 0); err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	dir := filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	for file, n := range map[string]int64{"memory.max": memory, "pids.max": tasks} {
		if err := os.WriteFile(filepath.Join(dir, file), fmt.Append(nil, n), 0); err != nil {
			return nil, fmt.Errorf("control group %s: %w", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "memory.oom.group"), []byte("1"), 0); err != nil {
		return nil, fmt.Errorf("control group %s: %w", name, err)
	}
	return os.Open(dir)
}

// A Watchdog resets the machine when it is not fed.
type Watchdog struct{ f *os.File }

// OpenWatchdog opens the first watchdog of the machine; from here on it must be fed.
func OpenWatchdog() (*Watchdog, error) {
	f, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	return &Watchdog{f}, nil
}

// Feed gives the machine another while.
func (w *Watchdog) Feed() error {
	_, err := w.f.Write([]byte{0})
	return err
}

// Reboot writes everything to disk and starts the machine anew. It does not return but on
// an error.
func Reboot() error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
