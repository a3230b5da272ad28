// Command tidegate is the device: it verifies, stores, enforces, proxies, records and
// syncs. It cannot sign a bundle.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"tidegate/appliance"
	"tidegate/cmd/cli"
	"tidegate/platform/buildinfo"
	"tidegate/policy/refusal"
	"tidegate/store"
	_ "time/tzdata"
	// calendar plans on devices without zone files
)

func main() {
	// The hidden first argument: check one database file in a child process.
	if len(os.Args) > 1 && os.Args[1] == store.CheckArg {
		os.Exit(store.CheckMain(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], &cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Environ(), Name: "tidegate"})
	stop()
	os.Exit(code)
}

// app is one run of the program.
type app struct {
	*cli.IO
	json  bool
	atEnd func() error // closes a device that was opened at rest; nil: none
}

// A command is one word of the command line.
type command struct {
	name  string // "run", "trust install"
	args  string // as usage shows them
	short string
	run   func(a *app, ctx context.Context, args []string) error
}

// commands lists every command in the order of the help.
func commands() []command {
	return []command{
		{"run", "[--config FILE] [--data DIR] [--set KEY=VALUE]… [--provision DIR] [--system SOCKET]", "serve in the foreground", (*app).cmdRun},
		{"status", "", "show how the running device is", (*app).cmdStatus},
		{"apis", "", "show what is served", (*app).cmdAPIs},
		{"counters", "[--plan NAME]", "show the counters of limits", (*app).cmdCounters},
		{"counters reset", "--key KEY", "set a counter to zero; it is audited", (*app).cmdCountersReset},
		{"revoke", "[--until TIME] --jti ID | --signature TEXT | --api-key KEY | --api-key-sha256 HEX | --consumer-key KEY | --application ID | --user NAME | --file FILE", "refuse a credential from the next call on; it is audited", (*app).cmdRevoke},
		{"history", "[--limit N] [--export FILE] [--verify FILE]", "show, export or verify the audit log", (*app).cmdHistory},
		{"plan", "FILE", "say what apply would do, and keep nothing", (*app).cmdPlan},
		{"apply", "[--no-wait] [--retry] FILE", "take a bundle, trust root or enrolment in", (*app).cmdApply},
		{"take", "[--stay] DIR", "take in what lies on a mounted stick", (*app).cmdTake},
		{"confirm", "", "confirm the bundle on trial", (*app).cmdConfirm},
		{"rollback", "", "go back to the bundle before", (*app).cmdRollback},
		{"sync", "[--no-wait]", "open the link to the fleet now, whatever its mode", (*app).cmdSync},
		{"access", "[--output FILE]", "show the access log that is kept in memory", (*app).cmdAccess},
		{"events export", "[--format ndjson|csv|wso2] [--since TIME] [--output FILE]", "write the recorded calls", (*app).cmdEventsExport},
		{"enroll", "[--output FILE]", "write a request to be enrolled", (*app).cmdEnroll},
		{"trust show", "[FILE]", "show the root that the device believes, or one in a file", (*app).cmdTrustShow},
		{"trust install", "[--fingerprint HEX] FILE", "pin the first trust root, or follow its chain", (*app).cmdTrustInstall},
		{"service install", "", "make this program a service of the system; does not start it", (*app).cmdServiceInstall},
		{"service uninstall", "", "stop the service and remove it; the data stays", (*app).cmdServiceUninstall},
		{"service start", "", "start the service", (*app).cmdServiceStart},
		{"service stop", "", "stop the service", (*app).cmdServiceStop},
		{"service restart", "", "stop and start the service", (*app).cmdServiceRestart},
		{"service status", "", "say whether the service runs; exit code 1 if not", (*app).cmdServiceStatus},
		{"health", "[--timeout 10s]", "say whether the device is ready; exit code 1 if not", (*app).cmdHealth},
		{"admin passwd", "[--role admin|viewer] [--password-file FILE] [NAME]", "set a password for the page; also when it was lost", (*app).cmdAdminPasswd},
		{"admin list", "", "show who may sign in to the page", (*app).cmdAdminList},
		{"admin remove", "NAME", "take an account away", (*app).cmdAdminRemove},
		{"doctor", "", "check the device and say what to do", (*app).cmdDoctor},
		{"version", "", "print the version", (*app).cmdVersion},
		{"completion", "bash|zsh|fish", "print a shell completion script", (*app).cmdCompletion},
		{"help", "[COMMAND]", "explain the commands", (*app).cmdHelp},
	}
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, x *cli.IO) int {
	a := &app{IO: x}
	if len(args) > 0 && args[0] == "__complete" { // asked by the shell, see cmdCompletion
		a.complete(ctx, args[1:])
		return 0
	}
	// --json and --help may stand anywhere before the first "--".
	rest := make([]string, 0, len(args))
	help := false
	for i, s := range args {
		if s == "--" {
			rest = append(rest, args[i:]...)
			break
		}
		switch s {
		case "--json", "-json":
			a.json = true
		case "--help", "-help", "-h":
			help = true
		default:
			rest = append(rest, s)
		}
	}
	c, n := find(rest)
	switch {
	case len(rest) == 0 || c == nil && help:
		return a.Exit(a.cmdHelp(ctx, nil), a.json)
	case c == nil:
		return a.Exit(a.unknown(rest), a.json)
	case help:
		return a.Exit(a.cmdHelp(ctx, strings.Fields(c.name)), a.json)
	}
	err := c.run(a, ctx, rest[n:])
	if a.atEnd != nil {
		if end := a.atEnd(); end != nil {
			err = errors.Join(err, end)
		}
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = cli.StatusError(130)
	}
	code := a.Exit(err, a.json)
	var usage *cli.UsageError
	if errors.As(err, &usage) {
		x.Say("%s: hint: tidegate help %s", x.Name, c.name)
	}
	return code
}

