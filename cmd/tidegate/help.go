package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"tidegate/appliance/admin"
	"tidegate/cmd/cli"
)

func (a *app) cmdCompletion(_ context.Context, args []string) error {
	shells, err := parse(a.flags("completion"), args, 1)
	if err != nil {
		return err
	}
	script, ok := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[shells[0]]
	if !ok {
		return cli.Usage("completion: %q is not one of bash, zsh, fish", shells[0])
	}
	_, err = fmt.Fprint(a.Out, script)
	return err
}

// The scripts ask the program itself, so that they know its commands, flags and the values
// of the running device.
const (
	bashCompletion = `_tidegate() {
	local IFS=$'\n'
	COMPREPLY=($(compgen -W "$(tidegate __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
	[ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o filenames -F _tidegate tidegate
`
	zshCompletion = `#compdef tidegate
_tidegate() {
	local -a found
	found=("${(@f)$(tidegate __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	found=(${found:#})
	if (( ${#found} )); then compadd -- "${found[@]}"; else _files; fi
}
compdef _tidegate tidegate
`
	fishCompletion = `function __tidegate_complete
	set -l words (commandline -opc) (commandline -ct)
	tidegate __complete $words[2..-1] 2>/dev/null
end
complete -c tidegate -a '(__tidegate_complete)'
`
)

// complete prints what could stand in place of the last of args, one a line: words of
// commands, flags, and values that the running device knows.
func (a *app) complete(ctx context.Context, args []string) {
	if len(args) == 0 {
		args = []string{""}
	}
	done, last := args[:len(args)-1], args[len(args)-1]
	var out []string
	c, n := find(done)
	switch {
	case len(done) > 0 && valueOf(done[len(done)-1]) != nil:
		out = valueOf(done[len(done)-1])(ctx, a)
	case c != nil && strings.HasPrefix(last, "-"):
		out = flagsOf(c)
	default:
		out = nextWords(done)
		if c != nil && len(done) == n {
			out = append(out, a.arguments(ctx, c.name)...)
		}
	}
	slices.Sort(out)
	for _, w := range slices.Compact(out) {
		if strings.HasPrefix(w, last) {
			fmt.Fprintln(a.Out, w) //nolint:errcheck // a shell that has gone needs no word
		}
	}
}

// nextWords returns the words that continue done as the name of a command.
func nextWords(done []string) []string {
	seen := map[string]bool{}
	for _, c := range commands() {
		words := strings.Fields(c.name)
		if len(words) > len(done) && slices.Equal(words[:len(done)], done) {
			seen[words[len(done)]] = true
		}
	}
	return slices.Collect(maps.Keys(seen))
}

// flagsOf returns the flags of a command, out of its usage line, and those of all commands.
func flagsOf(c *command) []string {
	out := []string{"--json", "--help"}
	for _, w := range strings.FieldsFunc(c.args, func(r rune) bool { return strings.ContainsRune(" []|…", r) }) {
		if strings.HasPrefix(w, "--") {
			out = append(out, w)
		}
	}
	if c.name != "version" && c.name != "help" && c.name != "completion" {
		f := flag.NewFlagSet("", flag.ContinueOnError)
		new(clientFlags).register(f)
		f.VisitAll(func(x *flag.Flag) { out = append(out, "--"+x.Name) })
	}
	return out
}

// arguments returns what may follow a command, where the device or the program knows it.
func (a *app) arguments(ctx context.Context, name string) []string {
	switch name {
	case "completion":
		return []string{"bash", "zsh", "fish"}
	case "admin remove", "admin passwd":
		return values(ctx, a, "/v1/admins", func(x admin.AccountView) string { return x.Name })
	case "help":
		return nextWords(nil)
	}
	return nil
}

// valueOf returns what knows the values of a flag; nil where only files or free text fit.
func valueOf(name string) func(context.Context, *app) []string {
	fixed := func(list ...string) func(context.Context, *app) []string {
		return func(context.Context, *app) []string { return list }
	}
	switch name {
	case "--plan":
		return func(ctx context.Context, a *app) []string {
			return values(ctx, a, "/v1/counters", func(x admin.CounterView) string { return x.Plan })
		}
	case "--key":
		return func(ctx context.Context, a *app) []string {
			return values(ctx, a, "/v1/counters", func(x admin.CounterView) string { return x.Key })
		}
	case "--format":
		return fixed("ndjson", "csv", "wso2")
	case "--role":
		return fixed("admin", "viewer")
	case "--stream-version":
		return fixed("3.0.0", "3.1.0", "3.2.0")
	case "--since":
		return fixed("1h", "24h", "168h")
	}
	return nil
}

// values asks the running device for a list. Without one there is nothing to offer.
func values[T any](ctx context.Context, a *app, path string, of func(T) string) []string {
	var c clientFlags
	cl, err := c.dial(a)
	if err != nil {
		return nil
	}
	var list []T
	if cl.get(ctx, path, nil, &list) != nil {
		return nil
	}
	var out []string
	for _, x := range list {
		if v := of(x); v != "" {
			out = append(out, v)
		}
	}
	return out
}
