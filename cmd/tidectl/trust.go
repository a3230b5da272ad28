package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"tidegate/cmd/cli"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) trustCommand() *cobra.Command {
	c := &cobra.Command{Use: "trust", Short: "Make, rotate, sign and show the trust root"}
	c.AddCommand(a.trustInitCommand(), a.trustRotateCommand(), a.trustSignCommand(), a.trustShowCommand())
	return c
}

// roleFlags are the keys and thresholds of all roles on a command line.
type roleFlags struct {
	keys       map[trust.RoleNumber]*[]string
	thresholds map[trust.RoleNumber]*int
}

// knownRoles in the order in which they are shown.
var knownRoles = []trust.RoleNumber{trust.RoleRoot, trust.RoleRelease, trust.RoleTime, trust.RoleCollector}

func (r *roleFlags) register(c *cobra.Command) {
	r.keys = map[trust.RoleNumber]*[]string{}
	r.thresholds = map[trust.RoleNumber]*int{}
	for _, n := range knownRoles {
		r.keys[n] = c.Flags().StringArray(n.String(), nil, "public key (or key file) of role "+n.String()+"; may be given several times")
		r.thresholds[n] = c.Flags().Int(n.String()+"-threshold", 0, "how many keys of role "+n.String()+" must sign")
	}
}

// apply sets what was given on root.
func (r *roleFlags) apply(a *app, root *trust.Root) error {
	for _, n := range knownRoles {
		files, threshold := *r.keys[n], *r.thresholds[n]
		role, had := root.Roles[n]
		if len(files) > 0 {
			role.Keys = nil
			for _, f := range files {
				p, err := a.readPublic(f)
				if err != nil {
					return err
				}
				role.Keys = append(role.Keys, trust.Key{Name: p.Name, Public: p.Key})
			}
			if !had {
				role.Threshold, role.Epoch = 1, 1
			}
		}
		if threshold != 0 {
			if len(role.Keys) == 0 {
				return cli.Usage("--%s-threshold: the role has no keys; want --%s FILE", n, n)
			}
			role.Threshold = threshold
		}
		if len(role.Keys) > 0 {
			root.Roles[n] = role
		}
	}
	a.warnShared(root)
	return nil
}

// warnShared warns of a key that serves two roles.
func (a *app) warnShared(root *trust.Root) {
	seen := map[envelope.PublicKey]trust.RoleNumber{}
	for _, n := range knownRoles {
		for _, k := range root.Roles[n].Keys {
			if k.Other != nil {
				continue
			}
			if other, ok := seen[k.Public]; ok && other != n {
				a.Say("tidectl: warning: key %q serves role %s and role %s", k.Name, other, n)
			}
			seen[k.Public] = n
		}
	}
}

func (a *app) trustInitCommand() *cobra.Command {
	var roles roleFlags
	var out, expires string
	var keys, signers []string
	c := &cobra.Command{
		Use:   "init -o FILE.tideroot --root FILE… --release FILE…",
		Short: "Make the first trust root",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			root := &trust.Root{Version: 1, Issued: uint64(time.Now().Unix()), Roles: map[trust.RoleNumber]trust.Role{}}
			if _, err := rand.Read(root.Domain[:]); err != nil {
				return err
			}
			if err := setExpires(root, expires); err != nil {
				return err
			}
			if err := roles.apply(a, root); err != nil {
				return err
			}
			for _, n := range []trust.RoleNumber{trust.RoleRoot, trust.RoleRelease} {
				if len(root.Roles[n].Keys) == 0 {
					return cli.Usage("role %s has no keys; want --%s FILE", n, n)
				}
			}
			return a.signRoot(root, nil, keys, signers, out)
		},
	}
	roles.register(c)
	c.Flags().StringVarP(&out, "output", "o", "", "file to write")
	c.Flags().StringVar(&expires, "expires", "", "date from which devices warn (2006-01-02); default: never")
	c.Flags().StringArrayVar(&keys, "key", nil, "private key to sign with; may be given several times")
	c.Flags().StringArrayVar(&signers, "signer", nil, "exec:COMMAND to sign with")
	_ = c.MarkFlagRequired("output")
	return c
}

