// Command link runs both ends of the link against a real broker: conformance with access rules
// and TLS, and a chaos run that cuts, kills and counts. It is called by scripts/mqtt.sh.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "link:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("want certs, conformance, chaos, slow, day or device")
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	var o options
	f.StringVar(&o.dir, "dir", "", "folder for certificates, devices and databases")
	f.StringVar(&o.broker, "broker", "", "URL of the broker")
	f.StringVar(&o.kind, "kind", "mosquitto", "mosquitto or nats")
	f.StringVar(&o.serve, "serve", "", "command line of the broker, for chaos")
	f.DurationVar(&o.lasts, "for", 0, "how long chaos lasts")
	f.StringVar(&o.delete, "delete-on", "ack", "ack; puback or token (of the library, as it comes) for the controls that must lose")
	f.Uint64Var(&o.from, "from", 0, "number of the first call of a device")
	f.StringVar(&o.name, "name", "", "certs: one more name to make a certificate for")
	f.StringVar(&o.tap, "tap", "", "day: where the device finds the broker")
	f.StringVar(&o.backend, "backend", "", "day: address of the backend")
	f.StringVar(&o.api, "api", "", "day: URL of the API on the device")
	f.StringVar(&o.keys, "keys", "", "day: API keys of the callers")
	f.Float64Var(&o.rate, "rate", 100, "day: calls a second")
	f.DurationVar(&o.settle, "settle", 90*time.Second, "day: pause before and after what is measured")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	o.rest = f.Args()
	switch args[0] {
	case "certs":
		return certificates(o)
	case "natsconf":
		return natsConfig(o)
	case "conformance":
		return conformance(ctx, o)
	case "chaos":
		return chaos(ctx, o)
	case "slow":
		return slow(ctx, o)
	case "day":
		return day(ctx, o)
	case "device":
		return device(ctx, o)
	}
	return fmt.Errorf("unknown command %q", args[0])
}
