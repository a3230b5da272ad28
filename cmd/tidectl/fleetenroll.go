package main

import (
	"fmt"
	"os"
	"path/filepath"
	"tidegate/cmd/cli"
	"tidegate/policy/refusal"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/message"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) fleetEnrollCommand() *cobra.Command {
	var l linkFlags
	var e fleet.Enroll
	var keys, commands []string
	var out string
	c := &cobra.Command{
		Use:   "enroll FILE.tideenroll",
		Short: "Sign what a device is: product, channel, labels",
		Long: `Read the request that tidegate enroll wrote, show the device's id, which is the fingerprint
of its key, and sign its enrolment with the release role. The file goes into --devices, where
publishers and collectors find it, and to the device by publish, by stick or by tidegate apply.
The access rules that the broker needs are printed.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if e.Product == "" || e.Channel == "" {
				return cli.Usage("want --product and --channel")
			}
			if err := message.Fleet(l.fleet).Check(); err != nil {
				return cli.Usage("--fleet: %w", err)
			}
			var err error
			if e.Root, _, err = l.believe(); err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			r, err := fleet.OpenRequest(f)
			if err != nil {
				return refusal.About(args[0], err)
			}
			signers, err := a.signers(keys, commands)
			if err != nil {
				return err
			}
			e.Issued = uint64(max(time.Now().Unix(), 0)) //nolint:gosec // not negative
			b, err := e.Sign(r, signers...)
			if err != nil {
				return refusal.About(args[0], err)
			}
			if out == "" {
				if err := os.MkdirAll(l.devices, 0o755); err != nil {
					return err
				}
				out = filepath.Join(l.devices, r.ID().String()+".tidedevice")
			}
			if err := writeFile(out, b); err != nil {
				return err
			}
			acl := fleet.ACL(message.Fleet(l.fleet), r.ID())
			if a.json {
				return a.JSON(map[string]any{"device": r.ID().String(), "file": out, "product": e.Product, "channel": e.Channel, "labels": e.Labels, "acl": acl})
			}
			a.Say("device %s: %s, channel %s, written to %s", r.ID(), e.Product, e.Channel, out)
			_, err = fmt.Fprint(a.Out, acl)
			return err
		},
	}
	f := c.Flags()
	l.addTrust(f)
	f.StringVar(&l.fleet, "fleet", "fleet", "name of the fleet in topics")
	f.StringVar(&e.Product, "product", "", "product that the device follows")
	f.StringVar(&e.Channel, "channel", "stable", "channel that the device follows")
	f.StringArrayVar(&e.Labels, "label", nil, "label of the device; may be given again")
	f.StringArrayVar(&e.Hardware, "hardware", nil, "hardware class beside the device's own")
	f.StringVar(&e.Name, "name", "", "name for people")
	f.Uint64Var(&e.Seq, "seq", 1, "number of the enrolment, above that of an earlier one")
	f.StringArrayVar(&keys, "key", nil, "key of the release role")
	f.StringArrayVar(&commands, "signer", nil, "exec:COMMAND that signs")
	f.StringVarP(&out, "output", "o", "", "file; default: DEVICES/ID.tidedevice")
	return c
}
