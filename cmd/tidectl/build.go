package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"tidegate/cmd/cli"
	"tidegate/platform/durable"
	"tidegate/policy"
	"tidegate/policy/project"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/write"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"

	"github.com/spf13/cobra"
)

// policyFile is the path of the policy set in a bundle; the gateway reads it.
const policyFile = "policy.cbor"

func (a *app) buildCommand() *cobra.Command {
	var o buildFlags
	c := &cobra.Command{
		Use:   "build [DIR] -o FILE.tide --key FILE… --seq N",
		Short: "Build and sign the bundle of a project",
		Long: "Build and sign the bundle of a project.\n\nThe same project, number, time, secrets and fetched keys give the same bytes. Trust domain and epoch come from\n" +
			"the trust root: --root, else a single *.tideroot in DIR, in the current folder, or beside the key.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			return a.build(c.Context(), dir, o)
		},
	}
	o.register(c)
	f := c.Flags()
	f.StringVar(&o.like, "like", "", "take number, time and sealed part from this bundle, to build the same bytes again")
	f.StringArrayVar(&o.sealFor, "seal-for", nil, "enrolment or request of a device that can open the secrets; may be given several times")
	return c
}

// register adds the flags of every command that builds a bundle.
func (o *buildFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVarP(&o.out, "output", "o", "", "file to write")
	f.StringArrayVar(&o.keys, "key", nil, "private key to sign with; may be given several times")
	f.StringArrayVar(&o.signers, "signer", nil, "exec:COMMAND to sign with")
	f.Uint64Var(&o.seq, "seq", 0, "number of the bundle: 1, 2, 3 …")
	f.StringVar(&o.root, "root", "", "trust root file")
	f.Int64Var(&o.rootsSince, "roots-since", -1, "carry the roots above this version along; default: the last 8")
	f.StringVar(&o.issued, "issued", "", "time of the build, RFC 3339 or seconds; default: SOURCE_DATE_EPOCH, else now")
	_ = c.MarkFlagRequired("output")
}

type buildFlags struct {
	out, root, issued, like string
	keys, signers, sealFor  []string
	seq                     uint64
	rootsSince              int64
}

func (a *app) build(ctx context.Context, dir string, f buildFlags) error {
	if f.seq == 0 && f.like == "" {
		return needSeq()
	}
	p, err := a.loadProject(dir, fetcher(ctx))
	if err != nil {
		return err
	}
	if p.Tide.Product == trust.SystemProduct {
		return refusal.New(refusal.Compile, "tide.yaml: product %q is that of the systems of machines", p.Tide.Product).
			WithHint("choose another product; a system is built by tidectl system build")
	}
	o, err := a.options(dir, f)
	if err != nil {
		return err
	}
	if o.to, err = readSealKeys(f.sealFor); err != nil {
		return err
	}
	if f.like != "" {
		file, err := os.Open(f.like)
		if err != nil {
			return err
		}
		defer file.Close()
		if o.like, err = write.ReadLike(file); err != nil {
			return refusal.About(f.like, err)
		}
		o.issued = time.Unix(int64(o.like.Issued()), 0)
	}
	d, err := buildBundle(p, o)
	if err != nil {
		return err
	}
	for _, w := range d.Warnings {
		a.Say("tidectl: warning: %s", w)
	}
	return a.showBuilt(f.out, d)
}

func needSeq() error {
	return cli.Usage("--seq is needed: the number of the bundle, 1 or one more than the last")
}

// options reads what the flags of a build name. dir is one of the folders where the trust root
// is looked for.
func (a *app) options(dir string, f buildFlags) (buildOptions, error) {
	rootFile, err := findRoot(f.root, dir, f.keys)
	if err != nil {
		return buildOptions{}, err
	}
	chain, roots, err := readRoots(rootFile)
	if err != nil {
		return buildOptions{}, err
	}
	root := roots[len(roots)-1]
	o := buildOptions{domain: root.Domain, epoch: root.Roles[trust.RoleRelease].Epoch, seq: f.seq, out: f.out, roots: lastRoots(chain, roots, f.rootsSince)}
	if o.issued, err = a.issued(f.issued); err != nil {
		return o, err
	}
	if o.signers, err = a.signers(f.keys, f.signers); err != nil {
		return o, err
	}
	a.warnKeys(root, o.signers)
	return o, nil
}

