package board

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// disk is a Disk in memory that may fail.
type disk struct {
	b     []byte
	write error
	torn  int // bytes of a write that get through before write
}

func (d *disk) ReadAt(p []byte, at int64) (int, error) {
	return bytes.NewReader(d.b).ReadAt(p, at)
}

func (d *disk) WriteAt(p []byte, at int64) (int, error) {
	if d.write != nil {
		copy(d.b[at:], p[:d.torn])
		return d.torn, d.write
	}
	return copy(d.b[at:], p), nil
}

func (d *disk) Sync() error { return nil }

func empty() *disk { return &disk{b: make([]byte, 4<<20)} }

func TestBootStateIsTheNewerRecord(t *testing.T) {
	d := empty()
	if _, err := ReadBoot(d); !errors.Is(err, ErrNoBoot) {
		t.Fatalf("empty disk: got %v", err)
	}
	for i := range 7 {
		want := Boot{Slot: "B", Good: "A", Back: "none", Tries: i}
		if err := WriteBoot(d, want); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadBoot(d); err != nil || got != want {
			t.Fatalf("write %d: got %+v, %v; want %+v", i, got, err, want)
		}
	}
}

// Wherever a write is torn, the state before it or the state after it is read.
func TestTornBootStateLeavesTheOldOne(t *testing.T) {
	old, fresh := Boot{Slot: "A", Good: "A", Back: "none"}, Boot{Slot: "B", Good: "A", Back: "none", Tries: 3}
	for torn := 0; torn <= recordSize; torn += 7 {
		d := empty()
		for range 2 { // both records are there
			if err := WriteBoot(d, old); err != nil {
				t.Fatal(err)
			}
		}
		d.write, d.torn = errors.New("power cut"), torn
		if err := WriteBoot(d, fresh); err == nil {
			t.Fatal("a failed write was not reported")
		}
		if got, err := ReadBoot(d); err != nil || got != old && got != fresh {
			t.Errorf("torn after %d bytes: got %+v, %v", torn, got, err)
		}
	}
}

// As U-Boot's "env export -c -s 200" wrote it.
func TestBootStateIsUBoots(t *testing.T) {
	b := make([]byte, recordSize)
	copy(b[4:], "BACK=none\x00GEN=1\x00GOOD=A\x00SLOT=B\x00TRIES=a\x00\x00")
	binary.LittleEndian.PutUint32(b, 0x87fd229d)
	got, ok := decodeBoot(b)
	want := record{Boot{Slot: "B", Good: "A", Back: "none", Tries: 10}, 1}
	if !ok || got != want {
		t.Fatalf("got %+v, %v", got, ok)
	}
	if !bytes.Equal(encodeBoot(want), b) {
		t.Errorf("written differently: %q", encodeBoot(want))
	}
	b[9]++
	if _, ok := decodeBoot(b); ok {
		t.Error("a damaged record was taken")
	}
}

// table puts partitions (start and length in MiB) on d.
func table(d *disk, parts ...[2]uint32) {
	for i, p := range parts {
		e := d.b[tableAt+i*entryLen:]
		binary.LittleEndian.PutUint32(e[8:], p[0]*2048)
		binary.LittleEndian.PutUint32(e[12:], p[1]*2048)
	}
	d.b[510], d.b[511] = 0x55, 0xaa
}

func TestDataPartitionGrowsToTheEndOfTheDisk(t *testing.T) {
	const mib = 1 << 20
	d := empty()
	if _, err := Grow(d, 4, 100*mib); !errors.Is(err, ErrNoTable) {
		t.Errorf("no table: got %v", err)
	}
	table(d, [2]uint32{1, 10}, [2]uint32{11, 10}, [2]uint32{21, 10}, [2]uint32{31, 10})
	before := bytes.Clone(d.b[:sector])
	x, err := Grow(d, 4, 100*mib+12345)
	if err != nil || x != (Extent{31 * mib, 69 * mib}) {
		t.Errorf("got %+v, %v", x, err)
	}
	if y, err := Partition(d, 4); err != nil || y != x {
		t.Errorf("on the disk: %+v, %v", y, err)
	}
	if !bytes.Equal(before[:tableAt+3*entryLen+12], d.b[:tableAt+3*entryLen+12]) {
		t.Error("more than the size was changed")
	}
	if y, err := Grow(d, 4, 100*mib); err != nil || y != x {
		t.Errorf("a second time: %+v, %v", y, err)
	}
	if y, err := Grow(d, 4, 1<<50); err != nil || y.Start+y.Size > maxLBA*sector {
		t.Errorf("beyond what the table can say: %+v, %v", y, err)
	}
	if _, err := Grow(d, 2, 1000*mib); err == nil {
		t.Error("a partition in the middle grew over its neighbour")
	}
}

