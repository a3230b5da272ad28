package main

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"tidegate/cmd/cli"
)

func (a *app) cmdCompletion(_ context.Context, args []string) error {
	shells, err := parse(a.flags("completion"), args, 1)
	if err != nil {
		return err
	}
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	sort.Strings(names)
	var script string
	switch shells[0] {
	case "bash":
		script = bashCompletion(names)
	case "zsh":
		script = "#compdef tidegate\nautoload -U +X bashcompinit && bashcompinit\n" + bashCompletion(names)
	case "fish":
		script = fishCompletion(names)
	default:
		return cli.Usage("completion: %q is not one of bash, zsh, fish", shells[0])
	}
	_, err = fmt.Fprint(a.Out, script)
	return err
}

// words returns the first words of names, and the second words by first word.
func words(names []string) (first []string, second map[string][]string) {
	second = map[string][]string{}
	for _, n := range names {
		a, b, two := strings.Cut(n, " ")
		if len(first) == 0 || first[len(first)-1] != a {
			first = append(first, a)
		}
		if two {
			second[a] = append(second[a], b)
		}
	}
	return first, second
}

func bashCompletion(names []string) string {
	first, second := words(names)
	var b strings.Builder
	b.WriteString("_tidegate() {\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} words=\n\tcase ${COMP_CWORD} in\n")
	fmt.Fprintf(&b, "\t1) words=%q ;;\n\t*) case ${COMP_WORDS[1]} in\n", strings.Join(first, " "))
	for _, w := range first {
		if s := second[w]; s != nil {
			fmt.Fprintf(&b, "\t\t%s) words=%q ;;\n", w, strings.Join(s, " "))
		}
	}
	b.WriteString("\t\tesac ;;\n\tesac\n\tcase $cur in -*) words=\"--json --help --config --data --socket\" ;; esac\n")
	b.WriteString("\tCOMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n\t[ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- \"$cur\"))\n}\ncomplete -F _tidegate tidegate\n")
	return b.String()
}

func fishCompletion(names []string) string {
	first, second := words(names)
	var b strings.Builder
	for _, w := range first {
		fmt.Fprintf(&b, "complete -c tidegate -n __fish_use_subcommand -a %s\n", w)
		for _, s := range second[w] {
			fmt.Fprintf(&b, "complete -c tidegate -n '__fish_seen_subcommand_from %s' -a %s\n", w, s)
		}
	}
	b.WriteString("complete -c tidegate -l json -d 'print data as JSON'\n")
	return b.String()
}
