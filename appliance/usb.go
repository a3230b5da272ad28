package appliance

import (
	"context"
	"errors"
	"tidegate/platform/media"
	"tidegate/sync/mqttsync"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/usbdrop"
)

// ledFolder is where the kernel keeps its LEDs.
const ledFolder = "/sys/class/leds"

// openSticks makes the door for sticks: those under folders that are configured, and those that
// helpers bring.
func (a *App) openSticks() (err error) {
	c := a.cfg.USB
	var watcher *media.Watcher
	if len(c.Mounts) > 0 {
		if watcher, err = media.NewWatcher(media.Options{Dirs: c.Mounts}); err != nil {
			a.find("usb.mounts: sticks are not seen: %v", err)
			watcher = nil
		}
	}
	a.volumes = newSticks(watcher)
	show := a.showStick()
	o := usbdrop.Options{
		Volumes: a.volumes, Open: a.volumes.open, Desk: a.desk, Queue: a.events,
		Now: a.time.clock.Best, Clock: a.time.clock, Lines: a.lastLines, Log: a.log.With("part", "usb"),
		Tell: func(v usbdrop.Verdict) {
			show(v)
			a.volumes.tell(v)
		},
	}
	if a.link != nil {
		o.WentOut = a.link.WentOut
	}
	if c.Release == "written" {
		o.Release = usbdrop.WhenWritten
	}
	if a.cfg.MQTT.UnsignedAcks {
		o.Plain = message.AcceptPlainAcks
	}
	if a.identity != nil { // without keys things come in, and nothing goes out
		o.Device, o.Key = deviceID(a.identity), reporter{a.identity}
		o.Enrol, o.Status = a.enrolment, a.signedStatus
	}
	a.sticks, err = usbdrop.New(o)
	return err
}

// showStick shows what becomes of a stick on the LED that is configured.
func (a *App) showStick() func(usbdrop.Verdict) {
	nowhere := func(usbdrop.Verdict) {}
	name := a.cfg.USB.Led
	if name == "" {
		return nowhere
	}
	led, err := media.OpenLED(ledFolder, name)
	if err != nil {
		a.find("usb.led: %v", err)
		return nowhere
	}
	a.down.push("led", func(context.Context) error { return errors.Join(led.Show(media.Off), led.Close()) })
	return func(v usbdrop.Verdict) {
		light := map[usbdrop.Stage]media.Light{usbdrop.Working: media.Busy, usbdrop.Refused: media.Alert}[v.Stage]
		switch {
		case v.Failed != nil:
			light = media.Alert
		case light == media.Off:
			light = media.On
		}
		if err := led.Show(light); err != nil {
			a.log.Warn("usb.led", "error", err)
		}
	}
}

// signedStatus is the status of the device as its fleet reads it.
func (a *App) signedStatus() ([]byte, error) {
	if a.link != nil {
		return a.link.Status()
	}
	m := mqttsync.Describe(a.desk.Status(), a.time.clock.Now(), a.events.Status())
	m.Boot, m.Version = a.o.Machine.BootID(), a.build.Version
	st := a.desk.Trust()
	domain := [16]byte{}
	if root := st.Root(); root != nil {
		domain = root.Domain
	}
	return message.Report(m, domain, 1, uint64(max(a.time.clock.Best().Unix(), 0)), reporter{a.identity}) //nolint:gosec // not negative
}

// runSticks looks into sticks.
func (a *App) runSticks(ctx context.Context) error { return a.sticks.Run(ctx) }
