package host

import (
	"net"

	"golang.org/x/sys/unix"
)

// Kernel returns the release of the kernel, as "6.1.0-18-arm64".
func Kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// SpaceOf returns the room of the file system that holds a path; Free is what an ordinary
// user may take.
func SpaceOf(name string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(name, &st); err != nil {
		return Space{}, err
	}
	unit := int64(st.Frsize)
	return Space{Total: int64(st.Blocks) * unit, Free: int64(st.Bavail) * unit}, nil
}

// Peer returns who opened a unix socket (SO_PEERCRED, unix(7)), and false for other connections.
func Peer(c net.Conn) (Credentials, bool) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return Credentials{}, false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return Credentials{}, false
	}
	var cred *unix.Ucred
	var sys error
	if err := raw.Control(func(fd uintptr) { cred, sys = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || sys != nil {
		return Credentials{}, false
	}
	return Credentials{UID: int(cred.Uid), GID: int(cred.Gid), PID: int(cred.Pid)}, true
}