// warnKeys warns of a key that is not one of the release keys of the root, and of too few.
func (a *app) warnKeys(root *trust.Root, signers []envelope.Signer) {
	keys, ok := root.Keys(trust.RoleRelease)
	if !ok {
		return
	}
	n := 0
	for _, s := range signers {
		if slices.ContainsFunc(root.Roles[trust.RoleRelease].Keys, func(k trust.Key) bool { return k.Public == s.Public() }) {
			n++
		} else {
			a.Say("tidectl: warning: key %s is not a release key of root %d: its signature will not count", s.Public().ID().String()[:16], root.Version)
		}
	}
	if n < keys.Threshold() {
		a.Say("tidectl: warning: %d of %d signatures; add the others: tidectl bundle sign FILE --key FILE", n, keys.Threshold())
	}
}

func (a *app) showBuilt(file string, d *write.Draft) error {
	m := d.Manifest()
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if a.json {
		return a.JSON(map[string]any{"file": file, "digest": m.Digest().String(), "seq": m.Seq, "epoch": m.Epoch, "product": m.Product, "channel": m.Channel, "name": m.Name, "bytes": info.Size()})
	}
	fmt.Fprintf(a.Out, "%s  %s\n", m.Digest(), file)
	a.Say("%s: bundle %d of %s/%s (%s), %d bytes, %d files", file, m.Seq, m.Product, m.Channel, m.Name, info.Size(), len(m.Files))
	return nil
}

// issued reads the time of the build.
func (a *app) issued(s string) (time.Time, error) {
	if s == "" {
		s = a.Getenv("SOURCE_DATE_EPOCH")
	}
	if s == "" {
		return time.Now(), nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		return time.Unix(n, 0), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, cli.Usage("issued %q: want RFC 3339 or seconds since 1970", s)
	}
	return t, nil
}

// findRoot returns the trust root file: the given one, or the only one where it is looked for.
func findRoot(given, dir string, keys []string) (string, error) {
	if given != "" {
		return given, nil
	}
	folders := []string{dir, "."}
	for _, k := range keys {
		folders = append(folders, filepath.Dir(k))
	}
	for _, f := range folders {
		found, err := filepath.Glob(filepath.Join(f, "*.tideroot"))
		if err != nil {
			return "", err
		}
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return "", cli.Usage("several trust roots in %s; say which with --root FILE.tideroot", f)
		}
	}
	return "", refusal.New(refusal.RootNone, "no trust root found").WithHint("make one with tidectl trust init, or name it with --root FILE.tideroot")
}

// lastRoots returns the roots that travel along.
func lastRoots(chain [][]byte, roots []*trust.Root, since int64) [][]byte {
	if since < 0 {
		return chain[max(0, len(chain)-8):]
	}
	for i, r := range roots {
		if r.Version > uint64(since) {
			return chain[i:]
		}
	}
	return nil
}

// readSealKeys reads who can open the secrets from requests and enrolments.
func readSealKeys(files []string) ([]trust.SealKey, error) {
	var out []trust.SealKey
	for _, name := range files {
		keys, err := sealKeysOf(name)
		if err != nil {
			return nil, refusal.About(name, err)
		}
		out = append(out, keys...)
	}
	return out, nil
}

func sealKeysOf(name string) ([]trust.SealKey, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	env, err := envelope.ReadFile(envelope.Enroll, f)
	if err == nil {
		r, err := trust.OpenRequest(env[0])
		if err != nil {
			return nil, err
		}
		return r.Seal, nil
	}
	if _, err := f.Seek(0, 0); err != nil {
		return nil, err
	}
	if env, err = envelope.ReadFile(envelope.Device, f); err != nil {
		return nil, err
	}
	m, err := envelope.Parse(env[0], envelope.Device)
	if err != nil {
		return nil, err
	}
	e, err := trust.ParseEnrolment(m.Payload)
	if err != nil {
		return nil, err
	}
	return e.Seal, nil
}

