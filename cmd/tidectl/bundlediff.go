package main

import (
	"fmt"
	"tidegate/policy"
	"tidegate/policy/changes"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"

	"github.com/spf13/cobra"
)

func (a *app) bundleDiffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff A B",
		Short: "Show what changes from bundle A to bundle B: APIs, operations, limits, callers, files, manifest",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			from, err := readInfo(args[0])
			if err != nil {
				return err
			}
			to, err := readInfo(args[1])
			if err != nil {
				return err
			}
			c := bundle.Compare(from.Manifest, to.Manifest)
			before, err := policyOf(args[0])
			if err != nil {
				return err
			}
			after, err := policyOf(args[1])
			if err != nil {
				return err
			}
			rules := changes.Between(before, after)
			if a.json {
				oldRoutes, newRoutes := routes(before), routes(after)
				added, removed := difference(newRoutes, oldRoutes), difference(oldRoutes, newRoutes)
				return a.JSON(map[string]any{"same": c.None(), "from_seq": from.Manifest.Seq, "to_seq": to.Manifest.Seq, "fields": c.Fields, "added": c.Added, "removed": c.Removed, "changed": c.Changed, "routes_added": added, "routes_removed": removed, "rules": rules, "new_bytes": c.StoredBytes})
			}
			fmt.Fprintf(a.Out, "bundle  %d.%d of %s/%s → %d.%d of %s/%s (epoch.seq)\n", from.Manifest.Epoch, from.Manifest.Seq, from.Manifest.Product, from.Manifest.Channel,
				to.Manifest.Epoch, to.Manifest.Seq, to.Manifest.Product, to.Manifest.Channel)
			if c.None() {
				a.Say("the same content; only number and time differ")
				return nil
			}
			for _, r := range rules {
				fmt.Fprintln(a.Out, r)
			}
			for _, l := range []struct {
				mark  string
				lines []string
			}{{"+ file", c.Added}, {"- file", c.Removed}, {"~ file", c.Changed}, {"~ manifest", c.Fields}} {
				for _, s := range l.lines {
					fmt.Fprintf(a.Out, "%s %s\n", l.mark, s)
				}
			}
			return nil
		},
	}
}

// policyOf returns the policy set of a bundle, an empty one if it has none.
func policyOf(file string) (*policy.Set, error) {
	b, err := content(file, policyFile)
	if err != nil || b == nil {
		return new(policy.Set), refusal.About(file, err)
	}
	set, err := policy.Decode(b)
	if err == nil {
		err = set.Validate() // what refers to nothing cannot be compared
	}
	if err != nil {
		return nil, refusal.About(file, refusal.New(refusal.Compile, "%w", err))
	}
	return set, nil
}

// routes returns the operations of a policy set, one line each.
func routes(set *policy.Set) []string {
	var out []string
	for i := range set.APIs {
		api := &set.APIs[i]
		for k := range api.Operations {
			op := &api.Operations[k]
			line := fmt.Sprintf("%s %s%s", op.Method, api.BasePath, op.Template)
			if len(op.Security) == 0 {
				line += " (unsecured)"
			}
			if op.Plan != "" {
				line += " plan " + op.Plan
			}
			out = append(out, line)
		}
	}
	return out
}

// difference returns what is in a and not in b.
func difference(a, b []string) []string {
	in := map[string]bool{}
	for _, s := range b {
		in[s] = true
	}
	out := []string{}
	for _, s := range a {
		if !in[s] {
			out = append(out, s)
		}
	}
	return out
}
