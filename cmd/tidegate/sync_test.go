package main

import (
	"encoding/json"
	"net"
	"strings"
	"testing"
	"tidegate/appliance/admin"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
)

func TestSyncWithoutALinkSaysWhatToSet(t *testing.T) {
	d := devicetest.Start(t, devicetest.Options{})
	out, errs, code := ask(t, d, "sync")
	if code != 1 || out != "" || !strings.Contains(errs, "hint: set mqtt.brokers") {
		t.Errorf("code %d, out %q, err %q", code, out, errs)
	}
}

func TestSyncSaysWhyThereIsNoLink(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := "tcp://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	d := devicetest.Start(t, devicetest.Options{Config: func(c *config.Config) { c.MQTT.Brokers, c.MQTT.Mode = []string{gone}, "demand" }})
	out, errs, code := ask(t, d, "sync")
	if code != 1 || out != "" || !strings.Contains(errs, "connection refused") {
		t.Errorf("code %d, out %q, err %q", code, out, errs)
	}
	out, errs, code = ask(t, d, "sync", "--no-wait", "--json")
	var link struct{ State string }
	if err := json.Unmarshal([]byte(out), &link); code != 0 || err != nil || link.State == "" {
		t.Errorf("without waiting: code %d, out %q, err %q", code, out, errs)
	}
}

func TestHowARoundWentSaysWhoWasMissing(t *testing.T) {
	for want, l := range map[string]admin.Link{
		"looked for bundles, and all that was recorded is delivered": {Publisher: true, Collector: true},
		"no publisher answered": {Collector: true},
		"no collector answered": {Publisher: true},
	} {
		if got := syncLine(&l); !strings.Contains(got, want) {
			t.Errorf("%+v: %q, want %q", l, got, want)
		}
	}
}
