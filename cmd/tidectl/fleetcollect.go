package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"tidegate/cmd/cli"
	"tidegate/store/events/export"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
	"time"

	"github.com/spf13/cobra"
)

const defaultStore = "fleet.db"

func (a *app) fleetCollectCommand() *cobra.Command {
	var l linkFlags
	var place, key, group, from, timeKey string
	var keep, pause time.Duration
	var rate uint64
	var batches bool
	c := &cobra.Command{
		Use:   "collect",
		Short: "Store what devices hand up, and acknowledge it",
		Long: `Verify, store and acknowledge the batches, losses and states of enrolled devices: from a
broker until stopped, or with --from DIR from a stick, once. What is acknowledged is committed;
what comes twice is stored once. --store is a file of SQLite, or postgres://… that several
collectors share with the same --group.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, _, err := l.believe()
			if err != nil {
				return err
			}
			devices, err := l.registry(a, state)
			if err != nil {
				return err
			}
			o := fleet.CollectorOptions{Fleet: message.Fleet(l.fleet), Root: state, Devices: devices, Group: group, Pause: pause, Rate: rate, Log: l.logger(a)}
			if o.Signer, err = a.roleSigner(key, state, trust.RoleCollector); err != nil {
				return err
			}
			if o.Signer == nil {
				a.Say("tidectl: warning: acknowledgements are not signed: devices take them only with mqtt.unsigned_acks and a root without a collector")
			}
			if timeKey != "" && from == "" {
				return cli.Usage("--time-key goes with --from: over the link tidectl fleet publish attests the time")
			}
			if o.TimeSigner, err = a.roleSigner(timeKey, state, trust.RoleTime); err != nil {
				return err
			}
			if from == "" {
				if o.Broker, err = l.broker(a, "collector"); err != nil {
					return err
				}
			}
			rows := fleet.CallRows
			if batches {
				rows = fleet.BatchOnly
			}
			if o.Store, err = fleet.OpenStore(cmd.Context(), place, rows); err != nil {
				return err
			}
			defer o.Store.Close() //nolint:errcheck // every commit was waited for
			col := fleet.NewCollector(o)
			if from != "" {
				return a.collectFrom(cmd.Context(), col, from)
			}
			if keep > 0 {
				ctx, cancel := context.WithCancel(cmd.Context())
				defer cancel()
				go prune(ctx, o, keep)
			}
			return col.Run(cmd.Context())
		},
	}
	l.add(c.Flags())
	f := c.Flags()
	f.StringVar(&place, "store", defaultStore, "file of SQLite, or postgres://user@host/database")
	f.StringVar(&key, "collector-key", "", "key of the collector role")
	f.StringVar(&group, "group", "", "share the work with other collectors of this group")
	f.StringVar(&from, "from", "", "take what devices wrote to the stick that is mounted here")
	f.StringVar(&timeKey, "time-key", "", "with --from: key of the time role; the stick takes the time along")
	f.DurationVar(&keep, "keep", 0, "delete batches that were received before this long ago; 0: never")
	f.DurationVar(&pause, "pause", 0, "ask devices to send nothing for this long after each acknowledgement")
	f.Uint64Var(&rate, "rate", 0, "ask each device for at most this many bytes a second; 0: no cap")
	f.BoolVar(&batches, "batches-only", false, "store batches without a row per call")
	return c
}

// prune deletes what is old, once an hour.
func prune(ctx context.Context, o fleet.CollectorOptions, keep time.Duration) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if n, err := o.Store.Prune(ctx, time.Now().Add(-keep)); err != nil {
			o.Log.Error("old batches not deleted", "err", err)
		} else if n > 0 {
			o.Log.Info("old batches deleted", "batches", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (a *app) collectFrom(ctx context.Context, c *fleet.Collector, dir string) error {
	all, err := c.From(ctx, dir)
	if a.json {
		if e := a.JSON(all); e != nil {
			return e
		}
	} else {
		for _, t := range all {
			fmt.Fprintf(a.Out, "%s: %d files, %d batches, %d losses, %d states\n", t.Device, t.Files, t.Batches, t.Losses, t.Statuses)
		}
	}
	refused := false
	for _, t := range all {
		for _, r := range t.Refused {
			a.Say("tidectl: %s", r)
			refused = true
		}
		if t.Ack != "" {
			a.Say("tidectl: carry %s back to the device", t.Ack)
		}
	}
	if err == nil && refused {
		return cli.StatusError(1)
	}
	return err
}

func (a *app) fleetStatusCommand() *cobra.Command {
	var place string
	var watch bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the last known state of every device: who runs what, since when, refused what and why",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := fleet.OpenStore(cmd.Context(), place, fleet.CallRows)
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // only read
			for {
				if err := a.showDevices(cmd.Context(), s, watch); err != nil || !watch {
					return err
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(2 * time.Second):
				}
			}
		},
	}
	c.Flags().StringVar(&place, "store", defaultStore, "file of SQLite, or postgres://user@host/database")
	c.Flags().BoolVar(&watch, "watch", false, "print again every two seconds")
	return c
}

func (a *app) showDevices(ctx context.Context, s fleet.Store, watch bool) error {
	all := []fleet.DeviceRow{}
	for r, err := range s.Devices(ctx) {
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	if a.json {
		return a.JSON(all)
	}
	if watch && cli.Terminal(a.Out) {
		fmt.Fprint(a.Out, "\x1b[H\x1b[2J")
	}
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DEVICE\tSTATE\tSEQ\tSINCE\tCLOCK\tQUEUED\tLOST\tLINK\tHEARD\tREFUSED")
	now := time.Now()
	for _, r := range all {
		link := "away"
		if r.Online {
			link = "up"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", r.Device, r.State, r.Seq, r.Since.Format(time.DateOnly), r.Clock,
			r.Queued, r.Lost, link, age(now.Sub(r.Heard)), strings.TrimSpace(r.Refused+" "+r.Why))
	}
	return w.Flush()
}

// age writes how long ago something was.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "now"
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return fmt.Sprintf("%dd ago", int(d.Hours()/24))
}

func (a *app) fleetExportCommand() *cobra.Command {
	var place, format, device, out string
	var since time.Duration
	c := &cobra.Command{
		Use:   "export",
		Short: "Write the calls that were collected, as JSON lines or as a table",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			var f fleet.Filter
			if device != "" {
				if f.Device, err = trust.ParseDeviceID(device); err != nil {
					return err
				}
			}
			if since > 0 {
				f.Since = time.Now().Add(-since)
			}
			s, err := fleet.OpenStore(cmd.Context(), place, fleet.CallRows)
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // only read
			w := io.Writer(a.Out)
			if out != "" {
				file, err := os.OpenFile(filepath.Clean(out), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
				if err != nil {
					return err
				}
				defer func() {
					if e := file.Close(); err == nil {
						err = e
					}
				}()
				w = file
			}
			var tally export.Tally
			switch format {
			case "ndjson":
				losses, err := s.Losses(cmd.Context(), f)
				if err != nil {
					return err
				}
				if tally, err = export.NDJSON(w, losses, s.Batches(cmd.Context(), f), time.Time{}); err != nil {
					return err
				}
			case "csv":
				if tally, err = export.CSV(w, s.Batches(cmd.Context(), f), time.Time{}); err != nil {
					return err
				}
			default:
				return cli.Usage("--format %q: want ndjson or csv", format)
			}
			a.Say("tidectl: %d calls", tally.Events)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&place, "store", defaultStore, "file of SQLite, or postgres://user@host/database")
	f.StringVar(&format, "format", "ndjson", "ndjson or csv")
	f.StringVar(&device, "device", "", "only this device")
	f.DurationVar(&since, "since", 0, "only what was received in the last so long")
	f.StringVarP(&out, "output", "o", "", "file; default: standard output")
	return c
}