func TestFileSystems(t *testing.T) {
	for want, put := range map[string]func(b []byte){
		"vfat":     func(b []byte) { copy(b[82:], "FAT32   "); copy(b[510:], "\x55\xaa") },
		"exfat":    func(b []byte) { copy(b[3:], "EXFAT   ") },
		"iso9660":  func(b []byte) { copy(b[32769:], "CD001") },
		"ext4":     func(b []byte) { copy(b[1080:], "\x53\xef") },
		"squashfs": func(b []byte) { copy(b, "hsqs") },
		"":         func([]byte) {},
	} {
		d := empty()
		put(d.b)
		if got := FileSystem(d); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := FileSystem(&disk{b: []byte("hsqs")}); got != "squashfs" {
		t.Errorf("short disk: %q", got)
	}
}

func TestUevents(t *testing.T) {
	const usb = "add@/devices/pci0000:00/0000:00:02.0/usb1/1-1/1-1:1.0/host0/target0:0:0/0:0:0:0/block/sda/sda1\x00ACTION=add\x00SUBSYSTEM=block\x00DEVNAME=sda1\x00DEVTYPE=partition\x00SEQNUM=7\x00"
	u, ok := ParseUevent([]byte(usb))
	if !ok || u.Name != "sda1" || u.Type != "partition" || !u.Volume() {
		t.Errorf("got %+v, %v", u, ok)
	}
	for _, other := range []string{
		strings.Replace(usb, "add@", "remove@", 1),
		strings.Replace(usb, "/usb1", "/ata1", 1),
		strings.Replace(usb, "SUBSYSTEM=block", "SUBSYSTEM=input", 1),
		strings.Replace(usb, "DEVNAME=sda1", "DEVNAME=../mem", 1),
		strings.Replace(usb, "DEVNAME=sda1", "DEVNAME=", 1),
	} {
		if u, _ := ParseUevent([]byte(other)); u.Volume() {
			t.Errorf("taken for a stick: %q", other)
		}
	}
	for _, bad := range []string{"", "libudev\x00\xfe\xed", "add", "add@relative\x00SUBSYSTEM=block\x00"} {
		if _, ok := ParseUevent([]byte(bad)); ok {
			t.Errorf("taken: %q", bad)
		}
	}
}

func FuzzUevent(f *testing.F) {
	f.Add([]byte("add@/devices/usb1/block/sda\x00SUBSYSTEM=block\x00DEVNAME=sda\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, ok := ParseUevent(b); ok && u.Volume() && strings.ContainsAny(u.Name, "/.\x00") {
			t.Errorf("a name that leads elsewhere: %q", u.Name)
		}
	})
}

func TestNetworkFile(t *testing.T) {
	n, err := ParseNetwork(strings.NewReader("\ufeff# the quay\r\ninterface = eth0\r\naddress = 10.1.2.3/24\r\ngateway = 10.1.2.1\r\ndns = 10.1.2.1 9.9.9.9\r\n"))
	want := Network{"eth0", netip.MustParsePrefix("10.1.2.3/24"), netip.MustParseAddr("10.1.2.1"), []netip.Addr{netip.MustParseAddr("10.1.2.1"), netip.MustParseAddr("9.9.9.9")}}
	if err != nil || !reflect.DeepEqual(n, want) || n.DHCP() {
		t.Errorf("got %+v, %v", n, err)
	}
	if n, err := ParseNetwork(strings.NewReader("")); err != nil || !n.DHCP() {
		t.Errorf("empty: got %+v, %v", n, err)
	}
	n, err = ParseNetwork(strings.NewReader("address = 10.1.2.3\ninterface = ../x\naddress = fe80::1/64\nspeed = 3\nhello\ndns = 9.9.9.9 x\n"))
	for _, want := range []string{"network.txt:1:", "network.txt:2:", "network.txt:3:", "network.txt:4: unknown key", "network.txt:5: want key = value", "network.txt:6:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	if !n.DHCP() || n.Interface != "" || len(n.DNS) != 1 {
		t.Errorf("got %+v", n)
	}
}

var mac = [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}

