// Package cli is what both programs have in common towards people and scripts: data on
// standard output, everything else on standard error, errors with a hint, exit codes,
// --json, and a progress line on terminals only.
package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"tidegate/policy/refusal"
	"time"

	"golang.org/x/term"
)

// IO is where a program reads and writes.
type IO struct {
	In   io.Reader
	Out  io.Writer
	Err  io.Writer
	Env  []string
	Name string // of the program, for messages
}

// Getenv returns a variable of the environment, "" when unset.
func (x *IO) Getenv(name string) string {
	for i := len(x.Env) - 1; i >= 0; i-- {
		if k, v, ok := strings.Cut(x.Env[i], "="); ok && k == name {
			return v
		}
	}
	return ""
}

// A UsageError is a wrong command line: exit code 2.
type UsageError struct{ Err error }

// Usage returns a usage error.
func Usage(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// Error returns what is wrong.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// A StatusError ends the program with a code and without a message: it was said already.
type StatusError int

// Error returns the code as text.
func (e StatusError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Exit reports err to people, and to scripts if asJSON, and returns the exit code.
func (x *IO) Exit(err error, asJSON bool) int {
	var usage *UsageError
	var status StatusError
	switch {
	case err == nil:
		return refusal.ExitOK
	case errors.As(err, &status):
		return int(status)
	}
	code := refusal.ExitCode(err)
	if errors.As(err, &usage) {
		code = refusal.ExitUsage
	}
	for line := range strings.Lines(strings.TrimRight(err.Error(), "\n")) {
		fmt.Fprintf(x.Err, "%s: %s\n", x.Name, strings.TrimRight(line, "\n"))
	}
	if hint := refusal.Hint(err); hint != "" {
		fmt.Fprintf(x.Err, "%s: hint: %s\n", x.Name, hint)
	}
	if asJSON {
		word, _ := refusal.Of(err)
		out := struct {
			Error string       `json:"error"`
			Code  refusal.Word `json:"code,omitempty"`
			Hint  string       `json:"hint,omitempty"`
			Exit  int          `json:"exit"`
		}{err.Error(), word, refusal.Hint(err), code}
		_ = x.JSON(out)
	}
	return code
}

// JSON writes v to standard output, indented, with a line end.
func (x *IO) JSON(v any) error {
	e := json.NewEncoder(x.Out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// Say writes a line for people.
func (x *IO) Say(format string, args ...any) { fmt.Fprintf(x.Err, format+"\n", args...) }

// Terminal reports whether w is a terminal.
func Terminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Prompt asks for a secret on the terminal. Without one it fails with a usage error that
// names the other ways.
func (x *IO) Prompt(question, otherwise string) ([]byte, error) {
	f, ok := x.In.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, Usage("%s: no terminal to ask on; %s", strings.TrimSuffix(question, ": "), otherwise)
	}
	fmt.Fprint(x.Err, question)
	b, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(x.Err)
	return b, err
}

// A Progress is a line on a terminal that shows how far long work is; in a pipe it is
// silent. Its methods are safe for concurrent use and for a nil *Progress.
type Progress struct {
	w     io.Writer
	what  string
	total int64

	mu   sync.Mutex
	done int64
	last time.Time
}

// Progress starts a line about what; total 0 means bytes of which nobody knows how many come. It returns nil where there is no terminal.
func (x *IO) Progress(what string, total int64) *Progress {
	if !Terminal(x.Err) {
		return nil
	}
	return &Progress{w: x.Err, what: what, total: total}
}

// Add counts n more units.
func (p *Progress) Add(n int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if time.Since(p.last) < 100*time.Millisecond {
		return
	}
	p.last = time.Now()
	const width = 24
	if p.total <= 0 {
		fmt.Fprintf(p.w, "\r%s %.1f MiB\x1b[K", p.what, float64(p.done)/(1<<20))
		return
	}
	n = min(p.done*width/p.total, width)
	fmt.Fprintf(p.w, "\r%s [%s%s] %3d%%\x1b[K", p.what, strings.Repeat("=", int(n)), strings.Repeat(" ", int(width-n)), min(p.done*100/p.total, 100))
}

// Write counts bytes, so that a Progress can stand in an io.MultiWriter.
func (p *Progress) Write(b []byte) (int, error) {
	p.Add(int64(len(b)))
	return len(b), nil
}

// Done clears the line.
func (p *Progress) Done() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprint(p.w, "\r\x1b[K")
}
