package board

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// openSystems opens the disk for the boot state and the two slots. A slot that was meant to run
// and does not load is given up at once.
func (f *first) openSystems() error {
	d, err := os.OpenFile("/dev/"+f.disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	f.systems = &Systems{Disk: d, Running: f.slot, Refresh: func() error { return Refresh(d) }}
	own, err := ReadSlot(d, f.slot)
	if err != nil {
		return err
	}
	f.say("system %s is version %s for board %s", f.slot, own.About["VERSION"], own.About["BOARD"])
	if f.want != f.slot {
		return f.systems.Lost(f.want)
	}
	return nil
}

// control takes the gateway's requests about systems.
func (f *first) control() error {
	if err := f.openSystems(); err != nil {
		return err
	}
	_ = os.Remove(ControlSocket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: ControlSocket, Net: "unix"})
	if err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(ControlSocket, 0o600), os.Chown(ControlSocket, int(f.User), int(f.User))); err != nil {
		return errors.Join(err, l.Close())
	}
	var once sync.Once
	go func() {
		f.note("systems", f.systems.ServeControl(l, func() { once.Do(func() { go f.again("another system is to run") }) }))
	}()
	return nil
}

// again starts the machine anew, when what reads a stick has said what became of it.
func (f *first) again(why string) {
	f.say("%s: starting anew", why)
	for wait := time.Now(); !f.sticky.TryLock() && time.Since(wait) < lastPause; time.Sleep(firstPause) {
		continue
	}
	f.stop()
	f.note("reboot", Reboot())
}

// trial decides on a new system unless the gateway does, which knows of its bundle. One that does
// not serve is left to the boot loader's count of tries.
func (f *first) trial() {
	if f.systems == nil {
		return
	}
	b, err := f.systems.State()
	if err != nil {
		f.note("boot state", err)
		return
	}
	if b.Good == f.slot {
		return
	}
	f.say("system %s is on trial", f.slot)
	p := proof{o: f.Options, began: time.Now()}
	for now := range time.Tick(time.Second) {
		held, decided := f.systems.Held()
		if decided {
			if b, err := f.systems.State(); err == nil && b.Good == f.slot {
				f.say("system %s is good", f.slot)
			}
			return
		}
		switch p.look(now, f.gateway.sight(), held) {
		case works:
			f.note("boot state", f.systems.Keep())
		case fails:
			f.say("system %s does not serve: starting anew", f.slot)
			f.stop()
			f.note("reboot", Reboot())
		}
	}
}
