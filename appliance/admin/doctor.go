package admin

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"tidegate/platform/host"
	"tidegate/store/events/batch"
	"time"
)

// A Finding is one thing that was looked at.
type Finding struct {
	What   string `json:"what"`
	State  string `json:"state"` // ok, warning, fault
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"` // what to do, if it is not ok
}

// Facts are what doctor wants to know beside the status.
type Facts struct {
	Kernel string
	Mount  host.Mount // of the data folder
	Memory int64      // bytes the device may use; 0: not known
	Source string     // where Memory comes from
	Warn   []string   // of the configuration
	Public bool       // the admin listener is reached from elsewhere
	Certs  []Cert
}

// Cert is a certificate that a listener shows.
type Cert struct {
	Listener string
	NotAfter time.Time
	Own      bool // made by the device
}

func lossReasons() []string {
	var out []string
	for _, r := range batch.Reasons() {
		out = append(out, string(r))
	}
	return out
}

func (a *API) doctor(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, Examine(a.d.Status(), a.d.Facts(), a.d.Accounts.Any()))
	return nil
}

// The states of findings.
const (
	StateOK      = "ok"
	StateWarning = "warning"
	StateFault   = "fault"
)

// patient collects findings.
type patient struct {
	s     Status
	f     Facts
	found []Finding
}

func (p *patient) ok(what, format string, args ...any) {
	p.found = append(p.found, Finding{what, StateOK, fmt.Sprintf(format, args...), ""})
}

func (p *patient) warn(what, remedy, format string, args ...any) {
	p.found = append(p.found, Finding{what, StateWarning, fmt.Sprintf(format, args...), remedy})
}

func (p *patient) fault(what, remedy, format string, args ...any) {
	p.found = append(p.found, Finding{what, StateFault, fmt.Sprintf(format, args...), remedy})
}

// Examine judges a device. accounts says whether anybody could sign in to the page.
func Examine(s Status, f Facts, accounts bool) []Finding {
	p := &patient{s: s, f: f, found: []Finding{}}
	p.service()
	p.trust()
	p.bundle()
	p.clock()
	p.disk()
	p.kernel()
	p.memory()
	p.state()
	p.link()
	p.page(accounts)
	for _, x := range s.Alarms {
		p.fault("alarm", "tidegate history tells what happened", "%s: %s", x.Word, x.Detail)
	}
	for _, x := range s.Finds {
		p.warn("start", "the log of the start has more: journalctl -u tidegate", "%s", x)
	}
	for _, x := range s.Words {
		p.warn("trust", "tidectl trust show tells the dates; rotate with tidectl trust rotate", "%s", x)
	}
	for _, x := range f.Warn {
		p.warn("config", "correct the name or take the variable away", "%s", x)
	}
	return p.found
}

func (p *patient) service() {
	switch l := p.s.Listen; {
	case !p.s.Ready:
		p.fault("service", "journalctl -u tidegate tells why", "not ready")
	case l.HTTP == "" && l.HTTPS == "":
		p.fault("listeners", "set listen.http or listen.https", "nobody can call: no listener")
	default:
		p.ok("service", "serving since %s", Age(p.s.Uptime))
		p.ok("listeners", "http %s, https %s", orNone(l.HTTP), orNone(l.HTTPS))
	}
	if p.s.Device == "" {
		p.fault("identity", "restore the folder identity/ from a backup, or enrol the device anew", "the device has no usable keys")
	} else {
		p.ok("identity", "%s", p.s.Device)
	}
	for _, c := range p.f.Certs {
		left := c.NotAfter.Sub(p.s.Clock.Floor)
		switch {
		case c.Own:
			p.ok("certificate", "%s: the device's own", c.Listener)
		case left < 0:
			p.fault("certificate", "put a new one in place and restart", "%s: expired on %s", c.Listener, c.NotAfter.Format(time.DateOnly))
		case left < 30*24*time.Hour:
			p.warn("certificate", "put a new one in place and restart", "%s: expires on %s", c.Listener, c.NotAfter.Format(time.DateOnly))
		default:
			p.ok("certificate", "%s: good until %s", c.Listener, c.NotAfter.Format(time.DateOnly))
		}
	}
}

func (p *patient) trust() {
	switch t := p.s.Trust; {
	case t.Locked != "":
		p.fault("trust", "tidegate trust install FILE.tideroot", "updates are refused: %s", t.Locked)
	case t.Root == 0:
		p.fault("trust", "tidegate trust install FILE.tideroot", "no trust root: no bundle can be verified")
	default:
		p.ok("trust", "root %d of domain %.12s…", t.Root, t.Domain)
	}
}

