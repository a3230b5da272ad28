package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A block is one fenced block of a page.
type block struct {
	line  int    // of its fence
	lang  string // first word behind the fence
	text  string
	named string // runs in the script that the comment before it names; ""
	skip  string // why it is not run here; ""
	until string // it goes on until it is stopped: what it prints when it is up; ""
	types string // what is typed at its questions, parted by |; ""
}

// languages are those of fences. Blocks of shells are run; the others are not for a shell.
var languages = []string{"sh", "console", "text", "yaml", "json", "toml", "ini"}

// shell reports whether a reader types the block.
func (b *block) shell() bool { return b.lang == "sh" || b.lang == "console" }

var (
	attribute = regexp.MustCompile(`^ ([a-z]+)="([^"]+)"`)
	comment   = regexp.MustCompile(`^<!-- run: ([a-z0-9-]+) -->$`)
)

// parse returns the blocks of a page. It wants every fence to name its language, and every
// attribute to be known: a block that is not run by mistake would be a promise that nobody keeps.
func parse(page string) ([]block, error) {
	var out []block
	var open *block
	named := ""
	for i, line := range strings.Split(page, "\n") {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		fence, isFence := strings.CutPrefix(line[indent:], "```")
		switch {
		case open != nil && isFence && fence == "":
			out, open = append(out, *open), nil
		case open != nil:
			open.text += line + "\n"
		case isFence:
			b, err := fenced(fence)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
			b.line, b.named, named = i+1, named, ""
			open = b
		default:
			if m := comment.FindStringSubmatch(line); m != nil {
				named = m[1]
			} else if strings.TrimSpace(line) != "" {
				named = ""
			}
			if strings.HasPrefix(line, "    ") && !strings.HasPrefix(strings.TrimSpace(line), "|") && i > 0 && blankBefore(page, i) {
				return nil, fmt.Errorf("line %d: a block without a fence; put it between ``` and name its language", i+1)
			}
		}
	}
	if open != nil {
		return nil, fmt.Errorf("line %d: the fence is not closed", open.line)
	}
	return out, nil
}

// blankBefore reports whether the paragraph of line i begins with it: only then four spaces make code.
func blankBefore(page string, i int) bool {
	return strings.TrimSpace(strings.Split(page, "\n")[i-1]) == ""
}

func fenced(info string) (*block, error) {
	lang, rest, _ := strings.Cut(info, " ")
	b := &block{lang: lang}
	if !slices.Contains(languages, lang) {
		return nil, fmt.Errorf("language %q is not one of %s", lang, strings.Join(languages, ", "))
	}
	for rest = strings.TrimRight(" "+rest, " "); rest != ""; {
		m := attribute.FindStringSubmatch(rest)
		if m == nil {
			return nil, fmt.Errorf("%q is no attribute: want name=\"value\"", strings.TrimSpace(rest))
		}
		rest = rest[len(m[0]):]
		switch m[1] {
		case "skip":
			b.skip = m[2]
		case "until":
			b.until = m[2]
		case "types":
			b.types = m[2]
		default:
			return nil, fmt.Errorf("attribute %q is not one of skip, until, types", m[1])
		}
	}
	if !b.shell() && (b.skip != "" || b.until != "" || b.types != "") {
		return nil, fmt.Errorf("a block of %s is not run, so it has no attributes", lang)
	}
	return b, nil
}

// quoted writes text as one word for a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// script returns what runs the blocks of a page in order, in one shell, as a reader would.
func script(name string, blocks []block) string {
	var s strings.Builder
	for _, b := range blocks {
		if !b.shell() || b.skip != "" || b.named != "" {
			continue
		}
		fmt.Fprintf(&s, "at %s:%d\n", name, b.line)
		switch {
		case b.until != "":
			fmt.Fprintf(&s, "start %s %s\n", quoted(b.until), quoted(b.text))
		case b.types != "":
			fmt.Fprintf(&s, "typing %s %s\n", quoted(strings.ReplaceAll(b.types, "|", "\n")), quoted(b.text))
		case b.lang == "console":
			s.WriteString(transcript(b.text))
		default:
			s.WriteString(b.text)
		}
	}
	return s.String()
}

// took is a line of a transcript that tells how long a step took.
var took = regexp.MustCompile(`^\s*\[[0-9.,]+ m?s\]$`)

// transcript returns what runs the lines of a transcript that begin with "$ ", and then looks for
// the lines below each of them in what it printed, up to an ellipsis.
func transcript(text string) string {
	var s strings.Builder
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			fmt.Fprintf(&s, "step %s\n", quoted(command))
			if background, ok := strings.CutSuffix(command, " &"); ok {
				fmt.Fprintf(&s, "shown=$PWD/shown.$((++nth))\n{ %s; } >\"$shown\" 2>&1 &\n", background)
			} else {
				fmt.Fprintf(&s, "shown=$PWD/shown.$((++nth))\n%s >\"$shown\" 2>&1 || { cat \"$shown\"; false; }\n", command)
			}
			continue
		}
		line, _, _ = strings.Cut(line, "…")
		if line = strings.TrimSpace(line); line != "" && !took.MatchString(line) {
			fmt.Fprintf(&s, "printed %s\n", quoted(line))
		}
	}
	return s.String()
}
