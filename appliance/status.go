package appliance

import (
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"tidegate/appliance/admin"
	"tidegate/appliance/wire"
	"tidegate/platform/host"
	"tidegate/platform/memory"
	"tidegate/store/events/batch"
	"tidegate/sync/intake"
	"time"
)

// Status says how the device is.
func (a *App) Status() admin.Status {
	s := admin.Status{
		Build: a.build, Ready: a.ready.Load(), Since: a.began.UTC(), Uptime: time.Since(a.began).Seconds(),
		Mode: a.dir.Mode().String(), Data: a.cfg.Data,
		Listen: admin.Listen{HTTP: a.Addr("http"), HTTPS: a.Addr("https"), Admin: a.Addr("admin")},
		Clock:  a.clockStatus(), Events: a.eventStatus(), Limits: a.counterStatus(),
		Process: process(), Machine: a.machine(),
	}
	if a.identity != nil {
		s.Device = a.identity.ID().String()
	}
	all, failed := a.gateway.Stats().Answers()
	s.Calls = admin.Calls{Answered: all, Failed: failed, InFlight: a.gateway.InFlight()}
	engines := a.serverCounts()
	s.Calls.Refused, s.Calls.Open = engines.Refused, engines.Open
	a.mu.Lock()
	s.Finds = slices.Clone(a.findings)
	a.mu.Unlock()
	a.deskStatus(&s)
	s.Link = a.linkStatus()
	return s
}

// deskStatus fills in what the desk knows: bundles, trust, alarms.
func (a *App) deskStatus(s *admin.Status) {
	d := a.desk.Status()
	s.Bundle = admin.Bundles{
		Serving: bundleView(d.Serving), Good: bundleView(d.Good), Older: bundleView(d.Older), Trial: bundleView(d.Trial),
		ByHand: d.ByHand, Deadline: d.Deadline.Seconds(),
	}
	switch {
	case d.Trial != nil:
		s.Bundle.State, s.Bundle.Attempts = "trial", d.Attempts
	case d.Serving != nil:
		s.Bundle.State = "confirmed"
	case d.Good != nil:
		s.Bundle.State = "safe-mode"
	default:
		s.Bundle.State = "none"
	}
	s.Trust = admin.Trust{Root: d.Root, Product: d.Device.Product, Channel: d.Device.Channel, Labels: d.Device.Labels}
	if d.Root > 0 {
		s.Trust.Domain = d.Domain.String()
	}
	if d.Locked != nil {
		s.Trust.Locked = d.Locked.Error()
	}
	s.Trust.Roles = admin.Roles(a.desk.Trust().Root())
	for w, text := range d.Alarms {
		s.Alarms = append(s.Alarms, admin.Alarm{Word: string(w), Detail: text})
	}
	slices.SortFunc(s.Alarms, func(x, y admin.Alarm) int { return strings.Compare(x.Word, y.Word) })
	for _, w := range d.Warnings {
		s.Words = append(s.Words, string(w.Word)+": "+w.Error())
	}
	s.Clock.Source = d.Floor.Source
	if d.Last.Phase != intake.Received || d.Last.Word != "" {
		o := admin.OutcomeOf(d.Last)
		s.Last = &o
	}
}

func bundleView(b *intake.BundleInfo) *admin.Bundle {
	if b == nil {
		return nil
	}
	v := &admin.Bundle{
		Digest: b.Digest.String(), Product: b.Product, Channel: b.Channel, Name: b.Name, Version: b.Label,
		Epoch: b.Epoch, Seq: b.Seq, Damaged: b.Damaged,
	}
	if b.Expires != 0 {
		t := time.Unix(int64(b.Expires), 0).UTC()
		v.Expires = &t
	}
	return v
}

func (a *App) clockStatus() admin.Clock {
	r := a.time.clock.Now()
	return admin.Clock{
		State: r.Quality.String(), Floor: r.Lower.UTC(), Source: r.Source.String(),
		Estimate: r.Estimate.UTC(), Wall: r.Wall.UTC(), Doubt: a.time.clock.Doubt(),
	}
}

func (a *App) eventStatus() admin.Events {
	st := a.events.Status()
	e := admin.Events{Waiting: st.Waiting, Bytes: st.Bytes, Cap: st.Cap, Lost: map[string]uint64{}}
	for _, c := range st.Classes {
		e.Batches += c.Count
		if c.Class == batch.Detail {
			for reason, n := range c.Lost {
				e.Lost[string(reason)] += n
			}
		}
	}
	detail := st.Classes[0]
	e.Calls = detail.Calls
	if !detail.Oldest.IsZero() {
		t := detail.Oldest.UTC()
		e.Oldest = &t
	}
	if st.Err != nil {
		e.Error = st.Err.Error()
	}
	return e
}

func (a *App) counterStatus() admin.Counters {
	st := a.ledger.Stats()
	c := admin.Counters{Keys: st.Keys, Capacity: st.Capacity, Shared: st.Overflowed, Stalls: st.Stalls, Written: st.Written, Period: st.Period.Seconds()}
	if err := a.ledger.Err(); err != nil {
		c.Error = err.Error()
	}
	return c
}

// machine is what the device runs on, as it is now.
func (a *App) machine() admin.Machine {
	root := os.DirFS("/")
	m := admin.Machine{
		Kernel: a.operator.kernel, FileSystem: a.operator.machine.Type,
		Written: host.Written(root), WornPercent: host.WornPercent(root), Resident: memory.Resident(root),
	}
	if s, err := host.SpaceOf(a.cfg.Data); err == nil {
		m.DiskTotal, m.DiskFree = s.Total, s.Free
	}
	if up := time.Since(a.began); up > time.Hour {
		m.WrittenPerDay = int64(float64(m.Written) / up.Hours() * 24)
	}
	if a.operator.access != nil {
		m.AccessLost = a.operator.access.Lost()
	}
	return m
}

func process() admin.Process {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	p := admin.Process{PID: os.Getpid(), Goroutines: runtime.NumGoroutine(), Heap: int64(m.HeapAlloc)}
	if limit := debug.SetMemoryLimit(-1); limit < 1<<50 {
		p.Limit = limit
	}
	return p
}

// serverCounts adds up the engines' counts.
func (a *App) serverCounts() (sum wire.Stats) {
	for _, s := range a.servers {
		st := s.Stats()
		sum.Open += st.Open
		sum.Accepted += st.Accepted
		sum.Calls += st.Calls
		sum.Refused += st.Refused
		sum.DroppedFields += st.DroppedFields
		sum.Evicted += st.Evicted
	}
	return sum
}

// Desk returns the one door for bundles.
func (a *App) Desk() *intake.Desk { return a.desk }
