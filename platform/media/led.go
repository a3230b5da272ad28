package media

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// A Light is what a LED shows.
type Light int

// The lights.
const (
	Off   Light = iota
	On          // all is well
	Busy        // blinks fast: do not pull the stick
	Alert       // blinks slowly: something was refused
)

// A LED is one below /sys/class/leds.
type LED struct{ root *os.Root }

// OpenLED opens the LED with a name in dir, which is /sys/class/leds on a device.
func OpenLED(dir, name string) (*LED, error) {
	if name == "" || strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, ".") {
		return nil, fmt.Errorf("%q is no name of a LED", name)
	}
	root, err := os.OpenRoot(dir + "/" + name)
	if err != nil {
		return nil, err
	}
	return &LED{root: root}, nil
}

// Close lets go of the LED and leaves it as it is.
func (l *LED) Close() error { return l.root.Close() }

// Show makes the LED show a light. A LED without a timer stays on for Busy and goes out for
// Alert.
func (l *LED) Show(s Light) error {
	blink := map[Light]int{Busy: 100, Alert: 1000}[s]
	if blink > 0 && l.set("trigger", "timer") == nil {
		return errors.Join(l.set("delay_on", strconv.Itoa(blink)), l.set("delay_off", strconv.Itoa(blink)))
	}
	level := "0"
	if s == On || s == Busy {
		level = "1"
		if b, err := l.root.ReadFile("max_brightness"); err == nil {
			level = strings.TrimSpace(string(b))
		}
	}
	return errors.Join(l.set("trigger", "none"), l.set("brightness", level))
}

// set writes one attribute, which must be there: sysfs makes none.
func (l *LED) set(name, value string) error {
	f, err := l.root.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
