package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"tidegate/cmd/cli"
	"tidegate/policy/refusal"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) fleetPublishCommand() *cobra.Command {
	var l linkFlags
	var r fleet.Rollout
	var file, timeKey, group, address string
	var spread, wait time.Duration
	var failures int
	c := &cobra.Command{
		Use:   "publish FILE.tide…",
		Short: "Announce bundles and answer devices until stopped",
		Long: `Check each bundle as a device would, announce it, and answer devices that say hello, fetch
pieces or (with --time-key) ask for the time, until stopped. Two publishers may run side by
side with the same --group.

A rollout in steps: --percent 10 --rollout FILE tells the same tenth of the devices first; tidectl
fleet rollout changes FILE while publishers run. --max-failures pauses it when devices go back.

With --https the content of a bundle also lies on a web server that answers range requests, and
devices that name its host in mqtt.https_hosts fetch it there; the signed head and whatever the
server does not give comes over the broker. The server is asked for parts of each FILE first.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.Percent < 0 || r.Percent > 100 {
				return cli.Usage("--percent %d: want 0 to 100", r.Percent)
			}
			state, rootFile, err := l.believe()
			if err != nil {
				return err
			}
			b, err := l.broker(a, "publisher")
			if err != nil {
				return err
			}
			o := fleet.PublisherOptions{
				Broker: b, Fleet: message.Fleet(l.fleet), Root: state, RootFile: rootFile, Rollout: r, File: file,
				Spread: spread, Group: group, Failures: failures, Log: b.Log,
			}
			if _, err := os.Stat(l.devices); err == nil {
				if o.Devices, err = l.registry(a, state); err != nil {
					return err
				}
			}
			if o.Devices == nil && (wait > 0 || len(r.Labels) > 0 || r.Percent < 100) {
				return cli.Usage("--wait, --label and --percent need the enrolled devices: no folder %s (--devices)", l.devices)
			}
			if o.Signer, err = a.roleSigner(timeKey, state, trust.RoleTime); err != nil {
				return err
			}
			if file != "" {
				if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
					err = r.Write(file)
					if err != nil {
						return err
					}
				}
			}
			for _, name := range args {
				p, err := fleet.OpenBundle(name, state)
				if err != nil {
					return err
				}
				defer p.Close() //nolint:errcheck // only read
				if address != "" {
					if err := l.serveFrom(cmd.Context(), p, address, name); err != nil {
						return fmt.Errorf("--https: %w", err)
					}
				}
				o.Bundles = append(o.Bundles, p)
			}
			if wait > 0 {
				return a.publishAndWait(cmd.Context(), o, wait)
			}
			p, err := fleet.NewPublisher(o)
			if err != nil {
				return err
			}
			return p.Run(cmd.Context())
		},
	}
	l.add(c.Flags())
	f := c.Flags()
	f.IntVar(&r.Percent, "percent", 100, "part of the devices that are told")
	f.StringArrayVar(&r.Labels, "label", nil, "tell only devices with this label; several: with all of them")
	f.BoolVar(&r.Paused, "paused", false, "tell nobody until tidectl fleet rollout resume")
	f.StringVar(&file, "rollout", "", "file with the rollout, watched; made from the flags if it is absent")
	f.IntVar(&failures, "max-failures", 1, "devices that may go back before the rollout pauses; 0: no limit")
	f.DurationVar(&spread, "spread", 0, "devices wait up to this, at random, before they fetch")
	f.DurationVar(&wait, "wait", 0, "end when every device that is told has confirmed the last FILE, or after this long")
	f.StringVar(&timeKey, "time-key", "", "key of the time role, to attest the time")
	f.StringVar(&address, "https", "", "https address of FILE on a web server, or of the folder of all of them, with a slash at its end")
	f.StringVar(&group, "group", "", "share the work with other publishers of this group")
	return c
}

// A verdictRow is one line of what --wait prints.
type verdictRow struct {
	Device string       `json:"device"`
	Name   string       `json:"name,omitempty"`
	Phase  string       `json:"phase"` // "" while nothing was heard
	Word   refusal.Word `json:"code,omitempty"`
	Detail string       `json:"detail,omitempty"`
}

// publishAndWait ends when every device has an outcome: 0 if all confirmed, 61 if one went
// back, else the code of the first refusal, 75 if some said nothing in time.
func (a *app) publishAndWait(ctx context.Context, o fleet.PublisherOptions, most time.Duration) error {
	last := o.Bundles[len(o.Bundles)-1]
	targets := fleet.Targets(o.Devices, last.Manifest, o.Rollout)
	if len(targets) == 0 {
		return refusal.New(refusal.Target, "no enrolled device is told of bundle %d", last.Manifest.Seq).
			WithHint("compare product, channel and selectors with the files in --devices")
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	rows := map[trust.DeviceID]*verdictRow{}
	for _, id := range targets {
		rows[id] = &verdictRow{Device: id.String()}
		if e, ok := o.Devices.Device(id); ok {
			rows[id].Name = e.Name
		}
	}
	progress := a.Progress("devices", int64(len(targets)))
	var mu sync.Mutex
	open := len(targets)
	o.Event = func(e fleet.Progress) {
		mu.Lock()
		defer mu.Unlock()
		r := rows[e.Device]
		if r == nil || e.Digest != last.Digest {
			return
		}
		was := final(r.Phase)
		r.Phase, r.Word, r.Detail = e.Phase, refusal.Word(e.Word), e.Detail
		if !was && final(r.Phase) {
			progress.Add(1)
			if open--; open == 0 {
				cancel()
			}
		}
	}
	p, err := fleet.NewPublisher(o)
	if err != nil {
		return err
	}
	err = p.Run(ctx)
	progress.Done()
	mu.Lock()
	defer mu.Unlock()
	if open > 0 && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return err
	}
	return a.showVerdicts(rows)
}

func final(phase string) bool {
	return phase == "confirmed" || phase == "rejected" || phase == "rolled-back"
}

func (a *app) showVerdicts(rows map[trust.DeviceID]*verdictRow) error {
	var all []*verdictRow
	for _, r := range rows {
		all = append(all, r)
	}
	slices.SortFunc(all, func(x, y *verdictRow) int { return strings.Compare(x.Device, y.Device) })
	code := 0
	for _, r := range all {
		switch {
		case r.Phase == "rolled-back":
			code = refusal.Health.Exit()
		case r.Phase == "rejected" && code != refusal.Health.Exit():
			code = r.Word.Exit()
		case !final(r.Phase) && code == 0:
			code = refusal.ExitWaiting
		}
	}
	if a.json {
		if err := a.JSON(all); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "DEVICE\tNAME\tPHASE\tWORD\tDETAIL")
		for _, r := range all {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Device, r.Name, orElse(r.Phase, "nothing heard"), r.Word, r.Detail)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if code != 0 {
		return cli.StatusError(code)
	}
	return nil
}

func (a *app) fleetRolloutCommand() *cobra.Command {
	c := &cobra.Command{Use: "rollout", Short: "Pace what running publishers tell"}
	change := func(use, short string, args int, fn func(r *fleet.Rollout, args []string) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(args), RunE: func(_ *cobra.Command, args []string) error {
			r, err := fleet.ReadRollout(args[0])
			if err != nil {
				return err
			}
			if fn != nil {
				if err := fn(&r, args); err != nil {
					return err
				}
				if err := r.Write(args[0]); err != nil {
					return err
				}
			}
			if a.json {
				return a.JSON(r)
			}
			state := "running"
			if r.Paused {
				state = "paused"
				if r.Reason != "" {
					state += ": " + r.Reason
				}
			}
			_, err = fmt.Fprintf(a.Out, "%d percent%s, %s\n", r.Percent, strings.Join(append([]string{""}, r.Labels...), " label "), state)
			return err
		}}
	}
	c.AddCommand(
		change("show FILE", "Print a rollout", 1, nil),
		change("pause FILE", "Tell nobody new", 1, func(r *fleet.Rollout, _ []string) error {
			r.Paused, r.Reason = true, ""
			return nil
		}),
		change("resume FILE", "Go on", 1, func(r *fleet.Rollout, _ []string) error {
			r.Paused, r.Reason = false, ""
			return nil
		}),
		change("percent FILE N", "Tell this part of the devices", 2, func(r *fleet.Rollout, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil {
				return cli.Usage("%q is not a number", args[1])
			}
			r.Percent = n
			return r.Check()
		}),
	)
	return c
}