// answer writes what a server sends.
func answer(kind byte, id uint32, options ...byte) []byte {
	b := make([]byte, dhcpFixed)
	b[0], b[1], b[2] = 2, 1, 6
	binary.BigEndian.PutUint32(b[4:], id)
	copy(b[16:], []byte{10, 0, 2, 15})
	copy(b[28:], mac[:])
	binary.BigEndian.PutUint32(b[236:], dhcpCookie)
	b = append(b, optType, 1, kind)
	return append(append(b, options...), optEnd)
}

func TestLeases(t *testing.T) {
	m, err := parseDHCP(answer(dhcpAck, 7, optMask, 4, 255, 255, 252, 0, optPad, optRouter, 4, 10, 0, 2, 2, optDNS, 8, 10, 0, 2, 3, 9, 9, 9, 9,
		optServer, 4, 10, 0, 2, 2, optLease, 4, 0, 1, 0x51, 0x80), 7, mac)
	want := Lease{
		netip.MustParsePrefix("10.0.2.15/22"), netip.MustParseAddr("10.0.2.2"),
		[]netip.Addr{netip.MustParseAddr("10.0.2.3"), netip.MustParseAddr("9.9.9.9")},
		netip.MustParseAddr("10.0.2.2"), 24 * time.Hour, 12 * time.Hour,
	}
	if err != nil || m.kind != dhcpAck || !reflect.DeepEqual(m.Lease, want) {
		t.Errorf("got %+v, %v", m, err)
	}
	// A server cannot make a device ask all the time, nor never again.
	for lease, most := range map[[4]byte]time.Duration{{}: time.Minute, {255, 255, 255, 255}: 7 * 24 * time.Hour} {
		m, err := parseDHCP(answer(dhcpAck, 7, append([]byte{optRenew, 4, 0, 0, 0, 1, optLease, 4}, lease[:]...)...), 7, mac)
		if err != nil || m.For != most || m.Renew < 30*time.Second {
			t.Errorf("lease %v: got %v, renewed after %v, %v", lease, m.For, m.Renew, err)
		}
	}
	for name, b := range map[string][]byte{
		"other question":  answer(dhcpAck, 8),
		"a question":      dhcpQuery(dhcpRequest, 7, mac, netip.Addr{}, netip.Addr{}, netip.Addr{}),
		"cut option":      append(answer(dhcpAck, 7)[:dhcpFixed+3], optDNS, 8, 1),
		"mask with holes": answer(dhcpAck, 7, optMask, 4, 255, 0, 255, 0),
		"everything":      answer(dhcpAck, 7, optMask, 4, 0, 0, 0, 0),
		"short":           answer(dhcpAck, 7)[:200],
	} {
		if m, err := parseDHCP(b, 7, mac); err == nil {
			t.Errorf("%s: taken: %+v", name, m)
		}
	}
}

func FuzzDHCP(f *testing.F) {
	f.Add(answer(dhcpOffer, 7, optMask, 4, 255, 255, 255, 0, optLease, 4, 0, 0, 1, 0))
	f.Add(answer(dhcpNak, 7))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseDHCP(b, 7, mac)
		if err == nil && (m.Renew < 30*time.Second || m.Renew > m.For) {
			t.Errorf("renewed after %v of %v", m.Renew, m.For)
		}
	})
}

func TestPauseBetweenStarts(t *testing.T) {
	wait, total := time.Duration(0), time.Duration(0)
	for range 20 {
		wait = pause(wait, 0)
		total += wait
	}
	if wait != lastPause || total < 10*lastPause {
		t.Errorf("after 20 starts: pause %v, %v in all", wait, total)
	}
	if got := pause(lastPause, time.Hour); got != firstPause {
		t.Errorf("after an hour of service: %v", got)
	}
}

func TestTheRootOfTheCommandLine(t *testing.T) {
	if got := rootArgument("console=ttyAMA0 root=PARTUUID=74696465-02 ro rootwait"); got != "PARTUUID=74696465-02" {
		t.Errorf("got %q", got)
	}
	if d, n, ok := parsePartUUID("PARTUUID=74696465-03"); d != 0x74696465 || n != 3 || !ok {
		t.Errorf("got %x, %d, %v", d, n, ok)
	}
	for _, bad := range []string{"", "/dev/sda2", "PARTUUID=", "PARTUUID=74696465", "PARTUUID=-02", "PARTUUID=x-02", "PARTUUID=74696465-00", "PARTUUID=0-02", "PARTUUID=174696465-02"} {
		if _, _, ok := parsePartUUID(bad); ok {
			t.Errorf("taken: %q", bad)
		}
	}
}
