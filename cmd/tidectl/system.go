package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"tidegate/cmd/cli"
	"tidegate/platform/board"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/write"
	"tidegate/sync/trust"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) systemCommand() *cobra.Command {
	c := &cobra.Command{Use: "system", Short: "Bundles that update the system of devices with the flash image"}
	c.AddCommand(a.systemBuildCommand())
	return c
}

// systemFlags are the flags of "system build".
type systemFlags struct {
	buildFlags
	channel  string
	devices  []string
	labels   []string
	window   time.Duration
	attempts uint64
	byHand   bool
}

func (a *app) systemBuildCommand() *cobra.Command {
	o := systemFlags{}
	c := &cobra.Command{
		Use:   "build IMAGE -o FILE.tide --key FILE… --seq N",
		Short: "Build and sign the bundle of the system in a flash image",
		Long: "Build and sign the bundle of the system in a flash image, as make image wrote it.\n\nA device takes it as it takes any bundle. It writes the system to the slot that is not in use and starts\n" +
			"anew with it; the system is kept if it serves to the end of the window, else the one before it comes\nback. Systems have numbers of their own, apart from those of the APIs.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.buildSystem(args[0], o) },
	}
	o.register(c)
	f := c.Flags()
	f.StringVar(&o.channel, "channel", "stable", "channel of the devices that may take it")
	f.StringArrayVar(&o.devices, "device", nil, "id of a device that may take it; default: every device of the board")
	f.StringArrayVar(&o.labels, "labels", nil, "labels, separated by commas, all of which a device has that may take it")
	f.DurationVar(&o.window, "window", 2*time.Minute, "how long it must serve before it is kept; by hand: how long somebody has to confirm it")
	f.Uint64Var(&o.attempts, "attempts", 3, "starts that it gets, 1 to 9")
	f.BoolVar(&o.byHand, "by-hand", false, "somebody confirms it at the device")
	return c
}

func (a *app) buildSystem(image string, f systemFlags) error {
	if f.seq == 0 {
		return needSeq()
	}
	if f.attempts < 1 || f.attempts > 9 {
		return cli.Usage("--attempts %d: want 1 to 9", f.attempts)
	}
	selectors, err := f.selectors()
	if err != nil {
		return err
	}
	disk, err := os.Open(image)
	if err != nil {
		return err
	}
	defer disk.Close()
	slot, err := board.ReadSlot(board.ReadOnly{ReaderAt: disk}, "A")
	if err == nil && slot.About["BOARD"] == "" {
		err = errors.New("it does not say for which board it is")
	}
	if err != nil {
		return refusal.New(refusal.Format, "%s: not a flash image: %w", image, err).WithHint("make one: make image BOARD=…")
	}
	o, err := a.options(filepath.Dir(image), f.buildFlags)
	if err != nil {
		return err
	}
	part := func(path string, x board.Extent) write.File {
		return write.File{Path: path, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(disk, x.Start, x.Size)), nil
		}}
	}
	var about strings.Builder
	for _, k := range slices.Sorted(maps.Keys(slot.About)) {
		fmt.Fprintf(&about, "%s=%s\n", k, slot.About[k])
	}
	mode := bundle.Automatic
	if f.byHand {
		mode = bundle.ByHand
	}
	name := "board-" + slot.About["BOARD"]
	d, err := o.write(write.Spec{
		Manifest: bundle.Manifest{
			Common:  trust.Common{Domain: o.domain, Epoch: o.epoch, Seq: o.seq, Issued: uint64(o.issued.Unix())}, //nolint:gosec // not negative
			Product: trust.SystemProduct, Channel: f.channel, Name: "tidegate", Version: slot.About["VERSION"],
			Hardware: []string{name}, Selectors: selectors,
			Activation: &bundle.Activation{Mode: mode, Window: uint64(f.window / time.Second), Attempts: f.attempts}, //nolint:gosec // judged by the format
		},
		Files: []write.File{part(bundle.SystemKernel, slot.Kernel), part(bundle.SystemRoot, slot.Root), write.Bytes(bundle.SystemAbout, []byte(about.String()))},
		Roots: o.roots,
	})
	if err != nil {
		return err
	}
	return a.showBuilt(f.out, d)
}

// selectors returns which devices are meant.
func (f *systemFlags) selectors() ([]trust.Selector, error) {
	var all []trust.Selector
	for _, s := range f.devices {
		id, err := trust.ParseDeviceID(s)
		if err != nil {
			return nil, cli.Usage("--device %q: %v", s, err)
		}
		all = append(all, trust.OneDevice(id))
	}
	for _, s := range f.labels {
		all = append(all, trust.DevicesWith(strings.Split(s, ",")...))
	}
	if len(all) == 0 {
		all = append(all, trust.EveryDevice())
	}
	return all, nil
}
