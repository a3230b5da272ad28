package main

import (
	"fmt"
	"os"
	"slices"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) trustShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE.tideroot",
		Short: "Show the roots of a file: roles, keys, and who has signed",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			chain, _, err := readRoots(args[0])
			if err != nil {
				return err
			}
			return a.showRoots(args[0], chain)
		},
	}
}

// readRoots reads the roots of a file, without judging their signatures.
func readRoots(file string) ([][]byte, []*trust.Root, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	chain, err := envelope.ReadFile(envelope.Root, f)
	if err != nil {
		return nil, nil, refusal.About(file, err)
	}
	roots, _, err := parseRoots(chain)
	if err != nil {
		return nil, nil, refusal.About(file, err)
	}
	return chain, roots, nil
}

// parseRoots returns the roots of a chain and the envelope of the last.
func parseRoots(chain [][]byte) (roots []*trust.Root, last *envelope.Message, err error) {
	for _, env := range chain {
		if last, err = envelope.Parse(env, envelope.Root); err != nil {
			return nil, nil, err
		}
		r, err := trust.ParseRoot(last.Payload)
		if err != nil {
			return nil, nil, err
		}
		roots = append(roots, r)
	}
	return roots, last, nil
}

// rootView is a root as it is shown.
type rootView struct {
	Version     uint64     `json:"version"`
	Domain      string     `json:"trust_domain"`
	Fingerprint string     `json:"fingerprint"`
	Issued      time.Time  `json:"issued"`
	Expires     *time.Time `json:"expires,omitempty"`
	Roles       []roleView `json:"roles"`
	Minimums    []string   `json:"minimums,omitempty"`
	Revoked     []string   `json:"revoked,omitempty"`
	Signed      string     `json:"signed"`
	Complete    bool       `json:"complete"`
}

type roleView struct {
	Role      string    `json:"role"`
	Epoch     uint64    `json:"epoch"`
	Threshold int       `json:"threshold"`
	Keys      []keyView `json:"keys"`
}

type keyView struct {
	Name   string `json:"name"`
	ID     string `json:"id"`
	Signed bool   `json:"signed,omitempty"`
}

// view describes the last root of a chain and says who has signed it.
func view(chain [][]byte) (rootView, error) {
	roots, last, err := parseRoots(chain)
	if err != nil {
		return rootView{}, err
	}
	r := roots[len(roots)-1]
	fp, err := trust.Fingerprint(chain[len(chain)-1])
	if err != nil {
		return rootView{}, err
	}
	v := rootView{Version: r.Version, Domain: r.Domain.String(), Fingerprint: fp.String(), Issued: time.Unix(int64(r.Issued), 0).UTC()}
	if r.Expires != 0 {
		t := time.Unix(int64(r.Expires), 0).UTC()
		v.Expires = &t
	}
	for _, m := range r.Minimums {
		v.Minimums = append(v.Minimums, fmt.Sprintf("%s/%s=%d:%d", m.Product, m.Channel, m.Epoch, m.Seq))
	}
	for _, d := range r.Revoked {
		v.Revoked = append(v.Revoked, d.String())
	}
	newKeys, _ := r.Keys(trust.RoleRoot)
	count, verdict := last.Verify(newKeys)
	for _, n := range knownRoles {
		role, ok := r.Roles[n]
		if !ok {
			continue
		}
		rv := roleView{Role: n.String(), Epoch: role.Epoch, Threshold: role.Threshold}
		for _, k := range role.Keys {
			rv.Keys = append(rv.Keys, keyView{Name: k.Name, ID: k.Public.ID().String(), Signed: n == trust.RoleRoot && slices.Contains(count.Signers, k.Public)})
		}
		v.Roles = append(v.Roles, rv)
	}
	v.Complete = verdict == nil
	v.Signed = fmt.Sprintf("%d of %d", len(count.Signers), newKeys.Threshold())
	if len(roots) > 1 {
		oldKeys, _ := roots[len(roots)-2].Keys(trust.RoleRoot)
		c, err := last.Verify(oldKeys)
		v.Complete = v.Complete && err == nil
		v.Signed = fmt.Sprintf("%d of %d by the keys of root %d, %s by its own", len(c.Signers), oldKeys.Threshold(), r.Version-1, v.Signed)
	}
	return v, nil
}

// showRoots prints the last root of a chain.
func (a *app) showRoots(file string, chain [][]byte) error {
	v, err := view(chain)
	if err != nil {
		return refusal.About(file, err)
	}
	if a.json {
		return a.JSON(v)
	}
	fmt.Fprintf(a.Out, "root version   %d\ntrust domain   %s\nfingerprint    %s\nissued         %s\n", v.Version, v.Domain, v.Fingerprint, v.Issued.Format(time.DateTime))
	if v.Expires != nil {
		fmt.Fprintf(a.Out, "expires        %s (devices warn)\n", v.Expires.Format(time.DateTime))
	}
	for _, r := range v.Roles {
		fmt.Fprintf(a.Out, "role %-9s %d of %d must sign, epoch %d\n", r.Role, r.Threshold, len(r.Keys), r.Epoch)
		for _, k := range r.Keys {
			mark := ""
			if k.Signed {
				mark = "  signed this root"
			}
			fmt.Fprintf(a.Out, "  %s  %s%s\n", k.ID[:16], k.Name, mark)
		}
	}
	for _, m := range v.Minimums {
		fmt.Fprintf(a.Out, "minimum        %s\n", m)
	}
	for _, d := range v.Revoked {
		fmt.Fprintf(a.Out, "revoked        %s\n", d)
	}
	fmt.Fprintf(a.Out, "signed         %s\n", v.Signed)
	if !v.Complete {
		a.Say("tidectl: %s: signatures are missing; no device takes this root yet", file)
		a.Say("tidectl: hint: on each signer's machine: tidectl trust sign %s --key FILE", file)
	}
	return nil
}