func setExpires(root *trust.Root, s string) error {
	if s == "" {
		return nil
	}
	if s == "never" {
		root.Expires = 0
		return nil
	}
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return cli.Usage("--expires %q: want a date such as 2031-12-31, or never", s)
	}
	root.Expires = uint64(t.Unix())
	return nil
}

// signRoot signs root with what is at hand, appends it to the chain and writes the file.
func (a *app) signRoot(root *trust.Root, chain [][]byte, keys, commands []string, out string) error {
	root.SortSets()
	payload, err := root.Marshal()
	if err != nil {
		return err
	}
	signers, err := a.signers(keys, commands)
	if err != nil {
		return err
	}
	env, err := envelope.Sign(envelope.Root, payload, signers...)
	if err != nil {
		return err
	}
	chain = append(chain, env)
	if err := writeFile(out, envelope.File(envelope.Root, chain[max(0, len(chain)-envelope.MaxFileMessages):]...)); err != nil {
		return err
	}
	return a.showRoots(out, chain)
}

func (a *app) trustRotateCommand() *cobra.Command {
	var roles roleFlags
	var out, expires string
	var keys, signers, epochs, minimums, revoke []string
	c := &cobra.Command{
		Use:   "rotate FILE.tideroot -o NEW.tideroot",
		Short: "Propose the next version of a trust root; others add their signatures with trust sign",
		Long: "Propose the next version of a trust root.\n\nKeys given for a role replace all keys of that role. The new root counts when the threshold\n" +
			"of the old root's keys and the threshold of its own keys have signed it.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			chain, roots, err := readRoots(args[0])
			if err != nil {
				return err
			}
			root := roots[len(roots)-1]
			root.Version++
			root.Issued = uint64(time.Now().Unix())
			if err := setExpires(root, expires); err != nil {
				return err
			}
			if err := roles.apply(a, root); err != nil {
				return err
			}
			if err := raise(root, epochs); err != nil {
				return err
			}
			if err := setMinimums(root, minimums); err != nil {
				return err
			}
			if err := revokeBundles(root, revoke); err != nil {
				return err
			}
			return a.signRoot(root, chain, keys, signers, out)
		},
	}
	roles.register(c)
	c.Flags().StringVarP(&out, "output", "o", "", "file to write")
	c.Flags().StringVar(&expires, "expires", "", "date from which devices warn (2006-01-02), or never")
	c.Flags().StringArrayVar(&keys, "key", nil, "private key to sign with; may be given several times")
	c.Flags().StringArrayVar(&signers, "signer", nil, "exec:COMMAND to sign with")
	c.Flags().StringArrayVar(&epochs, "raise-epoch", nil, "role whose epoch rises: what it signed before loses its force")
	c.Flags().StringArrayVar(&minimums, "minimum", nil, "PRODUCT/CHANNEL=EPOCH:SEQ below which no bundle is installed or served again")
	c.Flags().StringArrayVar(&revoke, "revoke", nil, "digest, or file, of a bundle that is not to be installed any more")
	_ = c.MarkFlagRequired("output")
	return c
}

func raise(root *trust.Root, names []string) error {
	for _, name := range names {
		i := slices.IndexFunc(knownRoles, func(n trust.RoleNumber) bool { return n.String() == name })
		if i < 0 || len(root.Roles[knownRoles[i]].Keys) == 0 {
			return cli.Usage("--raise-epoch %q: no such role in this root", name)
		}
		role := root.Roles[knownRoles[i]]
		role.Epoch++
		root.Roles[knownRoles[i]] = role
	}
	return nil
}

func setMinimums(root *trust.Root, values []string) error {
	for _, v := range values {
		where, number, ok1 := strings.Cut(v, "=")
		product, channel, ok2 := strings.Cut(where, "/")
		e, s, ok3 := strings.Cut(number, ":")
		epoch, err1 := strconv.ParseUint(e, 10, 64)
		seq, err2 := strconv.ParseUint(s, 10, 64)
		if !ok1 || !ok2 || !ok3 || err1 != nil || err2 != nil {
			return cli.Usage("--minimum %q: want PRODUCT/CHANNEL=EPOCH:SEQ", v)
		}
		m := trust.Minimum{Product: product, Channel: channel, Epoch: epoch, Seq: seq}
		i := slices.IndexFunc(root.Minimums, func(o trust.Minimum) bool { return o.Product == product && o.Channel == channel })
		if i >= 0 {
			root.Minimums[i] = m
		} else {
			root.Minimums = append(root.Minimums, m)
		}
	}
	return nil
}

