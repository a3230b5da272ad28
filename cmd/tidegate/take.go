package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"tidegate/policy/refusal"
)

// maxCandidates bounds what is offered of one volume.
const maxCandidates = 64

// takeOrder is in which order the files of a volume are offered: what a later one needs
// comes first.
var takeOrder = []string{".tideroot", ".tidedevice", ".tide"}

// cmdTake offers what lies on a mounted volume. It is what the service manager runs when a
// stick was plugged: a process of its own, so that a stick that stalls or breaks off costs
// this process and nothing else. A stick never pins the first trust root.
func (a *app) cmdTake(ctx context.Context, args []string) error {
	var c clientFlags
	f := a.flags("take")
	c.register(f)
	dirs, err := parse(f, args, 1)
	if err != nil {
		return err
	}
	names, skipped, err := candidates(dirs[0])
	if err != nil {
		return refusal.About(dirs[0], err)
	}
	for _, s := range skipped {
		a.Say("tidegate: %s: skipped: %s", s.name, s.why)
	}
	if len(names) == 0 {
		a.Say("tidegate: %s: nothing to take: no %s in the top folder or in tide/", dirs[0], strings.Join(takeOrder, ", "))
		return nil
	}
	cl, err := c.dial(a)
	if err != nil {
		return err
	}
	var worst error
	for _, name := range names {
		err := a.offer(ctx, cl, "/v1/apply", name, map[string][]string{"wait": {"false"}})
		if err == nil || ctx.Err() != nil {
			continue
		}
		worst = err
		if len(names) > 1 {
			a.Exit(err, false)
		}
	}
	return worst
}

// A skip is a file that is not offered.
type skip struct{ name, why string }

// candidates lists the files of dir and dir/tide that may be ours, in the order in which they
// are offered.
func candidates(dir string) (names []string, skipped []skip, err error) {
	for _, d := range []string{dir, filepath.Join(dir, "tide")} {
		entries, err := os.ReadDir(d)
		if d != dir && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)) {
			continue
		}
		if err != nil {
			return nil, nil, refusal.New(refusal.MediaIO, "%w", err)
		}
		for _, e := range entries {
			name := filepath.Join(d, e.Name())
			switch {
			case strings.HasPrefix(e.Name(), "."), !slices.Contains(takeOrder, filepath.Ext(e.Name())):
			case !e.Type().IsRegular(): // offer looks again, at the open file
				skipped = append(skipped, skip{name, "not a regular file"})
			case len(names) == maxCandidates:
				skipped = append(skipped, skip{name, fmt.Sprintf("more than %d files", maxCandidates)})
			default:
				names = append(names, name)
			}
		}
	}
	slices.SortStableFunc(names, func(x, y string) int {
		return slices.Index(takeOrder, filepath.Ext(x)) - slices.Index(takeOrder, filepath.Ext(y))
	})
	return names, skipped, nil
}