func (p *patient) bundle() {
	switch b := p.s.Bundle; b.State {
	case "confirmed":
		p.ok("bundle", "%d of %s/%s, confirmed", b.Serving.Seq, b.Serving.Product, b.Serving.Channel)
	case "trial":
		p.warn("bundle", "wait for the verdict, or decide: tidegate confirm, tidegate rollback", "%d is on trial", b.Trial.Seq)
	case "none":
		p.fault("bundle", "tidegate apply FILE.tide", "none installed: every call is answered 503")
	default:
		p.fault("bundle", "apply the bundle again: tidegate apply FILE.tide", "safe mode: no stored bundle loads")
	}
	for name, b := range map[string]*Bundle{"serving": p.s.Bundle.Serving, "last known good": p.s.Bundle.Good} {
		if b != nil && b.Damaged {
			p.fault("bundle", "apply it again: tidegate apply FILE.tide", "the %s bundle (%d) is damaged on disk", name, b.Seq)
		}
	}
	if b := p.s.Bundle.Serving; b != nil && b.Expires != nil {
		if left := b.Expires.Sub(p.s.Clock.Floor); left < 30*24*time.Hour {
			p.warn("bundle", "it goes on serving; build a new one with a later date", "%d expires on %s", b.Seq, b.Expires.Format(time.DateOnly))
		}
	}
}

func (p *patient) clock() {
	c := p.s.Clock
	switch c.State {
	case "SYNCED":
		p.ok("clock", "proven by %s", c.Source)
	case "HOLDOVER":
		p.ok("clock", "proven in this boot, more than a day ago")
	default:
		p.warn("clock", `connect the fleet, or set clock.trust = "system" where NTS, GNSS or a good RTC sets the clock`,
			"no proof since the start; %s is sure (%s)", c.Floor.Format("2006-01-02 15:04 MST"), c.Source)
	}
	if c.Doubt != "" {
		p.warn("clock", "set the system clock: timedatectl set-time", "%s", c.Doubt)
	}
	if off := c.Estimate.Sub(c.Wall); off > 5*time.Minute {
		p.warn("clock", "set the system clock: timedatectl set-time", "the system clock is %s behind", off.Round(time.Minute))
	}
}

// The free space below which doctor speaks up: the store keeps 32 MiB or 2 % free for itself.
const (
	lowSpace  = 128 << 20
	noSpace   = 40 << 20
	wornHigh  = 80
	dailyWear = 1 << 30
)

func (p *patient) disk() {
	m := p.s.Machine
	switch {
	case p.s.Mode != "normal":
		p.fault("disk", "check the data partition (dmesg, fsck); a restart tries to write again", "nothing is written: %s", p.s.Mode)
	case m.DiskTotal == 0:
		p.ok("disk", "writable")
	case m.DiskFree < noSpace:
		p.fault("disk", "make room on the partition of "+p.s.Data, "%s free of %s", Size(m.DiskFree), Size(m.DiskTotal))
	case m.DiskFree < lowSpace:
		p.warn("disk", "make room on the partition of "+p.s.Data, "%s free of %s", Size(m.DiskFree), Size(m.DiskTotal))
	default:
		p.ok("disk", "%s free of %s", Size(m.DiskFree), Size(m.DiskTotal))
	}
	if m.WornPercent >= wornHigh {
		p.warn("flash", "plan to replace the card", "%d %% of its life is used", min(m.WornPercent, 100))
	} else if m.WornPercent >= 0 {
		p.ok("flash", "at most %d %% of its life is used", m.WornPercent)
	}
	if m.WrittenPerDay > dailyWear && p.s.Uptime > 3600 {
		p.warn("wear", "raise events.interval and throttle.flush_every, or send the log elsewhere", "%s are written a day", Size(m.WrittenPerDay))
	} else if m.WrittenPerDay > 0 && p.s.Uptime > 3600 {
		p.ok("wear", "%s written a day", Size(m.WrittenPerDay))
	}
}

