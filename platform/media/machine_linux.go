package media

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"tidegate/policy/refusal"

	"golang.org/x/sys/unix"
)

// mounts reads the mount table of this process.
func mounts() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return ParseMounts(f)
}

// deviceThere reports whether the kernel still knows a block device. Those of no device, with
// major number 0, are there as long as they are mounted.
func deviceThere(device string) bool {
	if device == "" || strings.HasPrefix(device, "0:") {
		return true
	}
	if _, err := os.Stat("/sys/dev/block"); err != nil {
		return true // no /sys: nobody can say
	}
	_, err := os.Stat(filepath.Join("/sys/dev/block", device))
	return err == nil
}

// kernelGroup is the multicast group in which the kernel itself speaks; udev uses another.
const kernelGroup = 1

// kernelEvents listens to the kernel's messages about devices (netlink(7)). Where that is not
// allowed the channel is nil, and polling has to do.
func kernelEvents(ctx context.Context) <-chan Event {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		_ = unix.Close(fd)
		return nil
	}
	// The receive ends each second, so that the goroutine sees ctx end.
	second := unix.Timeval{Sec: 1}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &second); err != nil {
		_ = unix.Close(fd)
		return nil
	}
	out := make(chan Event)
	go func() {
		defer close(out)
		defer unix.Close(fd) //nolint:errcheck // nothing was written
		buf := make([]byte, 16<<10)
		for ctx.Err() == nil {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			switch err {
			case nil:
			case unix.EAGAIN, unix.EINTR, unix.ENOBUFS: // ENOBUFS: some were lost; the polling sees
				continue
			default:
				return
			}
			// Any process may send to this socket. Only the kernel has port 0.
			if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
				continue
			}
			e, ok := ParseEvent(buf[:n])
			if !ok {
				continue
			}
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// Magic numbers of file systems (statfs(2)).
const (
	magicFAT     = 0x4d44
	magicExFAT   = 0x2011bab0
	magicISO9660 = 0x9660
)

// CheckFileSystem refuses, with E_MEDIA_FS, a volume that is not vfat, exfat or iso9660: the
// drivers of the others parse far more of what a stranger wrote. It asks the kernel, not the
// mount table.
func CheckFileSystem(v Volume) error {
	var st unix.Statfs_t
	if err := unix.Statfs(v.Dir, &st); err != nil {
		return Wrap(err)
	}
	switch uint32(st.Type) { //nolint:gosec // the magic numbers have 32 bits
	case magicFAT, magicExFAT, magicISO9660:
		return nil
	}
	return refusal.New(refusal.MediaFS, "the file system is %s; vfat, exfat and iso9660 are read", v.Type).
		WithHint("format the stick as FAT32 or exFAT and copy the files again")
}

// free returns the bytes that can be written below a folder; -1 where nobody can say.
func free(dir *os.File) int64 {
	var st unix.Statfs_t
	if unix.Fstatfs(int(dir.Fd()), &st) != nil {
		return -1
	}
	return int64(st.Bavail) * int64(st.Bsize) //nolint:gosec,unconvert // of a stick
}

// forget drops a file from the page cache, so that what is read next comes from the medium.
func forget(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// neverWait is the flag with which opening a pipe that nobody writes to does not hang.
const neverWait = unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_NOCTTY