func revokeBundles(root *trust.Root, values []string) error {
	for _, v := range values {
		var d trust.Digest
		if b, err := hex.DecodeString(v); err == nil && len(b) == len(d) {
			d = trust.Digest(b)
		} else {
			digest, err := digestOfFile(v)
			if err != nil {
				return fmt.Errorf("--revoke: %w", err)
			}
			d = digest
		}
		if !slices.Contains(root.Revoked, d) {
			root.Revoked = append(root.Revoked, d)
		}
	}
	return nil
}

func (a *app) trustSignCommand() *cobra.Command {
	var keys, signers []string
	var tbs, add, public string
	c := &cobra.Command{
		Use:   "sign FILE.tideroot",
		Short: "Add a signature to the newest root of a file",
		Long: "Add a signature to the newest root of a file.\n\nWith the private key on another machine: --tbs OUT --public KEY.pub writes the bytes to be signed\n" +
			"(Ed25519, 64 bytes back, raw or in hex); --add SIG --public KEY.pub brings the signature in.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			chain, _, err := readRoots(args[0])
			if err != nil {
				return err
			}
			last := len(chain) - 1
			env, err := a.addSignatures(envelope.Root, chain[last], signing{keys: keys, commands: signers, tbs: tbs, add: add, public: public})
			if err != nil || env == nil {
				return refusal.About(args[0], err)
			}
			chain[last] = env
			if err := writeFile(args[0], envelope.File(envelope.Root, chain...)); err != nil {
				return err
			}
			return a.showRoots(args[0], chain)
		},
	}
	c.Flags().StringArrayVar(&keys, "key", nil, "private key to sign with; may be given several times")
	c.Flags().StringArrayVar(&signers, "signer", nil, "exec:COMMAND to sign with")
	c.Flags().StringVar(&tbs, "tbs", "", "write the bytes to be signed to this file instead")
	c.Flags().StringVar(&add, "add", "", "file with a signature made elsewhere")
	c.Flags().StringVar(&public, "public", "", "public key that signs or has signed elsewhere")
	c.MarkFlagsMutuallyExclusive("tbs", "add", "key")
	return c
}

// signing says how signatures are added to a message.
type signing struct {
	keys, commands   []string
	tbs, add, public string
}

// addSignatures returns the message with signatures added, or nil after writing the bytes
// to be signed elsewhere.
func (a *app) addSignatures(kind envelope.Kind, env []byte, s signing) ([]byte, error) {
	if s.tbs == "" && s.add == "" {
		signers, err := a.signers(s.keys, s.commands)
		if err != nil {
			return nil, err
		}
		for _, signer := range signers {
			if env, err = envelope.AddSigner(env, kind, signer); err != nil {
				return nil, err
			}
		}
		return env, nil
	}
	if s.public == "" {
		return nil, cli.Usage("--tbs and --add need --public KEY.pub")
	}
	pub, err := a.readPublic(s.public)
	if err != nil {
		return nil, err
	}
	if s.tbs != "" {
		m, err := envelope.Parse(env, kind)
		if err != nil {
			return nil, err
		}
		if err := writeFile(s.tbs, envelope.TBS(kind, m.Payload, pub.Key)); err != nil {
			return nil, err
		}
		a.Say("%s: sign these bytes with %q (Ed25519) and bring the signature back with --add", s.tbs, pub.Name)
		return nil, nil
	}
	sig, err := readSmall(s.add)
	if err != nil {
		return nil, err
	}
	if raw, err := hex.DecodeString(string(bytes.TrimSpace(sig))); err == nil {
		sig = raw
	}
	return envelope.Add(env, kind, pub.Key, sig)
}