// kernel warns of what is known to damage the files of the store.
func (p *patient) kernel() {
	k, m := p.f.Kernel, p.f.Mount
	if k == "" {
		return
	}
	fixed := host.KernelAtLeast(k, 5, 15, 27) || !host.KernelAtLeast(k, 5, 11) && host.KernelAtLeast(k, 5, 10, 94)
	switch {
	case m.Type == "ext4" && m.Has("fast_commit") && !fixed:
		p.fault("kernel", "update the kernel to 5.10.94, 5.15.27 or newer, or mount without fast_commit", "%s with ext4 fast_commit loses committed writes", k)
	case m.Type == "tmpfs" || m.Type == "ramfs":
		p.warn("mount", "mount a partition that survives a power cut at "+p.s.Data, "the data folder is on %s: nothing outlives a restart of the machine", m.Type)
	case m.Has("nobarrier") || m.Has("barrier=0") || m.Has("data=writeback"):
		p.fault("mount", "mount without nobarrier and data=writeback", "%s ignores the order of writes (%s)", m.Point, m.Type)
	case m.Type == "vfat" || m.Type == "exfat" || m.Type == "ntfs3":
		p.fault("mount", "use ext4 or f2fs for "+p.s.Data, "%s does not survive power cuts", m.Type)
	default:
		p.ok("kernel", "%s, %s on %s", k, orNone(m.Type), orNone(m.Device))
	}
}

func (p *patient) memory() {
	limit, used := p.f.Memory, p.s.Machine.Resident
	switch {
	case limit == 0 || used == 0:
	case used > limit*9/10:
		p.warn("memory", "lower limits.connections, limits.requests_in_flight or cache.responses", "%s of %s in use", Size(used), Size(limit))
	case limit < 64<<20:
		p.warn("memory", "give the device at least 64 MiB (MemoryMax of the unit)", "only %s by %s", Size(limit), p.f.Source)
	default:
		p.ok("memory", "%s of %s in use", Size(used), Size(limit))
	}
}

func (p *patient) state() {
	if c := p.s.Limits; c.Error != "" {
		p.fault("counters", "check the data partition", "%s", c.Error)
	} else if c.Shared > 0 {
		p.warn("counters", "raise throttle.keys", "the table is full: %d calls were counted on shared counters", c.Shared)
	} else {
		p.ok("counters", "%d of %d", c.Keys, c.Capacity)
	}
	e := p.s.Events
	if e.Error != "" {
		p.fault("events", "check the data partition", "%s", e.Error)
	} else {
		p.ok("events", "%d stored, %s of %s", e.Calls, Size(e.Bytes), Size(e.Cap))
	}
	for _, reason := range lossReasons() {
		if n := e.Lost[reason]; n > 0 {
			p.warn("events", lossRemedy(reason), "%d lost (%s)", n, reason)
		}
	}
	if n := p.s.Machine.AccessLost; n > 0 {
		p.warn("access log", "lower log.sample, or let its reader read faster", "%d lines were not taken in time", n)
	}
}

func lossRemedy(reason string) string {
	switch batch.Reason(reason) {
	case batch.ReasonCap:
		return "collect more often, or raise events.max_bytes"
	case batch.ReasonUnclean:
		return "a power cut; a shorter events.interval loses less and wears the flash more"
	case batch.ReasonBuffer:
		return "the flash was slower than the calls: check it, or set events.detail = \"errors\""
	}
	return "the flash gave back damaged data: plan to replace it"
}

func (p *patient) link() {
	l := p.s.Link
	switch {
	case l == nil:
		p.ok("broker", "none configured: bundles come by file or stick")
	case l.State == "connected":
		p.ok("broker", "connected to %s", l.Broker)
	case l.State == "unanswered":
		p.warn("broker", cmp.Or(l.Hint, "is the fleet's side running, and may this device use its topics?"), "connected to %s, but nobody answers", l.Broker)
	case l.Error != "":
		p.warn("broker", cmp.Or(l.Hint, "check mqtt.brokers, mqtt.ca_file and the network"), "%s: %s", orNone(l.Broker), l.Error)
	default:
		p.ok("broker", "%s", l.State)
	}
}

func (p *patient) page(accounts bool) {
	switch l := p.s.Listen.Admin; {
	case l == "":
		p.ok("page", "off")
	case p.f.Public && !accounts:
		p.warn("page", "tidegate admin passwd", "%s is open to this device only: no administrator is set", l)
	case accounts:
		p.ok("page", "%s, administrators are set", l)
	default:
		p.ok("page", "%s, for this device only", l)
	}
}

// Loopback reports whether a bound address is reached from this machine only.
func Loopback(addr net.Addr) bool {
	t, ok := addr.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// Age writes a number of seconds for people.
func Age(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

// Size writes a number of bytes for people.
func Size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
