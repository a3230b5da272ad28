package board

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Ask asks the network of a card for an address: for a new one, or, with have, to keep that. It
// tries once, within ctx.
func Ask(ctx context.Context, card *net.Interface, have Lease) (Lease, error) {
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) {
			if err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, card.Name); err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
			}
		}); e != nil {
			return e
		}
		return err
	}}
	pc, err := c.ListenPacket(ctx, "udp4", ":68")
	if err != nil {
		return Lease{}, fmt.Errorf("dhcp: %w", err)
	}
	defer pc.Close()
	stop := context.AfterFunc(ctx, func() { _ = pc.SetDeadline(time.Now()) })
	defer stop()
	var seed [4]byte
	_, _ = rand.Read(seed[:]) // never fails
	q := question{pc, binary.BigEndian.Uint32(seed[:]), [6]byte(card.HardwareAddr)}
	if have.Address.IsValid() {
		m, err := q.ask(ctx, dhcpQuery(dhcpRequest, q.id, q.mac, netip.Addr{}, netip.Addr{}, have.Address.Addr()), dhcpAck)
		return m.Lease, err
	}
	offer, err := q.ask(ctx, dhcpQuery(dhcpDiscover, q.id, q.mac, netip.Addr{}, netip.Addr{}, netip.Addr{}), dhcpOffer)
	if err != nil {
		return Lease{}, err
	}
	m, err := q.ask(ctx, dhcpQuery(dhcpRequest, q.id, q.mac, offer.Address.Addr(), offer.Server, netip.Addr{}), dhcpAck)
	return m.Lease, err
}

type question struct {
	pc  net.PacketConn
	id  uint32
	mac [6]byte
}

// ask sends b, again every two seconds, until an answer of the wanted kind comes.
func (q question) ask(ctx context.Context, b []byte, want byte) (dhcpMessage, error) {
	buf := make([]byte, 1500)
	for {
		if _, err := q.pc.WriteTo(b, &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
			return dhcpMessage{}, fmt.Errorf("dhcp: %w", err)
		}
		if err := q.pc.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return dhcpMessage{}, err
		}
		for {
			n, _, err := q.pc.ReadFrom(buf)
			if ctx.Err() != nil {
				return dhcpMessage{}, fmt.Errorf("dhcp: no answer: %w", ctx.Err())
			}
			if err != nil {
				break // ask again
			}
			m, err := parseDHCP(buf[:n], q.id, q.mac)
			if err == nil && m.kind == want {
				return m, nil
			}
			if err == nil && m.kind == dhcpNak {
				return m, fmt.Errorf("dhcp: %s refused", m.Server)
			}
		}
	}
}