// buildOptions is what a build needs besides the project.
type buildOptions struct {
	domain  trust.Domain
	epoch   uint64
	seq     uint64
	issued  time.Time
	roots   [][]byte
	signers []envelope.Signer
	to      []trust.SealKey
	like    *write.Like
	out     string
}

// buildBundle writes the bundle of a project to o.out, whole or not at all.
func buildBundle(p *project.Project, o buildOptions) (*write.Draft, error) {
	m, err := manifest(p, o)
	if err != nil {
		return nil, err
	}
	set, err := policy.Encode(p.Set)
	if err != nil {
		return nil, err
	}
	spec := write.Spec{Manifest: *m, Files: []write.File{write.Bytes(policyFile, set)}, Secrets: p.Secrets, To: o.to, Roots: o.roots, Like: o.like}
	if len(p.Secrets) > 0 && len(o.to) == 0 && o.like == nil {
		return nil, refusal.New(refusal.SecretRecipient, "the project has secrets and nobody to seal them for").
			WithHint("give --seal-for FILE.tidedevice or FILE.tideenroll of each device")
	}
	return o.write(spec)
}

// write writes a bundle to o.out, whole or not at all.
func (o *buildOptions) write(spec write.Spec) (d *write.Draft, err error) {
	err = durable.WriteFrom(o.out, 0o644, func(w io.Writer) (err error) {
		d, err = write.Build(w, spec, o.signers...)
		return err
	})
	return d, err
}

// manifest turns tide.yaml into the signed part of a bundle.
func manifest(p *project.Project, o buildOptions) (*bundle.Manifest, error) {
	t := p.Tide
	m := &bundle.Manifest{
		Common:  trust.Common{Domain: o.domain, Epoch: o.epoch, Seq: o.seq, Issued: uint64(o.issued.Unix())},
		Product: t.Product, Channel: t.Channel, Name: t.Name, Version: t.Version, Hardware: t.Hardware,
	}
	switch {
	case !t.Expires.IsZero():
		m.Expires = uint64(t.Expires.Unix())
	case t.ValidFor > 0:
		m.Expires = uint64(o.issued.Add(t.ValidFor).Unix())
	}
	for _, s := range t.Devices {
		switch {
		case s.Device != nil:
			m.Selectors = append(m.Selectors, trust.OneDevice(*s.Device))
		case len(s.Labels) > 0:
			m.Selectors = append(m.Selectors, trust.DevicesWith(s.Labels...))
		default:
			m.Selectors = append(m.Selectors, trust.EveryDevice())
		}
	}
	for _, q := range t.Probes {
		pr := bundle.Probe{Method: q.Method, Target: q.Target, TimeoutMS: uint64(q.Timeout.Milliseconds())}
		for _, s := range q.Status {
			pr.Status = append(pr.Status, uint64(s))
		}
		m.Probes = append(m.Probes, pr)
	}
	if t.Needs != [3]uint{} {
		m.Least = &[3]uint64{uint64(t.Needs[0]), uint64(t.Needs[1]), uint64(t.Needs[2])}
	}
	m.Activation = activation(t.Trial)
	return m, nil
}

// activation says how the bundle is confirmed; nil leaves it to the device.
func activation(t project.Trial) *bundle.Activation {
	if t == (project.Trial{}) {
		return nil
	}
	a := &bundle.Activation{Mode: bundle.Automatic, Window: 120, Attempts: 3}
	if t.Manual {
		a.Mode, a.Window = bundle.ByHand, 900
	}
	if t.Window > 0 {
		a.Window = uint64(t.Window / time.Second)
	}
	if t.Attempts > 0 {
		a.Attempts = uint64(t.Attempts)
	}
	return a
}
