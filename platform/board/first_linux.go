package board

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Run looks after the machine until it is switched off. It must be process 1.
func Run(o Options) error {
	if os.Getpid() != 1 {
		return errors.New("it is the first process of a flash image, and nothing else")
	}
	f := &first{Options: o}
	f.say("starting")
	f.note("mounts", MountSystem())
	f.note("system", f.enterSystem())
	f.cmdline()
	go f.watchdog()
	go f.reap()
	if err := f.disks(); err != nil {
		// Without its data the device would be another one. It waits for a person.
		f.say("NOT SERVING: %v", err)
		f.say("if the card is damaged: \"erase\" makes it a new device, or flash it anew")
		f.console()
		select {}
	}
	f.note("loopback", Up(1))
	go f.network()
	f.gateway = newService(f)
	f.note("systems", f.control())
	go f.gateway.run()
	go f.sticks()
	go f.welcome()
	go f.trial()
	f.console()
	select {}
}

// first is the first process.
type first struct {
	Options
	slot, want, back string // of the command line: what runs, what was meant to, what was given up
	systems          *Systems
	disk             string // name of the disk the system is on: "vda", "mmcblk0"
	part             string // what stands between its name and the number of a partition: "", "p"
	gateway          *service
	kids             children

	sticky  sync.RWMutex // read-locked while a stick is looked into
	mu      sync.Mutex
	address string // for people
}

// say writes a line to the console.
func (f *first) say(format string, args ...any) {
	fmt.Fprintf(os.Stdout, "tideinit: "+format+"\r\n", args...)
}

// note says that something went wrong which the machine can live with.
func (f *first) note(what string, err error) {
	if err != nil {
		f.say("%s: %v", what, err)
	}
}

// cmdline reads what the boot loader said.
func (f *first) cmdline() {
	b, err := os.ReadFile("/proc/cmdline")
	f.note("command line", err)
	f.slot, f.want, f.back = "A", "A", "none"
	for _, w := range strings.Fields(string(b)) {
		switch name, value, _ := strings.Cut(w, "="); name {
		case "tide.slot":
			f.slot = value
		case "tide.want":
			f.want = value
		case "tide.back":
			f.back = value
		}
	}
	f.say("system %s", f.slot)
	if f.slot != f.want {
		f.say("system %s does not load", f.want)
	}
	if f.back != "none" {
		f.say("system %s did not come up and was given up", f.back)
	}
}

// watchdog feeds the hardware watchdog while this process lives.
func (f *first) watchdog() {
	w, err := OpenWatchdog()
	if err != nil {
		f.note("hardware watchdog", err)
		return
	}
	for ; ; time.Sleep(5 * time.Second) {
		f.note("hardware watchdog", w.Feed())
	}
}

// reap takes in the processes whose parents died. Those that were started here are waited
// for where they were started, so it looks first and takes only others.
func (f *first) reap() {
	for ; ; time.Sleep(5 * time.Second) {
		var info unix.Siginfo
		if unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) != nil {
			continue
		}
		pid := siginfoPID(&info)
		if pid > 0 && !f.kids.has(pid) {
			var st unix.WaitStatus
			_, _ = unix.Wait4(pid, &st, unix.WNOHANG, nil)
		}
	}
}

// disks finds the disk of the system, lets the data partition fill it, and mounts both.
func (f *first) disks() error {
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		return err
	}
	link, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))))
	if err != nil {
		return fmt.Errorf("disk of the system: %w", err)
	}
	f.disk = filepath.Base(filepath.Dir(link))
	f.part = strings.TrimRight(strings.TrimPrefix(filepath.Base(link), f.disk), "0123456789")
	f.note("boot partition", MountRead(f.partition(1), "vfat", f.Boot))

	d, err := os.OpenFile("/dev/"+f.disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	size, err := SizeOf(d)
	if err != nil {
		return err
	}
	x, err := Grow(d, 4, size)
	if err != nil {
		return err
	}
	f.note("data partition", Resize(d, 4, x))
	if err := MountData(f.partition(4), f.Data); err != nil {
		return err
	}
	f.note("data partition", GrowData(f.Data, x.Size))
	home := f.home()
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	return os.Chown(home, int(f.User), int(f.User))
}

func (f *first) partition(n int) string { return fmt.Sprintf("/dev/%s%s%d", f.disk, f.part, n) }

