// Command tidectl is the workstation's side of Tidegate: it imports APIs, validates and
// builds projects, signs bundles, runs a project locally, and talks to a fleet.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"tidegate/cmd/cli"
	"tidegate/platform/buildinfo"
	_ "time/tzdata"
	// calendar plans on devices without zone files

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], &cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Environ(), Name: "tidectl"})
	stop()
	os.Exit(code)
}

// app is one run of the program: what every command needs.
type app struct {
	*cli.IO
	json bool
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, x *cli.IO) int {
	a := &app{IO: x}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(x.In)
	root.SetOut(x.Out)
	root.SetErr(x.Err)
	cmd, err := root.ExecuteContextC(ctx)
	var usage *cli.UsageError
	switch {
	case err == nil:
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		err = cli.StatusError(130)
	case !errors.As(err, &usage) && isUsage(err):
		err = &cli.UsageError{Err: err}
	}
	code := x.Exit(err, a.json)
	if errors.As(err, &usage) {
		x.Say("%s: hint: %s --help", x.Name, cmd.CommandPath())
	}
	return code
}

// isUsage reports whether err is the command library's own complaint about the words of
// the command line; it has no type for them.
func isUsage(err error) bool {
	for _, p := range []string{
		"unknown command", "unknown flag", "unknown shorthand", "flag needs an argument", "invalid argument",
		"accepts ", "requires at least", "requires exactly", "required flag", "if any flags in the group", "bad flag syntax",
	} {
		if strings.HasPrefix(err.Error(), p) {
			return true
		}
	}
	return false
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "tidectl",
		Short:         "Build, sign and run API bundles for Tidegate devices",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print data as JSON")
	root.AddCommand(
		a.initCommand(), a.keysCommand(), a.trustCommand(), a.importCommand(), a.validateCommand(),
		a.buildCommand(), a.bundleCommand(), a.devCommand(), a.fleetCommand(), a.tokenCommand(), a.apikeyCommand(), a.wso2Command(), a.systemCommand(), a.versionCommand(),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	complete(root)
	return root
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := buildinfo.Get()
			if a.json {
				return a.JSON(b)
			}
			_, err := a.Out.Write([]byte("tidectl " + b.String() + "\n"))
			return err
		},
	}
}
