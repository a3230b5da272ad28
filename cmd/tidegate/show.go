package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"tidegate/appliance/admin"
	"tidegate/cmd/cli"
	"tidegate/platform/durable"
	"time"
	"unicode"
	"unicode/utf8"
)

// query fetches one resource and prints it.
func query[T any](ctx context.Context, a *app, name string, args []string, path string, q url.Values, text func(*app, T) error) error {
	var c clientFlags
	f := a.flags(name)
	c.register(f)
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	cl, err := c.dial(a)
	if err != nil {
		return err
	}
	return show(ctx, a, cl, path, q, func(v T) error { return text(a, v) })
}

func (a *app) cmdStatus(ctx context.Context, args []string) error {
	return query(ctx, a, "status", args, "/v1/status", nil, printStatus)
}

func (a *app) cmdAPIs(ctx context.Context, args []string) error {
	return query(ctx, a, "apis", args, "/v1/apis", nil, printAPIs)
}

// table returns a writer that lines columns up.
func (a *app) table() *tabwriter.Writer { return tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0) }

// lines prints names with values behind them, wrapped so that they fit 80 columns.
type lines struct {
	a     *app
	color bool
	err   error
}

// width is what fits a terminal that nobody has made wider; nameWidth is the column of names.
const (
	width     = 80
	nameWidth = 10
)

// A shade is what a line means.
type shade int

// The shades.
const (
	plain shade = iota
	good
	caution
	danger
)

// paint colours a word, on terminals only.
func (l *lines) paint(s shade, word string) string {
	codes := [...]string{plain: "", good: "32", caution: "33", danger: "1;31"}
	if !l.color || s == plain {
		return word
	}
	return "\x1b[" + codes[s] + "m" + word + "\x1b[0m"
}

func (a *app) lines() *lines {
	return &lines{a: a, color: cli.Terminal(a.Out) && a.Getenv("NO_COLOR") == "" && a.Getenv("TERM") != "dumb"}
}

// row prints one name and its value; the name has the shade.
func (l *lines) row(s shade, name, format string, args ...any) {
	for i, text := range wrap(fmt.Sprintf(format, args...), width-nameWidth-1) {
		if i > 0 {
			name = ""
		}
		padded := l.paint(s, name) + strings.Repeat(" ", max(nameWidth-utf8.RuneCountInString(name), 0))
		if _, err := fmt.Fprintf(l.a.Out, "%s %s\n", padded, text); err != nil && l.err == nil {
			l.err = err
		}
	}
}

// wrap breaks text between words so that no line is longer than n, as far as words allow.
func wrap(text string, n int) []string {
	text = printable(text)
	var out []string
	line := ""
	for _, w := range strings.Fields(text) {
		switch {
		case line == "":
			line = w
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(w) > n:
			out = append(out, line)
			line = w
		default:
			line += " " + w
		}
	}
	return append(out, line)
}

// printable makes one line of a text. What is not to be printed becomes a question mark: values
// may come from a stranger.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

func printStatus(a *app, s admin.Status) error {
	l := a.lines()
	state, look := "ready", good
	if !s.Ready {
		state, look = "not ready", danger
	}
	l.row(look, "device", "%s, %s, up %s", orNone(s.Device), state, admin.Age(s.Uptime))
	l.row(plain, "version", "%s", s.Build.String())
	if s.Mode != "normal" {
		l.row(danger, "mode", "%s", s.Mode)
	}
	l.row(plain, "listen", "http %s, https %s, admin %s", orNone(s.Listen.HTTP), orNone(s.Listen.HTTPS), orNone(s.Listen.Admin))
	l.bundles(&s)
	l.trust(&s)
	l.row(plain, "clock", "%s, floor %s (%s), system %s", s.Clock.State, s.Clock.Floor.Format(time.RFC3339), s.Clock.Source, s.Clock.Wall.Format(time.RFC3339))
	if s.Clock.Doubt != "" {
		l.row(caution, "", "%s", s.Clock.Doubt)
	}
	l.link(s.Link)
	l.row(plain, "calls", "%d answered, %d of them 5xx, %d in flight, %d refused by form", s.Calls.Answered, s.Calls.Failed, s.Calls.InFlight, s.Calls.Refused)
	l.row(plain, "counters", "%d of %d, %d stalls%s", s.Limits.Keys, s.Limits.Capacity, s.Limits.Stalls, trouble(s.Limits.Error))
	l.row(plain, "events", "%d stored, %d in memory, %s of %s%s", s.Events.Calls, s.Events.Waiting, admin.Size(s.Events.Bytes), admin.Size(s.Events.Cap), trouble(s.Events.Error))
	for _, reason := range sortedKeys(s.Events.Lost) {
		if n := s.Events.Lost[reason]; n > 0 {
			l.row(caution, "lost", "%d events (%s)", n, reason)
		}
	}
	l.machine(&s)
	for _, al := range s.Alarms {
		l.row(danger, "ALARM", "%s: %s", al.Word, al.Detail)
	}
	for _, t := range s.Finds {
		l.row(caution, "finding", "%s", t)
	}
	for _, t := range s.Words {
		l.row(caution, "warning", "%s", t)
	}
	if s.Last != nil {
		text := outcomeLine(*s.Last)
		if s.Last.Code != "" {
			text = fmt.Sprintf("%s refused: %s: %s", orNone(s.Last.Object), s.Last.Code, s.Last.Detail)
		}
		l.row(plain, "last", "%s", text)
	}
	return l.err
}

