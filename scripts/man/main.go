// Command man writes the manual pages of both programs and of the configuration file. What
// the commands are called and do it asks the programs themselves, so that neither links a
// generator; the rest of each page is below packaging/man.
//
//	go run ./scripts/man -bin DIR -config FILE -pages DIR -date 2026-11-25 -version 1.2.3 -out DIR
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	var g generator
	flag.StringVar(&g.bin, "bin", "bin", "folder of tidegate and tidectl")
	flag.StringVar(&g.config, "config", "packaging/config/tidegate.toml", "reference configuration")
	flag.StringVar(&g.pages, "pages", "packaging/man", "folder of the pages' frames")
	flag.StringVar(&g.date, "date", "", "date of the pages")
	flag.StringVar(&g.version, "version", "", "version of the programs")
	flag.StringVar(&g.out, "out", "dist/man", "folder to write to")
	flag.Parse()
	if err := g.run(); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

type generator struct{ bin, config, pages, date, version, out string }

func (g *generator) run() error {
	if err := os.MkdirAll(g.out, 0o755); err != nil {
		return err
	}
	device, err := g.deviceCommands()
	if err != nil {
		return err
	}
	station, err := g.stationCommands()
	if err != nil {
		return err
	}
	keys, err := g.keys()
	if err != nil {
		return err
	}
	return errors.Join(g.page("tidegate.1", device), g.page("tidectl.1", station), g.page("tidegate.toml.5", keys))
}

// page fills the frame of one page.
func (g *generator) page(name, body string) error {
	frame, err := os.ReadFile(filepath.Join(g.pages, name+".in"))
	if err != nil {
		return err
	}
	if !strings.Contains(string(frame), "@BODY@\n") {
		return fmt.Errorf("%s.in has no line @BODY@", name)
	}
	text := strings.NewReplacer("@BODY@\n", body, "@DATE@", g.date, "@VERSION@", g.version).Replace(string(frame))
	return os.WriteFile(filepath.Join(g.out, name), []byte(text), 0o644)
}

func (g *generator) ask(program string, args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(g.bin, program), args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return string(out), nil
}

// deviceCommands lists tidegate's commands: "tidegate help WORD" prints each command that
// begins so in one line, and what it does in the next.
func (g *generator) deviceCommands() (string, error) {
	overview, err := g.ask("tidegate", "help")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	seen := map[string]bool{}
	for line := range strings.Lines(overview) {
		f := strings.Fields(line)
		if !strings.HasPrefix(line, "  ") || len(f) == 0 || seen[f[0]] {
			continue
		}
		seen[f[0]] = true
		text, err := g.ask("tidegate", "help", f[0])
		if err != nil {
			return "", err
		}
		for l := range strings.Lines(text) {
			l = strings.TrimRight(l, "\n ")
			if usage, ok := strings.CutPrefix(l, "tidegate "); ok {
				fmt.Fprintf(&b, ".TP\n.B %s\n", escape(usage))
			} else {
				fmt.Fprintln(&b, escape(sentence(strings.TrimSpace(l))))
			}
		}
	}
	if len(seen) < 10 {
		return "", fmt.Errorf("tidegate help names only %d commands", len(seen))
	}
	return b.String(), nil
}

// stationCommands shows the help of each of tidectl's commands.
func (g *generator) stationCommands() (string, error) {
	var b strings.Builder
	n := 0
	var walk func(words []string) error
	walk = func(words []string) error {
		text, err := g.ask("tidectl", append([]string{"help"}, words...)...)
		if err != nil {
			return err
		}
		below := subcommands(text)
		if len(words) > 0 && len(below) == 0 {
			n++
			fmt.Fprintf(&b, ".SS tidectl %s\n.nf\n%s\n.fi\n", escape(strings.Join(words, " ")), escape(strings.TrimSpace(text)))
		}
		for _, w := range below {
			if err := walk(append(words[:len(words):len(words)], w)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(nil); err != nil {
		return "", err
	}
	if n < 10 {
		return "", fmt.Errorf("tidectl help names only %d commands", n)
	}
	return b.String(), nil
}

// subcommands returns the words under "Available Commands:" of a help text.
func subcommands(help string) []string {
	var out []string
	_, list, _ := strings.Cut(help, "Available Commands:\n")
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) == 0 {
			break
		}
		if f[0] != "help" {
			out = append(out, f[0])
		}
	}
	return out
}

// keys lists the keys of the reference configuration: "##" lines explain the "#key = default"
// behind them, or the [table].
func (g *generator) keys() (string, error) {
	f, err := os.Open(g.config)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var b strings.Builder
	var text []string
	table, n := "", 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "##"):
			text = append(text, strings.TrimSpace(line[2:]))
			continue
		case strings.HasPrefix(strings.TrimPrefix(line, "#"), "["):
			table = strings.Trim(strings.TrimPrefix(line, "#"), "[]")
			fmt.Fprintf(&b, ".SS [%s]\n%s\n", escape(table), escape(strings.Join(text, "\n")))
		case strings.HasPrefix(line, "#") && strings.Contains(line, " = "):
			key, value, _ := strings.Cut(line[1:], " = ")
			if table != "" {
				key = table + "." + key
			}
			n++
			fmt.Fprintf(&b, ".TP\n.BR %s \" = %s\"\n%s\n", escape(key), strings.ReplaceAll(escape(value), `"`, `\(dq`), escape(strings.Join(text, "\n")))
		case table == "" && len(text) > 0:
			fmt.Fprintf(&b, "%s\n", escape(strings.Join(text, "\n")))
		}
		text = nil
	}
	if n < 20 {
		return "", fmt.Errorf("%s: only %d keys found", g.config, n)
	}
	return b.String(), nil
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// escape protects what troff would take for itself.
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...", "·", `\(bu`, "→", `\->`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
