package main

import (
	"context"
	"errors"
	"fmt"

	"tidegate/appliance/admin"
	"tidegate/cmd/cli"
)

// A finding is one thing that doctor looked at.
type finding struct {
	What   string `json:"what"`
	State  string `json:"state"` // ok, warning, fault
	Detail string `json:"detail,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

func (a *app) cmdDoctor(ctx context.Context, args []string) error {
	var c clientFlags
	f := a.flags("doctor")
	c.register(f)
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	cl, err := c.dial(a)
	if err != nil {
		return err
	}
	var s admin.Status
	if err := cl.get(ctx, "/v1/status", nil, &s); err != nil {
		return err
	}
	found := examine(s)
	if a.json {
		if err := a.JSON(found); err != nil {
			return err
		}
	}
	faults := 0
	for _, x := range found {
		if x.State == "fault" {
			faults++
		}
		if a.json {
			continue
		}
		fmt.Fprintf(a.Out, "%-8s %-10s %s\n", x.State, x.What, x.Detail)
		if x.Remedy != "" {
			fmt.Fprintf(a.Out, "%19s %s\n", "→", x.Remedy)
		}
	}
	if faults > 0 {
		if a.json {
			return cli.StatusError(1)
		}
		return errors.New("something needs attention")
	}
	return nil
}

// examine judges a status.
func examine(s admin.Status) []finding {
	var out []finding
	add := func(what, state, detail, remedy string) { out = append(out, finding{what, state, detail, remedy}) }
	if s.Ready {
		add("service", "ok", "serving "+s.Listen.HTTP+" "+s.Listen.HTTPS, "")
	} else {
		add("service", "fault", "not ready", "look at the log: journalctl -u tidegate")
	}
	if s.Device == "" {
		add("identity", "fault", "the device has no usable keys", "see the findings of tidegate status; restore the identity folder from a backup")
	} else {
		add("identity", "ok", s.Device, "")
	}
	switch {
	case s.Trust.Locked != "":
		add("trust", "fault", s.Trust.Locked, "tidegate trust install FILE.tideroot")
	case s.Trust.Root == 0:
		add("trust", "fault", "no trust root", "tidegate trust install FILE.tideroot")
	default:
		add("trust", "ok", fmt.Sprintf("root %d", s.Trust.Root), "")
	}
	switch s.Bundle.State {
	case "confirmed":
		add("bundle", "ok", fmt.Sprintf("%d of %s/%s", s.Bundle.Serving.Seq, s.Bundle.Serving.Product, s.Bundle.Serving.Channel), "")
	case "trial":
		add("bundle", "warning", "on trial", "wait, or decide: tidegate confirm, tidegate rollback")
	case "none":
		add("bundle", "fault", "none installed", "tidegate apply FILE.tide")
	default:
		add("bundle", "fault", "safe mode: no stored bundle loads", "apply the bundle again from a stick: tidegate apply FILE.tide")
	}
	switch s.Clock.State {
	case "SYNCED":
		add("clock", "ok", "proven", "")
	default:
		add("clock", "warning", s.Clock.State+": only the floor "+s.Clock.Floor.Format("2006-01-02 15:04 MST")+" is sure", "connect the fleet, or set clock.trust = \"system\" where NTS, GNSS or a good RTC sets the clock")
	}
	if s.Clock.Doubt != "" {
		add("clock", "warning", s.Clock.Doubt, "set the system clock")
	}
	if s.Mode != "normal" {
		add("disk", "fault", s.Mode, "check the data partition; a restart tries to write again")
	} else {
		add("disk", "ok", "writable", "")
	}
	if s.Limits.Error != "" {
		add("counters", "fault", s.Limits.Error, "check the data partition")
	} else {
		add("counters", "ok", fmt.Sprintf("%d of %d", s.Limits.Keys, s.Limits.Capacity), "")
	}
	if s.Limits.Shared > 0 {
		add("counters", "warning", fmt.Sprintf("%d calls were counted on shared counters: the table is full", s.Limits.Shared), "raise throttle.keys")
	}
	if s.Events.Error != "" {
		add("events", "fault", s.Events.Error, "check the data partition")
	} else {
		add("events", "ok", fmt.Sprintf("%d stored", s.Events.Calls), "")
	}
	for _, reason := range sortedKeys(s.Events.Lost) {
		if n := s.Events.Lost[reason]; n > 0 {
			add("events", "warning", fmt.Sprintf("%d lost (%s)", n, reason), "collect more often, or raise events.max_bytes")
		}
	}
	for _, x := range s.Alarms {
		add("alarm", "fault", x.Word+": "+x.Detail, "see tidegate history")
	}
	for _, x := range s.Finds {
		add("start", "warning", x, "")
	}
	return out
}