func (l *lines) bundles(s *admin.Status) {
	look := map[string]shade{"confirmed": good, "trial": caution}[s.Bundle.State]
	if look == plain {
		look = danger
	}
	l.row(look, "bundle", "%s%s", s.Bundle.State, bundleText(s.Bundle.Serving))
	if s.Bundle.Trial != nil {
		how := "goes back unless healthy"
		if s.Bundle.ByHand {
			how = "goes back unless confirmed: tidegate confirm"
		}
		l.row(caution, "trial", "%.0f s left, %s; last known good%s", s.Bundle.Deadline, how, bundleText(s.Bundle.Good))
	}
	if s.Bundle.Older != nil {
		l.row(plain, "older", "%s", strings.TrimPrefix(bundleText(s.Bundle.Older), ": "))
	}
}

func (l *lines) trust(s *admin.Status) {
	if s.Trust.Root == 0 {
		l.row(danger, "trust", "no root installed: tidegate trust install FILE.tideroot")
	} else {
		l.row(plain, "trust", "root %d, domain %s", s.Trust.Root, s.Trust.Domain)
	}
	if s.Trust.Locked != "" {
		l.row(danger, "locked", "%s", s.Trust.Locked)
	}
	if s.Trust.Product != "" {
		l.row(plain, "for", "%s/%s %s", s.Trust.Product, s.Trust.Channel, strings.Join(s.Trust.Labels, ","))
	}
}

func (l *lines) link(k *admin.Link) {
	if k == nil {
		return
	}
	text := k.State + ", " + orNone(k.Broker)
	if k.Next > 0 {
		text += ", next try in " + admin.Age(k.Next)
	}
	if k.Contact != nil && k.State != "connected" {
		text += ", last contact " + k.Contact.Format(time.RFC3339)
	}
	if k.Error != "" {
		text += "; " + k.Error
	}
	l.row(plain, "link", "%s", text)
	if k.Hint != "" {
		l.row(caution, "", "%s", k.Hint)
	}
}

