package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"syscall"
	"tidegate/appliance"
	"tidegate/appliance/config"
	"tidegate/platform/durable"
	"tidegate/platform/logs"
	"tidegate/store"
	"time"
)

// restEnd bounds the end of a device that was opened at rest.
const restEnd = 10 * time.Second

// open returns a client for the running device. If none runs, the device is opened at rest for
// as long as this command takes: it answers commands and serves no calls. So a card can be
// prepared before its first start, and read after its last.
func (c *clientFlags) open(ctx context.Context, a *app) (*client, error) {
	cl, err := c.dial(a)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", cl.path)
	if err == nil {
		return cl, conn.Close()
	}
	if c.socket != "" || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
		return nil, cl.explain(err)
	}
	cfg, err := c.load(a)
	if err != nil {
		return nil, err
	}
	if err := mayOpen(cfg.Data); err != nil {
		return nil, err
	}
	if err := a.rest(ctx, cfg); err != nil {
		return nil, err
	}
	cl.atRest = true
	return cl, nil
}

// mayOpen refuses to open a data folder of another user: files made there would be ours, and
// the device could not read them.
func mayOpen(data string) error {
	owner, err := durable.Owner(data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if owner != os.Geteuid() {
		return fmt.Errorf("%s: no device is running there, and the folder belongs to user %d; start the device, or run this command as that user", data, owner)
	}
	return nil
}

// rest opens the device at rest until the program ends.
func (a *app) rest(ctx context.Context, cfg *config.Config) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log := logs.New(logs.Options{Out: a.Err, Format: logs.Text, Level: slog.LevelError})
	device, err := appliance.New(appliance.Options{Config: cfg, Log: log.Logger, Check: []string{self, store.CheckArg}})
	if err != nil {
		return err
	}
	if err := device.Rest(ctx); err != nil {
		return err
	}
	a.atEnd = func() error {
		stop, cancel := context.WithTimeout(context.Background(), restEnd)
		defer cancel()
		return device.Stop(stop)
	}
	return nil
}
