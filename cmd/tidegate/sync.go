package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"tidegate/appliance/admin"
	"time"
)

// watchEvery is how often the progress of a sync is looked at.
const watchEvery = 500 * time.Millisecond

func (a *app) cmdSync(ctx context.Context, args []string) error {
	var c clientFlags
	var noWait bool
	f := a.flags("sync")
	c.register(f)
	f.BoolVar(&noWait, "no-wait", false, "do not wait until all is fetched and delivered")
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	cl, err := c.dial(a)
	if err != nil {
		return err
	}
	following, stop := context.WithCancel(ctx)
	var follower sync.WaitGroup
	if !noWait && !a.json {
		follower.Go(func() { a.followFetch(following, cl) })
	}
	resp, err := cl.do(ctx, http.MethodPost, "/v1/sync", url.Values{"wait": {strconv.FormatBool(!noWait)}}, nil)
	stop()
	follower.Wait()
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var l admin.Link
	if err := decode(resp.Body, &l); err != nil {
		return err
	}
	if a.json {
		return a.JSON(l)
	}
	if noWait {
		_, err = fmt.Fprintf(a.Out, "asked; the link is %s\n", l.State)
		return err
	}
	_, err = fmt.Fprintln(a.Out, syncLine(&l))
	return err
}

// followFetch tells what comes in while the caller waits.
func (a *app) followFetch(ctx context.Context, cl *client) {
	last := ""
	for tick := time.NewTicker(watchEvery); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		var s admin.Status
		if cl.get(ctx, "/v1/status", nil, &s) != nil || s.Link == nil {
			continue
		}
		now := s.Link.State
		if k := s.Link.Fetching; k != nil {
			now = fmt.Sprintf("fetching %s, %d %%", k.Digest[:min(8, len(k.Digest))], k.Have*100/max(k.Total, 1))
		}
		if now != last {
			a.Say("%s", now)
			last = now
		}
	}
}

// syncLine says how a round went.
func syncLine(l *admin.Link) string {
	if l.Collector {
		if l.Publisher {
			return "done: looked for bundles, and all that was recorded is delivered"
		}
		return "done: all that was recorded is delivered; no publisher answered, so nothing was looked for"
	}
	return "done: looked for bundles; no collector answered, so the events wait here"
}
