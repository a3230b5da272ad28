package main

import (
	"os"
	"path/filepath"
	"strings"
	"tidegate/policy/project"

	"github.com/spf13/cobra"
)

// A finder returns what could stand at a place of the command line.
type finder func(cmd *cobra.Command, args []string) []string

// words are what flags take where the program knows it; what is missing here are files or free text.
var words = map[string][]string{
	"format":         {"ndjson", "csv"},
	"role":           {"root", "release", "time", "collector"},
	"keytype":        {"PRODUCTION", "SANDBOX"},
	"stream-version": {"3.0.0", "3.1.0", "3.2.0"},
	"since":          {"1h", "24h", "168h"},
	"percent":        {"1", "10", "50", "100"},
}

// extensions are those of the files that flags take.
var extensions = map[string][]string{"root": {"tideroot"}, "like": {"tide"}, "store": {"db"}, "seal-for": {"tidedevice"}, "ca": {"pem", "crt"}, "cert": {"pem", "crt"}}

// values are read from what lies in the folder: the devices that were enrolled, the project.
var values = map[string]finder{
	"device":      devices,
	"scope":       scopesOf,
	"application": applicationsOf,
	"subscribe":   apisOf,
}

// complete lets the shell complete what the program knows, in all commands below c.
func complete(c *cobra.Command) {
	for _, sub := range c.Commands() {
		complete(sub)
	}
	fixed := func(list []string) finder {
		return func(*cobra.Command, []string) []string { return list }
	}
	for name, list := range words {
		offer(c, name, fixed(list))
	}
	for name, f := range values {
		offer(c, name, f)
	}
	for name, list := range extensions {
		if c.Flags().Lookup(name) != nil && !strings.HasPrefix(c.CommandPath(), "tidectl trust ") { // whose --root is a key
			_ = c.MarkFlagFilename(name, list...) // the flag is there
		}
	}
	switch c.CommandPath() {
	case "tidectl fleet order":
		c.ValidArgsFunction = arguments(devices, fixed([]string{"status", "send", "look", "pause", "retry", "logs", "time"}))
	case "tidectl fleet publish", "tidectl bundle info", "tidectl bundle verify", "tidectl bundle diff", "tidectl bundle sign", "tidectl bundle extract":
		c.ValidArgsFunction = filesOf("tide")
	case "tidectl trust show", "tidectl trust rotate", "tidectl trust sign":
		c.ValidArgsFunction = filesOf("tideroot")
	case "tidectl fleet enroll":
		c.ValidArgsFunction = filesOf("tideenroll")
	}
}

// offer completes a flag of c by f, if c has it.
func offer(c *cobra.Command, name string, f finder) {
	if c.Flags().Lookup(name) == nil {
		return
	}
	_ = c.RegisterFlagCompletionFunc(name, func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) { // once for each flag
		return beginning(f(cmd, args), begun), cobra.ShellCompDirectiveNoFileComp
	})
}

// arguments completes the words behind a command, each by its finder.
func arguments(of ...finder) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(of) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return beginning(of[len(args)](cmd, args), begun), cobra.ShellCompDirectiveNoFileComp
	}
}

// filesOf completes files by their extension.
func filesOf(extension string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{extension}, cobra.ShellCompDirectiveFilterFileExt
	}
}

func beginning(list []string, begun string) []string {
	var out []string
	for _, s := range list {
		if strings.HasPrefix(s, begun) {
			out = append(out, s)
		}
	}
	return out
}

// devices are the ids in the folder of --devices.
func devices(cmd *cobra.Command, _ []string) []string {
	dir := "devices"
	if f := cmd.Flags().Lookup("devices"); f != nil {
		dir = f.Value.String()
	}
	found, _ := filepath.Glob(filepath.Join(dir, "*.tidedevice")) // the pattern is good
	var out []string
	for _, f := range found {
		out = append(out, strings.TrimSuffix(filepath.Base(f), ".tidedevice"))
	}
	return out
}

// projectOf reads the project of the command line, or in the current folder; nil if there is none.
func projectOf(args []string) *project.Project {
	dir := "."
	if len(args) > 0 {
		dir = args[0]
	}
	p, _ := project.Load(os.DirFS(dir)) // what has mistakes offers what it has
	return p
}

func scopesOf(_ *cobra.Command, args []string) []string {
	if p := projectOf(args); p != nil && p.Set != nil {
		return scopes(p.Set)
	}
	return nil
}

func applicationsOf(_ *cobra.Command, args []string) []string {
	var out []string
	if p := projectOf(args); p != nil && p.Set != nil {
		for i := range p.Set.Applications {
			out = append(out, p.Set.Applications[i].ID+":"+p.Set.Applications[i].Name)
		}
	}
	return out
}

func apisOf(_ *cobra.Command, args []string) []string {
	var out []string
	if p := projectOf(args); p != nil && p.Set != nil {
		for i := range p.Set.APIs {
			out = append(out, p.Set.APIs[i].Name+":"+p.Set.APIs[i].Version)
		}
	}
	return out
}
