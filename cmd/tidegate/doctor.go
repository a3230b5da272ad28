package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"tidegate/appliance/admin"
	"tidegate/appliance/config"
	"tidegate/cmd/cli"
	"tidegate/platform/buildinfo"
	"tidegate/platform/host"
	"time"
)

// cmdDoctor prints what the device finds. Where no device answers, it looks at what would
// keep one from starting.
func (a *app) cmdDoctor(ctx context.Context, args []string) error {
	var c clientFlags
	f := a.flags("doctor")
	c.register(f)
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	var found []admin.Finding
	cl, err := c.dial(a)
	switch {
	case err != nil:
		found = []admin.Finding{{What: "config", State: admin.StateFault, Detail: err.Error(), Remedy: "correct it; the reference file explains each key"}}
	default:
		if err := cl.get(ctx, "/v1/doctor", nil, &found); err != nil {
			cfg, bad := c.load(a)
			if bad != nil {
				return err
			}
			found = absent(cfg, err)
		}
	}
	return a.report(found)
}

// report prints findings, faults first, and fails if there is a fault.
func (a *app) report(found []admin.Finding) error {
	if a.json {
		if err := a.JSON(found); err != nil {
			return err
		}
	}
	l := a.lines()
	faults, warnings := 0, 0
	for _, state := range []string{admin.StateFault, admin.StateWarning, admin.StateOK} {
		look := map[string]shade{admin.StateFault: danger, admin.StateWarning: caution, admin.StateOK: good}[state]
		for _, x := range found {
			if x.State != state {
				continue
			}
			switch state {
			case admin.StateFault:
				faults++
			case admin.StateWarning:
				warnings++
			}
			if a.json {
				continue
			}
			l.row(look, state, "%s: %s", x.What, x.Detail)
			if x.Remedy != "" {
				l.row(plain, "", "→ %s", x.Remedy)
			}
		}
	}
	if l.err != nil {
		return l.err
	}
	switch {
	case faults > 0 && a.json:
		return cli.StatusError(1)
	case faults > 0:
		return fmt.Errorf("%d to mend, %d to look at", faults, warnings)
	case !a.json && warnings > 0:
		a.Say("tidegate: %d to look at", warnings)
	}
	return nil
}

// absent looks at what would keep a device from starting.
func absent(cfg *config.Config, why error) []admin.Finding {
	found := []admin.Finding{{What: "service", State: admin.StateFault, Detail: why.Error(), Remedy: "journalctl -u tidegate tells why it ended"}}
	add := func(what, state, remedy, format string, args ...any) {
		found = append(found, admin.Finding{What: what, State: state, Detail: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	add("config", admin.StateOK, "", "reads well")
	for _, w := range cfg.Warnings {
		add("config", admin.StateWarning, "correct the name or take the variable away", "%s", w)
	}
	for _, l := range []struct{ key, addr string }{{"listen.http", cfg.Listen.HTTP}, {"listen.https", cfg.Listen.HTTPS}, {"admin.listen", cfg.Admin.Listen}} {
		if l.addr == "" {
			continue
		}
		ln, err := net.Listen("tcp", l.addr)
		if err != nil {
			add("listeners", admin.StateFault, "free the port, or set another "+l.key, "%s: %v", l.key, err)
			continue
		}
		if err := ln.Close(); err != nil {
			add("listeners", admin.StateWarning, "", "%s: %v", l.key, err)
		}
	}
	found = append(found, dataFolder(cfg.Data)...)
	if now, built := time.Now(), buildinfo.Get().Time; now.Before(built) {
		add("clock", admin.StateWarning, "set the system clock: timedatectl set-time", "the system clock says %s, before this program was built", now.UTC().Format(time.DateOnly))
	}
	return found
}

// dataFolder looks at the folder of everything durable.
func dataFolder(dir string) []admin.Finding {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return []admin.Finding{{What: "data", State: admin.StateWarning, Detail: dir + " does not exist", Remedy: "the first start makes it, if its parent may be written"}}
	case err != nil:
		return []admin.Finding{{What: "data", State: admin.StateFault, Detail: err.Error(), Remedy: "run as root or as the device's user"}}
	case !info.IsDir():
		return []admin.Finding{{What: "data", State: admin.StateFault, Detail: dir + " is not a folder", Remedy: "set data to a folder"}}
	}
	full, err := filepath.Abs(dir)
	if err != nil {
		full = dir
	}
	m := host.MountOf(os.DirFS("/"), full)
	if m.Has("ro") {
		return []admin.Finding{{What: "data", State: admin.StateFault, Detail: m.Point + " is mounted read-only", Remedy: "check the partition (dmesg, fsck) and mount it for writing"}}
	}
	s, err := host.SpaceOf(full)
	if err != nil {
		return nil
	}
	state, remedy := admin.StateOK, ""
	if s.Free < 64<<20 {
		state, remedy = admin.StateFault, "make room on the partition of "+dir
	}
	return []admin.Finding{{What: "disk", State: state, Detail: fmt.Sprintf("%s free of %s on %s", admin.Size(s.Free), admin.Size(s.Total), m.Type), Remedy: remedy}}
}
