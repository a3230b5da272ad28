package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"tidegate/cmd/cli"
	"tidegate/platform/buildinfo"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/write"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) bundleCommand() *cobra.Command {
	c := &cobra.Command{Use: "bundle", Short: "Look at, check, compare, sign and unpack bundles"}
	c.AddCommand(a.bundleInfoCommand(), a.bundleVerifyCommand(), a.bundleDiffCommand(), a.bundleSignCommand(), a.bundleExtractCommand())
	return c
}

// bundleView is what info and verify show.
type bundleView struct {
	File     string     `json:"file"`
	Verified bool       `json:"verified"`
	Digest   string     `json:"digest"`
	Product  string     `json:"product"`
	Channel  string     `json:"channel"`
	Name     string     `json:"name"`
	Version  string     `json:"version,omitempty"`
	Domain   string     `json:"trust_domain"`
	Epoch    uint64     `json:"epoch"`
	Seq      uint64     `json:"seq"`
	Issued   time.Time  `json:"issued"`
	Expires  *time.Time `json:"expires,omitempty"`
	Hardware []string   `json:"hardware"`
	Devices  []string   `json:"devices"`
	Signers  []string   `json:"signers"`
	Roots    []uint64   `json:"roots,omitempty"`
	Bytes    int64      `json:"bytes"`
	Files    []fileView `json:"files"`
	Sealed   int        `json:"recipients,omitempty"`
	Probes   []string   `json:"probes,omitempty"`
	Warnings []string   `json:"warnings,omitempty"`
}

type fileView struct {
	Path  string `json:"path"`
	Size  uint64 `json:"size"`
	Codec string `json:"codec"`
}

func viewOf(file string, i *write.Info) bundleView {
	m := i.Manifest
	v := bundleView{
		File: file, Digest: i.Digest.String(), Product: m.Product, Channel: m.Channel, Name: m.Name, Version: m.Version,
		Domain: m.Domain.String(), Epoch: m.Epoch, Seq: m.Seq, Issued: time.Unix(int64(m.Issued), 0).UTC(),
		Hardware: m.Hardware, Roots: i.Roots, Bytes: i.Bytes, Sealed: len(m.Recipients),
	}
	if m.Expires != 0 {
		t := time.Unix(int64(m.Expires), 0).UTC()
		v.Expires = &t
	}
	for _, s := range m.Selectors {
		v.Devices = append(v.Devices, s.String())
	}
	for _, s := range i.Signers {
		v.Signers = append(v.Signers, s.String())
	}
	for _, f := range m.Files {
		v.Files = append(v.Files, fileView{f.Path, f.Size, f.Codec.String()})
	}
	for _, p := range m.Probes {
		v.Probes = append(v.Probes, p.Method+" "+p.Target)
	}
	return v
}

func (a *app) showBundle(v bundleView) error {
	if a.json {
		return a.JSON(v)
	}
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	if !v.Verified {
		fmt.Fprintf(w, "UNVERIFIED\tnobody has checked a signature\n")
	}
	fmt.Fprintf(w, "digest\t%s\nbundle\t%d of %s/%s, epoch %d\nname\t%s %s\ntrust domain\t%s\nissued\t%s\n",
		v.Digest, v.Seq, v.Product, v.Channel, v.Epoch, v.Name, v.Version, v.Domain, v.Issued.Format(time.RFC3339))
	if v.Expires != nil {
		fmt.Fprintf(w, "expires\t%s\n", v.Expires.Format(time.RFC3339))
	}
	fmt.Fprintf(w, "hardware\t%s\ndevices\t%s\n", strings.Join(v.Hardware, ", "), strings.Join(v.Devices, "; "))
	for _, s := range v.Signers {
		fmt.Fprintf(w, "signed by\t%s\n", s)
	}
	if len(v.Roots) > 0 {
		fmt.Fprintf(w, "roots\t%v\n", v.Roots)
	}
	for _, p := range v.Probes {
		fmt.Fprintf(w, "probe\t%s\n", p)
	}
	for _, f := range v.Files {
		fmt.Fprintf(w, "file\t%s, %d bytes, %s\n", f.Path, f.Size, f.Codec)
	}
	if v.Sealed > 0 {
		fmt.Fprintf(w, "secrets\tsealed for %d keys\n", v.Sealed)
	}
	return w.Flush()
}

func (a *app) bundleInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "info FILE",
		Short: "Show what a bundle says about itself; nothing is verified",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			i, err := readInfo(args[0])
			if err != nil {
				return err
			}
			return a.showBundle(viewOf(args[0], i))
		},
	}
}

func readInfo(file string) (*write.Info, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	i, err := write.ReadInfo(f)
	return i, refusal.About(file, err)
}

// digestOfFile returns the digest of a bundle.
func digestOfFile(file string) (trust.Digest, error) {
	i, err := readInfo(file)
	if err != nil {
		return trust.Digest{}, err
	}
	return trust.Digest(i.Digest), nil
}

func (a *app) bundleVerifyCommand() *cobra.Command {
	var root string
	c := &cobra.Command{
		Use:   "verify FILE --root FILE.tideroot",
		Short: "Verify a bundle as a device would, up to whether it is meant for one",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rootFile, err := findRoot(root, filepath.Dir(args[0]), nil)
			if err != nil {
				return err
			}
			state, err := pinFile(rootFile)
			if err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			m, warnings, err := write.Verify(cmd.Context(), f, state)
			if err != nil {
				return refusal.About(args[0], err)
			}
			i, err := readInfo(args[0])
			if err != nil {
				return err
			}
			v := viewOf(args[0], i)
			v.Verified = m.Digest() == i.Digest
			for _, w := range warnings {
				v.Warnings = append(v.Warnings, string(w.Word)+": "+w.Error())
				a.Say("tidectl: warning: %s: %v", w.Word, w)
			}
			if err := a.showBundle(v); err != nil {
				return err
			}
			a.Say("%s: verified", args[0])
			return nil
		},
	}
	c.Flags().StringVar(&root, "root", "", "trust root file; default: a single *.tideroot beside FILE or in the current folder")
	return c
}

