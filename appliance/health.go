package appliance

import (
	"context"
	"net"
	"tidegate/platform/daemon"
)

var _ daemon.Program = (*App)(nil)

// Health returns why the device does not do its work, or nil. It reads the store and sends
// a request to the device's own listener. Under a flood that leaves no room for the request, calls
// of others that were answered since the last time are as good.
func (a *App) Health(ctx context.Context) error {
	p := &prober{a}
	if err := p.storeReads(); err != nil {
		return err
	}
	answered, _ := p.Answers()
	before := a.answered.Swap(answered)
	err := p.answersItself(ctx)
	if now, _ := p.Answers(); err != nil && now > before {
		a.log.Warn("own health request failed while calls are answered", "error", err)
		return nil
	}
	return err
}

// Listener returns the bound listener "http", "https" or "admin"; nil for none.
func (a *App) Listener(name string) net.Listener {
	switch name {
	case "http":
		return a.listeners.http
	case "https":
		return a.listeners.https
	case "admin":
		return a.listeners.admin
	}
	return nil
}