// home is the gateway's data folder.
func (f *first) home() string { return filepath.Join(f.Data, "tidegate") }

// network keeps the machine's address.
func (f *first) network() {
	var n Network
	if b, err := os.Open(filepath.Join(f.Boot, "network.txt")); err == nil {
		n, err = ParseNetwork(b)
		f.note("network", err)
		_ = b.Close()
	}
	var lease Lease
	for wait := time.Second; ; {
		again, err := f.address1(n, &lease)
		if err != nil {
			f.note("network", err)
			time.Sleep(wait)
			wait = min(2*wait, time.Minute)
			continue
		}
		if again == 0 {
			return
		}
		wait = time.Second
		time.Sleep(again)
	}
}

// address1 sets the address once and returns after which time to do it again, 0 for never.
func (f *first) address1(n Network, lease *Lease) (time.Duration, error) {
	card, err := Card(n.Interface)
	if err != nil {
		return 0, err
	}
	if err := Up(card.Index); err != nil {
		return 0, fmt.Errorf("%s: %w", card.Name, err)
	}
	l := Lease{Address: n.Static, Gateway: n.Gateway, DNS: n.DNS}
	if n.DHCP() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		l, err = Ask(ctx, card, *lease)
		if err != nil {
			*lease = Lease{} // the next time from the beginning; the old address ends by itself
			return 0, fmt.Errorf("%s: %w", card.Name, err)
		}
	}
	if err := SetAddress(card.Index, l.Address, l.For); err != nil {
		return 0, err
	}
	if l.Gateway.IsValid() {
		f.note("network", SetGateway(card.Index, l.Gateway))
	}
	f.note("network", writeResolver(l.DNS))
	if l.Address != lease.Address {
		f.say("%s has %s", card.Name, l.Address)
	}
	f.mu.Lock()
	f.address = l.Address.Addr().String()
	f.mu.Unlock()
	*lease = l
	return l.Renew, nil
}

func writeResolver(servers []netip.Addr) error {
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	return os.WriteFile("/run/resolv.conf", []byte(b.String()), 0o644)
}

// welcome says, once the gateway serves, what a person at the line wants to know.
func (f *first) welcome() {
	<-f.gateway.ready
	f.mu.Lock()
	address := f.address
	f.mu.Unlock()
	f.say("ready; address %s; Enter shows what can be done here", address)
}

// console serves the person at the serial line: who is there has the device in hand.
func (f *first) console() {
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for {
			for lines.Scan() {
				f.obey(strings.TrimSpace(lines.Text()))
			}
			time.Sleep(time.Second) // nobody is at the line
			lines = bufio.NewScanner(os.Stdin)
		}
	}()
}

func (f *first) obey(word string) {
	switch word {
	case "status", "doctor", "history":
		out, err := f.command(nil, word)
		fmt.Fprint(os.Stdout, strings.ReplaceAll(out, "\n", "\r\n"))
		f.note(word, err)
	case "log":
		if f.gateway != nil {
			fmt.Fprint(os.Stdout, strings.ReplaceAll(f.gateway.log.String(), "\n", "\r\n"))
		}
	case "restart":
		if f.gateway != nil {
			f.gateway.kill("asked for", syscall.SIGTERM)
		}
	case "reboot":
		f.stop()
		f.note("reboot", Reboot())
	case "erase":
		f.say("this makes it a new device: keys, trust, bundles, counters and events go; type \"erase everything\"")
	case "erase everything":
		f.stop()
		err := f.erase()
		if err == nil {
			f.say("erased")
			err = Reboot()
		}
		f.note("erase", err)
	default:
		f.say("system %s; here you can say: status, doctor, history, log, restart, reboot, erase", f.slot)
		out, _ := f.command(nil, "version")
		f.say("%s", strings.TrimSpace(out))
	}
}

// stop ends the gateway for good.
func (f *first) stop() {
	if f.gateway != nil {
		f.gateway.end()
	}
}

// erase puts an empty file system on the data partition. A power cut on the way leaves one
// that does not mount, and the same offer at the next start.
func (f *first) erase() error {
	in, err := os.Open(f.Empty)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	if err := Unmount(f.Data); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	out, err := os.OpenFile(f.partition(4), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, z)
	return errors.Join(err, out.Sync(), out.Close())
}
