package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"tidegate/cmd/cli"
	"tidegate/platform/media"
	"tidegate/policy/refusal"
	"tidegate/sync/usbdrop/remote"
)

// cmdTake holds a mounted volume for the device, which looks into it as into any stick. It is what
// the service manager runs when a stick was plugged: a process of its own with little privilege, so that
// a stick that stalls or breaks off costs this process and nothing else.
func (a *app) cmdTake(ctx context.Context, args []string) error {
	var c clientFlags
	var stay bool
	f := a.flags("take")
	c.register(f)
	f.BoolVar(&stay, "stay", false, "hold the stick until the verdict of a trial is on it too")
	dirs, err := parse(f, args, 1)
	if err != nil {
		return err
	}
	folder, err := media.Open(dirs[0])
	if err != nil {
		return refusal.About(dirs[0], err)
	}
	defer folder.Close() //nolint:errcheck // what was written was synced
	cl, err := c.dial(a)
	if err != nil {
		return err
	}
	conn, in, err := cl.hold(ctx, filepath.Base(filepath.Clean(dirs[0])))
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	enough := errors.New("enough")
	code, err := remote.Serve(conn, in, folder, func(line string, last bool) error {
		if _, err := fmt.Fprintln(a.Out, line); err != nil {
			return err
		}
		if last && !stay {
			return enough
		}
		return nil
	})
	switch {
	case errors.Is(err, enough):
		return cli.StatusError(refusal.ExitWaiting)
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	}
	return exitWith(code)
}