func (l *lines) machine(s *admin.Status) {
	m := &s.Machine
	if m.DiskTotal > 0 {
		l.row(plain, "disk", "%s free of %s, %s written since the start", admin.Size(m.DiskFree), admin.Size(m.DiskTotal), admin.Size(m.Written))
	}
	if m.Resident > 0 {
		l.row(plain, "memory", "%s resident, %s heap", admin.Size(m.Resident), admin.Size(s.Process.Heap))
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func trouble(s string) string {
	if s == "" {
		return ""
	}
	return "; " + s
}

func bundleText(b *admin.Bundle) string {
	if b == nil {
		return ""
	}
	s := fmt.Sprintf(": %d of %s/%s, %s", b.Seq, b.Product, b.Channel, b.Name)
	if b.Version != "" {
		s += " " + b.Version
	}
	if b.Damaged {
		s += " (DAMAGED on disk)"
	}
	return s
}

func printAPIs(a *app, apis []admin.APIView) error {
	w := a.table()
	for _, api := range apis {
		fmt.Fprintf(w, "%s %s\t%s\t%s\n", api.Name, api.Version, api.BasePath, endpointsText(api))
		for _, o := range api.Operations {
			var marks []string
			if !o.Secured {
				marks = append(marks, "unsecured")
			}
			if o.Plan != "" {
				marks = append(marks, "plan "+o.Plan)
			}
			if len(o.Scopes) > 0 {
				marks = append(marks, "scope "+strings.Join(o.Scopes, " or "))
			}
			for _, class := range sortedKeys(o.Answers) {
				marks = append(marks, fmt.Sprintf("%s %d", class, o.Answers[class]))
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\n", o.Method, o.Template, strings.Join(marks, ", "))
		}
	}
	return w.Flush()
}

func endpointsText(api admin.APIView) string {
	var parts []string
	if api.Production != "" {
		parts = append(parts, "production "+api.Production)
	}
	if api.Sandbox != "" {
		parts = append(parts, "sandbox "+api.Sandbox)
	}
	return strings.Join(parts, ", ")
}

func (a *app) cmdCounters(ctx context.Context, args []string) error {
	var c clientFlags
	var plan string
	f := a.flags("counters")
	c.register(f)
	f.StringVar(&plan, "plan", "", "only this plan")
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	cl, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	q := url.Values{}
	if plan != "" {
		q.Set("plan", plan)
	}
	return show(ctx, a, cl, "/v1/counters", q, func(rows []admin.CounterView) error {
		w := a.table()
		fmt.Fprintln(w, "PLAN\tLEVEL\tUSED\tLIMIT\tKIND\tUNTIL\tKEY")
		for _, r := range rows {
			until := ""
			if r.End != nil {
				until = r.End.Format(time.RFC3339)
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", orNone(r.Plan), r.Level, r.Used, r.Limit, r.Kind, until, r.Key)
		}
		return w.Flush()
	})
}

func (a *app) cmdCountersReset(ctx context.Context, args []string) error {
	var c clientFlags
	var key string
	f := a.flags("counters reset")
	c.register(f)
	f.StringVar(&key, "key", "", "key of a counter, or LEVEL:SUBJECT")
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	if key == "" {
		return cli.Usage("counters reset: --key is needed; tidegate counters shows the keys")
	}
	cl, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	var out struct {
		Key   string `json:"key"`
		Reset int    `json:"reset"`
	}
	resp, err := cl.do(ctx, "POST", "/v1/counters/reset", url.Values{"key": {key}}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := decode(resp.Body, &out); err != nil {
		return err
	}
	if a.json {
		return a.JSON(out)
	}
	fmt.Fprintf(a.Out, "%s: %d counts set to zero\n", out.Key, out.Reset)
	return nil
}

func (a *app) cmdHistory(ctx context.Context, args []string) error {
	var c clientFlags
	var limit int
	var export string
	var v verifyFlags
	f := a.flags("history")
	c.register(f)
	f.IntVar(&limit, "limit", 100, "entries shown, at most 1000")
	f.StringVar(&export, "export", "", "write entries and checkpoints to this file")
	v.register(f)
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	if v.file != "" {
		return a.verifyHistory(ctx, &c, v)
	}
	cl, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	if export != "" {
		return a.save(ctx, cl, "/v1/history/export", nil, export)
	}
	return show(ctx, a, cl, "/v1/history", url.Values{"limit": {strconv.Itoa(limit)}}, func(rows []admin.HistoryView) error {
		w := a.table()
		for _, r := range rows {
			digest := r.Digest
			if len(digest) > 12 {
				digest = digest[:12]
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", r.N, r.Floor.Format(time.DateTime), r.Event, r.Code, digest, r.Source, r.Detail)
		}
		return w.Flush()
	})
}

// save writes an answer to a file, whole or not at all; "-" is standard output.
func (a *app) save(ctx context.Context, cl *client, path string, q url.Values, name string) error {
	resp, err := cl.do(ctx, "GET", path, q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if name == "-" {
		_, err := io.Copy(a.Out, resp.Body)
		return err
	}
	var n int64
	progress := a.Progress("receiving "+filepath.Base(name), 0)
	err = durable.WriteFrom(name, 0o644, func(w io.Writer) (err error) {
		n, err = io.Copy(io.MultiWriter(w, progress), resp.Body)
		return err
	})
	progress.Done()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if a.json {
		return a.JSON(map[string]any{"file": name, "bytes": n})
	}
	a.Say("%s: %s", name, admin.Size(n))
	return nil
}