// pinFile pins the first root of a file and walks the rest of its chain.
func pinFile(file string) (trust.State, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return trust.State{}, err
	}
	build := uint64(buildinfo.Get().Time.Unix())
	state, _, err := trust.Pin(b, build)
	if err != nil {
		return state, refusal.About(file, err)
	}
	chain, _, err := readRoots(file)
	if err != nil {
		return state, err
	}
	state, _, err = state.AddRoots(chain, build, func(trust.State) error { return nil })
	return state, refusal.About(file, err)
}

// content returns one file of a bundle, nil if it is not in it.
func content(file, path string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h, err := bundle.Read(f)
	if err != nil {
		return nil, err
	}
	msg, err := envelope.Parse(h.Manifest, envelope.Manifest)
	if err != nil {
		return nil, err
	}
	m, err := bundle.ParseManifest(msg.Payload)
	if err != nil {
		return nil, err
	}
	if _, ok := m.File(path); !ok {
		return nil, nil
	}
	r := bundle.NewReader(m, bundle.NewFileSource(f, m, int64(len(h.Bytes))))
	defer r.Close() //nolint:errcheck // only memory
	return r.ReadFile(path, bundle.MaxContent)
}

func (a *app) bundleSignCommand() *cobra.Command {
	var s signing
	var expect, out string
	c := &cobra.Command{
		Use:   "sign FILE --key FILE",
		Short: "Add a signature to a bundle",
		Long: "Add a signature to a bundle.\n\nWith the private key on another machine: --tbs OUT --public KEY.pub writes the bytes to be signed;\n" +
			"--add SIG --public KEY.pub brings the signature in.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var want bundle.Digest
			if expect != "" {
				var err error
				if want, err = bundle.ParseDigest(expect); err != nil {
					return err
				}
				got, err := digestOfFile(args[0])
				if err != nil {
					return err
				}
				if bundle.Digest(got) != want {
					return refusal.About(args[0], refusal.New(refusal.Digest, "the bundle has digest %s, expected is %s", got, want).
						WithHint("look at what changed: tidectl bundle diff"))
				}
			}
			if out == "" {
				out = args[0]
			}
			return a.signBundle(args[0], out, want, s)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&s.keys, "key", nil, "private key to sign with; may be given several times")
	f.StringArrayVar(&s.commands, "signer", nil, "exec:COMMAND to sign with")
	f.StringVar(&s.tbs, "tbs", "", "write the bytes to be signed to this file instead")
	f.StringVar(&s.add, "add", "", "file with a signature made elsewhere, raw or in hex")
	f.StringVar(&s.public, "public", "", "public key that signs or has signed elsewhere")
	f.StringVar(&expect, "expect", "", "digest that the bundle must have; else nothing is signed")
	f.StringVarP(&out, "output", "o", "", "file to write; default: FILE itself")
	c.MarkFlagsMutuallyExclusive("tbs", "add", "key")
	return c
}

func (a *app) signBundle(file, out string, want bundle.Digest, s signing) error {
	if s.tbs != "" || s.add != "" {
		if s.public == "" {
			return cli.Usage("--tbs and --add need --public KEY.pub")
		}
		pub, err := a.readPublic(s.public)
		if err != nil {
			return err
		}
		if s.tbs != "" {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			defer f.Close()
			b, digest, err := write.TBS(f, pub.Key)
			if err != nil {
				return refusal.About(file, err)
			}
			if want != (bundle.Digest{}) && digest != want {
				return refusal.About(file, refusal.New(refusal.Digest, "the bundle has digest %s, expected is %s", digest, want))
			}
			a.Say("%s: %s", file, digest)
			return writeFile(s.tbs, b)
		}
		sig, err := readSmall(s.add)
		if err != nil {
			return err
		}
		if raw, err := hex.DecodeString(string(bytes.TrimSpace(sig))); err == nil {
			sig = raw
		}
		return a.rewrite(file, out, func(w io.Writer, r io.Reader) (bundle.Digest, error) {
			return write.Add(w, r, want, pub.Key, sig)
		})
	}
	signers, err := a.signers(s.keys, s.commands)
	if err != nil {
		return err
	}
	for _, signer := range signers {
		err := a.rewrite(file, out, func(w io.Writer, r io.Reader) (bundle.Digest, error) { return write.Sign(w, r, want, signer) })
		if err != nil {
			return err
		}
		file = out
	}
	return nil
}

// rewrite replaces out by what fn makes of file, whole or not at all.
func (a *app) rewrite(file, out string, fn func(io.Writer, io.Reader) (bundle.Digest, error)) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	var digest bundle.Digest
	err = durable.WriteFrom(out, 0o644, func(w io.Writer) (err error) {
		if digest, err = fn(w, in); err != nil {
			return refusal.About(file, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if a.json {
		return a.JSON(map[string]string{"file": out, "digest": digest.String()})
	}
	fmt.Fprintf(a.Out, "%s  %s\n", digest, out)
	return nil
}

func (a *app) bundleExtractCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "extract FILE DIR",
		Short: "Write the files of a bundle below DIR, and only there",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			if err := write.Extract(f, args[1]); err != nil {
				return refusal.About(args[0], err)
			}
			a.Say("%s: extracted to %s; its signatures were not checked", args[0], args[1])
			return nil
		},
	}
}
