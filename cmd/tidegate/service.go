package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"tidegate/cmd/cli"
	"tidegate/platform/daemon"
	"time"
)

// manager returns the service manager for this program.
func (a *app) manager(name string, args []string) (*daemon.Manager, error) {
	if _, err := parse(a.flags(name), args, 0); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return nil, err
	}
	return daemon.NewManager(self)
}

// change runs one change to the service, for which one must be root, and says what came of it.
func (a *app) change(name string, args []string, do func(*daemon.Manager) (string, error)) error {
	m, err := a.manager("service "+name, args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("service %s: not allowed; run it as root", name)
	}
	said, err := do(m)
	if err != nil {
		return fmt.Errorf("service %s: %w", name, err)
	}
	if a.json {
		return a.showService(m)
	}
	_, err = fmt.Fprintln(a.Out, said)
	return err
}

func (a *app) cmdServiceInstall(_ context.Context, args []string) error {
	return a.change("install", args, func(m *daemon.Manager) (string, error) {
		changed, err := m.Install()
		if err == nil && !changed {
			return "already so", nil
		}
		return "installed; start it with: tidegate service start", err
	})
}

func (a *app) cmdServiceUninstall(_ context.Context, args []string) error {
	return a.change("uninstall", args, func(m *daemon.Manager) (string, error) {
		changed, err := m.Uninstall()
		if err == nil && !changed {
			return "already so", nil
		}
		return "uninstalled; the data in /var/lib/tidegate stays", err
	})
}

func (a *app) cmdServiceStart(_ context.Context, args []string) error {
	return a.change("start", args, func(m *daemon.Manager) (string, error) { return "started", m.Start() })
}

func (a *app) cmdServiceStop(_ context.Context, args []string) error {
	return a.change("stop", args, func(m *daemon.Manager) (string, error) { return "stopped", m.Stop() })
}

func (a *app) cmdServiceRestart(_ context.Context, args []string) error {
	return a.change("restart", args, func(m *daemon.Manager) (string, error) { return "restarted", m.Restart() })
}

// cmdServiceStatus prints what the service manager says; the exit code is 0 if it runs.
func (a *app) cmdServiceStatus(_ context.Context, args []string) error {
	m, err := a.manager("service status", args)
	if err != nil {
		return err
	}
	state, err := m.State()
	if err != nil {
		return err
	}
	if a.json {
		err = a.showService(m)
	} else {
		_, err = fmt.Fprintln(a.Out, state)
	}
	if err == nil && state != daemon.Running {
		return cli.StatusError(1)
	}
	return err
}

// showService prints the service for programs.
func (a *app) showService(m *daemon.Manager) error {
	state, err := m.State()
	if err != nil {
		return err
	}
	return a.JSON(struct {
		Service string       `json:"service"`
		State   daemon.State `json:"state"`
		Manager string       `json:"manager"`
	}{daemon.Name, state, m.Platform()})
}

// cmdHealth asks the running device whether it is ready: for probes of containers.
func (a *app) cmdHealth(ctx context.Context, args []string) error {
	var c clientFlags
	f := a.flags("health")
	c.register(f)
	patience := f.Duration("timeout", 10*time.Second, "how long the device may take to answer")
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	cl, err := c.dial(a)
	if err != nil {
		return err
	}
	var answer struct {
		Status string `json:"status"`
	}
	// A device that hangs takes the connection and does not answer: that is not ready either.
	ctx, cancel := context.WithTimeout(ctx, *patience)
	defer cancel()
	if err := cl.get(ctx, "/healthz/ready", nil, &answer); err != nil {
		return err
	}
	if answer.Status != "ready" {
		return errors.New(answer.Status)
	}
	if a.json {
		return a.JSON(answer)
	}
	_, err = fmt.Fprintln(a.Out, answer.Status)
	return err
}