// find returns the command that args begin with, and how many words name it.
func find(args []string) (*command, int) {
	var best *command
	n := 0
	all := commands()
	for i := range all {
		words := strings.Fields(all[i].name)
		if len(words) > n && len(args) >= len(words) && strings.Join(args[:len(words)], " ") == all[i].name {
			best, n = &all[i], len(words)
		}
	}
	return best, n
}

// unknown explains a word that is no command.
func (a *app) unknown(args []string) error {
	var under []string
	for _, c := range commands() {
		if strings.HasPrefix(c.name, args[0]+" ") {
			under = append(under, strings.TrimPrefix(c.name, args[0]+" "))
		}
	}
	if len(under) > 0 {
		return cli.Usage("%s: want one of %s", args[0], strings.Join(under, ", "))
	}
	return cli.Usage("unknown command %q; tidegate help lists them", args[0])
}

// flags returns a set of flags for a command whose errors are usage errors.
func (a *app) flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(new(strings.Builder))
	return f
}

// parse parses args; flags may stand before and after the n arguments that are wanted
// (want < 0: any number up to -want).
func parse(f *flag.FlagSet, args []string, want int) ([]string, error) {
	var rest []string
	for {
		if err := f.Parse(args); err != nil {
			return nil, &cli.UsageError{Err: fmt.Errorf("%s: %w", f.Name(), err)}
		}
		if f.NArg() == 0 {
			break
		}
		rest = append(rest, f.Arg(0))
		args = f.Args()[1:]
	}
	switch {
	case want >= 0 && len(rest) != want:
		return nil, cli.Usage("%s: %d arguments, want %d", f.Name(), len(rest), want)
	case want < 0 && len(rest) > -want:
		return nil, cli.Usage("%s: %d arguments, want at most %d", f.Name(), len(rest), -want)
	}
	return rest, nil
}

func (a *app) cmdVersion(_ context.Context, args []string) error {
	if _, err := parse(a.flags("version"), args, 0); err != nil {
		return err
	}
	b := buildinfo.Get()
	if a.json {
		return a.JSON(struct {
			buildinfo.Info
			Schema int `json:"state_schema"` // packages ask: a state of a higher one cannot be read
		}{b, appliance.Schema()})
	}
	_, err := fmt.Fprintln(a.Out, "tidegate "+b.String())
	return err
}

func (a *app) cmdHelp(_ context.Context, args []string) error {
	name := strings.Join(args, " ")
	if name == "" {
		fmt.Fprint(a.Out, "tidegate is an API gateway for places the network does not reach.\n\nUsage: tidegate COMMAND [--json] …\n\n")
		for _, c := range commands() {
			fmt.Fprintf(a.Out, "  %-16s %s\n", c.name, c.short)
		}
		fmt.Fprint(a.Out, "\nCommands but run, version, completion and help talk to the running device over its socket:\n"+
			"--socket FILE, TIDEGATE_ADMIN_SOCKET, admin.socket of --config FILE, or /var/lib/tidegate/admin.sock.\n"+
			"Exit codes: 0 done · 1 other · 2 usage · 10 media · 11 no space · 12 store · 20 format · 30 signature\n"+
			"31 trust root · 40 rollback · 41 expired · 42 not for this device · 50 digest · 51 key · 60 does not\n"+
			"compile · 61 rolled back · 70 busy · 75 waits for confirmation\n")
		return nil
	}
	known := false
	for _, c := range commands() {
		if c.name == name || strings.HasPrefix(c.name, name+" ") {
			known = true
			fmt.Fprintf(a.Out, "tidegate %s %s\n  %s\n", c.name, c.args, c.short)
		}
	}
	if !known {
		return a.unknown(args)
	}
	return nil
}

// exitWith returns an error that ends the program with a code, nil for 0.
func exitWith(code int) error {
	if code == refusal.ExitOK {
		return nil
	}
	return cli.StatusError(code)
}
