package board

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// request sends one message of rtnetlink(7) and returns the kernel's answer.
func request(kind uint16, flags uint16, body []byte) error {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	b := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
	n := binary.NativeEndian
	n.PutUint32(b, uint32(unix.NLMSG_HDRLEN+len(body)))
	n.PutUint16(b[4:], kind)
	n.PutUint16(b[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	n.PutUint32(b[8:], 1)
	if err := unix.Sendto(s, append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	got, _, err := unix.Recvfrom(s, answer, 0)
	if err != nil {
		return err
	}
	if got < unix.NLMSG_HDRLEN+4 || n.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("odd answer of the kernel")
	}
	if e := -int32(n.Uint32(answer[unix.NLMSG_HDRLEN:])); e != 0 {
		return unix.Errno(e)
	}
	return nil
}

// attribute appends one attribute.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, (4-len(value)%4)%4)...)
}

// Up switches an interface on.
func Up(index int) error {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(b[12:], unix.IFF_UP)
	return request(unix.RTM_NEWLINK, 0, b)
}

// SetAddress gives an interface an IPv4 address, for a while if forever is not meant (0).
func SetAddress(index int, a netip.Prefix, lease time.Duration) error {
	b := []byte{unix.AF_INET, byte(a.Bits()), 0, 0}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = attribute(b, unix.IFA_LOCAL, a.Addr().AsSlice())
	b = attribute(b, unix.IFA_ADDRESS, a.Addr().AsSlice())
	if lease > 0 {
		c := make([]byte, 16) // struct ifa_cacheinfo: preferred, valid, two times
		binary.NativeEndian.PutUint32(c, uint32(lease/time.Second))
		binary.NativeEndian.PutUint32(c[4:], uint32(lease/time.Second))
		b = attribute(b, unix.IFA_CACHEINFO, c)
	}
	if err := request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b); err != nil {
		return fmt.Errorf("address %s: %w", a, err)
	}
	return nil
}

// SetGateway sends what is for elsewhere to a router.
func SetGateway(index int, gateway netip.Addr) error {
	b := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0}
	b = attribute(b, unix.RTA_GATEWAY, gateway.AsSlice())
	b = attribute(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	if err := request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b); err != nil {
		return fmt.Errorf("gateway %s: %w", gateway, err)
	}
	return nil
}

// Uevents sends what the kernel says about volumes until ctx ends. What comes faster than it
// is taken is lost in the kernel, not here.
func Uevents(ctx context.Context, to chan<- Uevent) error {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("kernel events: %w", err)
	}
	f := os.NewFile(uintptr(s), "uevents")
	defer f.Close()
	if err := unix.Bind(s, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return fmt.Errorf("kernel events: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Now()) })
	defer stop()
	b := make([]byte, 16<<10)
	for {
		n, err := f.Read(b)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, unix.ENOBUFS) {
			continue
		}
		if err != nil {
			return fmt.Errorf("kernel events: %w", err)
		}
		if u, ok := ParseUevent(b[:n]); ok && u.Subsystem == "block" {
			select {
			case to <- u:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// Card returns the interface of that name, or, for "", the first by name that is no loopback.
func Card(name string) (*net.Interface, error) {
	if name != "" {
		return net.InterfaceByName(name)
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(x, y net.Interface) int { return strings.Compare(x.Name, y.Name) })
	for i := range all {
		if all[i].Flags&net.FlagLoopback == 0 && len(all[i].HardwareAddr) == 6 {
			return &all[i], nil
		}
	}
	return nil, errors.New("no network interface")
}
