package board

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// moduleList is there in an initramfs only: the files of kernel modules, in the order in which they
// are loaded.
const moduleList = "/modules"

// rootWait is how long the disk of the system may take to appear.
const rootWait = 30 * time.Second

// enterSystem is what the first process does while it still runs from an initramfs, on kernels that
// do not have their drivers built in: it loads modules, mounts the system, and runs the first process
// of it in its own place. It returns at once where there is no initramfs.
func (f *first) enterSystem() error {
	list, err := os.Open(moduleList)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(list); lines.Scan(); {
		f.note("module "+lines.Text(), loadModule(lines.Text()))
	}
	_ = list.Close()
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	dev, err := waitForRoot(rootArgument(string(cmdline)), rootWait)
	if err != nil {
		return err
	}
	const root = "/system"
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(dev, root, "squashfs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dev, err)
	}
	for _, m := range []string{"/dev", "/proc", "/sys", "/run", "/tmp"} {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	if err := errors.Join(os.Chdir(root), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), os.Chdir("/")); err != nil {
		return fmt.Errorf("enter the system: %w", err)
	}
	return unix.Exec("/init", []string{"/init"}, nil)
}

func loadModule(name string) error {
	m, err := os.Open(name)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := unix.FinitModule(int(m.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// waitForRoot returns the device of the partition that is named as PARTUUID=DISK-NN.
func waitForRoot(root string, patience time.Duration) (string, error) {
	disk, n, ok := parsePartUUID(root)
	if !ok {
		return "", fmt.Errorf("root=%s: want PARTUUID=XXXXXXXX-NN", root)
	}
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		all, err := filepath.Glob("/sys/class/block/*/partition")
		if err != nil {
			return "", err
		}
		for _, p := range all {
			b, err := os.ReadFile(p)
			if err != nil || strings.TrimSpace(string(b)) != fmt.Sprint(n) {
				continue
			}
			dir, err := filepath.EvalSymlinks(filepath.Dir(p))
			if err == nil && diskID("/dev/"+filepath.Base(filepath.Dir(dir))) == disk {
				return "/dev/" + filepath.Base(dir), nil
			}
		}
		if time.Since(began) > patience {
			return "", fmt.Errorf("root=%s: no such partition after %v", root, patience)
		}
	}
}

// diskID reads the number of a disk with an MBR; 0 if there is none.
func diskID(dev string) uint32 {
	d, err := os.Open(dev)
	if err != nil {
		return 0
	}
	defer d.Close()
	b := make([]byte, sector)
	if _, err := d.ReadAt(b, 0); err != nil {
		return 0
	}
	return binary.LittleEndian.Uint32(b[440:])
}
