package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"tidegate/sync/mqttsync/pipe"
)

// natsConfig prints packaging/mqtt/nats.conf for this run: its port, its certificates, and an
// entry for each device.
func natsConfig(o options) error {
	b, err := os.ReadFile(filepath.Join("packaging", "mqtt", "nats.conf"))
	if err != nil {
		return err
	}
	u, err := pipe.ParseURL(o.broker)
	if err != nil {
		return err
	}
	s := strings.NewReplacer("port: 8883", "host: 127.0.0.1\n    port: "+u.Port(), "/etc/nats/", o.dir+"/", "/var/lib/nats", filepath.Join(o.dir, "jetstream")).Replace(string(b))
	begin := strings.Index(s, "        { user: \"CN=ID\"")
	end := strings.Index(s[begin:], "} }\n") + begin + len("} }\n")
	entry := s[begin:end]
	all := ""
	for _, name := range []string{"device-1", "device-2"} {
		all += strings.ReplaceAll(strings.ReplaceAll(entry, "CN=ID", "CN="+deviceID(name).String()), ".ID.", "."+deviceID(name).String()+".")
	}
	_, err = fmt.Printf("listen: 127.0.0.1:-1\n%s%s%s", s[:begin], all, s[end:])
	return err
}
