package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"tidegate/appliance"
	"tidegate/appliance/config"
	"tidegate/cmd/cli"
	"tidegate/platform/daemon"
	"tidegate/platform/logs"
	"tidegate/platform/memory"
	"tidegate/store"
)

// defaultConfig is read when it is there.
const defaultConfig = "/etc/tidegate/tidegate.toml"

// settings are --set flags.
type settings []config.Flag

func (s *settings) String() string { return "" }

// Set takes KEY=VALUE.
func (s *settings) Set(v string) error {
	k, val, ok := strings.Cut(v, "=")
	if !ok {
		return fmt.Errorf("%q: want KEY=VALUE", v)
	}
	*s = append(*s, config.Flag{Key: k, Value: val})
	return nil
}

// configFlags are the flags that say where the configuration comes from.
type configFlags struct {
	file, data string
	given      bool
	set        settings
}

func (c *configFlags) register(f *flag.FlagSet) {
	f.Func("config", "configuration file", func(s string) error {
		c.file, c.given = s, true
		return nil
	})
	f.StringVar(&c.data, "data", "", "data folder")
	f.Var(&c.set, "set", "KEY=VALUE of the configuration")
}

// load reads the configuration.
func (c *configFlags) load(a *app) (*config.Config, error) {
	s := config.Sources{File: c.file, Env: a.Env, Flags: c.set}
	if !c.given {
		s.File, s.Optional = defaultConfig, true
		if v := a.Getenv(config.Prefix + "CONFIG"); v != "" {
			s.File, s.Optional = v, false
		}
	}
	if c.data != "" {
		s.Flags = append(s.Flags, config.Flag{Key: "data", Value: c.data})
	}
	return config.Load(s)
}

func (a *app) cmdRun(ctx context.Context, args []string) error {
	var c configFlags
	var with, system string
	f := a.flags("run")
	c.register(f)
	f.StringVar(&system, "system", "", "socket of the flash image's first process, which replaces the system")
	f.StringVar(&with, "provision", "", "folder of the trust root and the bundles that the image came with")
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	sockets, err := daemon.Activated("http", "https", "admin")
	if err != nil {
		return err
	}
	o := daemon.Options{Sockets: sockets, Load: func() (daemon.Setup, error) { return a.setup(ctx, &c, with, system) }}
	if !cli.Terminal(a.In) { // there a hang-up means that the terminal is gone
		o.Reload = daemon.Hangups(ctx)
	}
	err = daemon.Run(ctx, o)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return cli.StatusError(130)
	}
	return err
}

// setup reads the configuration and says how to serve with it.
func (a *app) setup(ctx context.Context, c *configFlags, with, system string) (daemon.Setup, error) {
	cfg, err := c.load(a)
	if err != nil {
		return daemon.Setup{}, err
	}
	log := logs.New(logs.Options{Out: a.Err, Format: logs.Format(cfg.Log.Format), Level: level(cfg.Log.Level)})
	for _, w := range cfg.Warnings {
		log.Warn("configuration", "warning", w)
	}
	ready := func() {}
	if with != "" {
		ready = func() { go provision(ctx, newClient(cfg.Socket()), with, log.Logger) }
	}
	return daemon.Setup{
		Log:    log.Logger,
		Listen: map[string]string{"http": cfg.Listen.HTTP, "https": cfg.Listen.HTTPS, "admin": cfg.Admin.Listen},
		New: func(l map[string]net.Listener) (daemon.Program, error) {
			return device(ctx, cfg, log, l, ready, system)
		},
	}, nil
}

// device makes the device of a configuration.
func device(ctx context.Context, cfg *config.Config, log *logs.Log, listeners map[string]net.Listener, ready func(), system string) (daemon.Program, error) {
	limits := memory.Read(os.DirFS("/"))
	if n := int64(cfg.Memory.Limit); n > 0 {
		limits.Bytes, limits.Source = n, "memory.limit"
	}
	budget := memory.Plan(limits).Apply()
	log.Debug("memory", "plan", budget.String())
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	app, err := appliance.New(appliance.Options{
		Config: cfg, Log: log.Logger, Lines: log, Access: os.Stdout, Check: []string{self, store.CheckArg}, Listeners: listeners, Ready: ready,
		System: appliance.OpenSystem(ctx, system),
	})
	if err != nil {
		return nil, err
	}
	if err := reportCrashes(app.CrashFile()); err != nil {
		log.Warn("a crash would not be told from a power cut", "error", err)
	}
	return app, nil
}

// reportCrashes lets the runtime write the report of a crash to a file: the next start
// tells by it whether this program ended itself or lost its power.
func reportCrashes(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(debug.SetCrashOutput(f, debug.CrashOptions{}), f.Close())
}

// level reads log.level, which the configuration has checked.
func level(s string) slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return slog.LevelInfo
	}
	return l
}
