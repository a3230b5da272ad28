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
		return errors.New("want certs, conformance, chaos or device")
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	var o options
	f.StringVar(&o.dir, "dir", "", "folder for certificates, devices and databases")
	f.StringVar(&o.broker, "broker", "", "URL of the broker")
	f.StringVar(&o.kind, "kind", "mosquitto", "mosquitto or nats")
	f.StringVar(&o.serve, "serve", "", "command line of the broker, for chaos")
	f.DurationVar(&o.lasts, "for", 0, "how long chaos lasts")
	f.StringVar(&o.delete, "delete-on", "ack", "ack, or puback for the control that must lose")
	f.Uint64Var(&o.from, "from", 0, "number of the first call of a device")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "certs":
		return certificates(o.dir)
	case "natsconf":
		return natsConfig(o)
	case "conformance":
		return conformance(ctx, o)
	case "chaos":
		return chaos(ctx, o)
	case "device":
		return device(ctx, o)
	}
	return fmt.Errorf("unknown command %q", args[0])
}
