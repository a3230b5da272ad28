//go:build !linux

package host

import (
	"errors"
	"net"
)

// Kernel returns the release of the kernel; it is not known here.
func Kernel() string { return "" }

// SpaceOf returns the room of the file system that holds a path.
func SpaceOf(string) (Space, error) { return Space{}, errors.ErrUnsupported }

// Peer returns who opened a unix socket; it is not known here.
func Peer(net.Conn) (Credentials, bool) { return Credentials{}, false }
