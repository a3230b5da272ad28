package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"tidegate/appliance/admin"
	"tidegate/cmd/cli"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"
)

func decode(r io.Reader, v any) error { return json.NewDecoder(r).Decode(v) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (a *app) cmdPlan(ctx context.Context, args []string) error {
	var c clientFlags
	f := a.flags("plan")
	c.register(f)
	files, err := parse(f, args, 1)
	if err != nil {
		return err
	}
	cl, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	file, err := os.Open(files[0])
	if err != nil {
		return err
	}
	defer file.Close()
	resp, err := cl.do(ctx, "POST", "/v1/plan", url.Values{"name": {filepath.Base(files[0])}}, file)
	if err != nil {
		return refusal.About(files[0], err)
	}
	defer resp.Body.Close()
	var o admin.Outcome
	if err := decode(resp.Body, &o); err != nil {
		return err
	}
	if o.Code == "" && !a.json {
		a.printPlan(o)
	}
	return a.conclude(o)
}

// printPlan prints what a bundle would change: the rules first, then the files that carry them.
func (a *app) printPlan(o admin.Outcome) {
	if o.Changes == nil {
		return
	}
	for _, c := range o.Changes.Rules {
		fmt.Fprintln(a.Out, printable(c.String()))
	}
	if o.Changes.More > 0 {
		fmt.Fprintf(a.Out, "… and %d more: tidectl bundle diff lists all\n", o.Changes.More)
	}
	for _, l := range []struct {
		mark string
		of   []string
	}{{"+ file", o.Changes.Added}, {"- file", o.Changes.Removed}, {"~ file", o.Changes.Changed}, {"~ manifest", o.Changes.Fields}} {
		for _, s := range l.of {
			fmt.Fprintf(a.Out, "%s %s\n", l.mark, s)
		}
	}
	fmt.Fprintf(a.Out, "%s new\n", admin.Size(int64(min(o.Changes.Bytes, 1<<62))))
}

func (a *app) cmdApply(ctx context.Context, args []string) error {
	var c clientFlags
	var noWait, retry bool
	f := a.flags("apply")
	c.register(f)
	f.BoolVar(&noWait, "no-wait", false, "do not wait for the verdict of the trial")
	f.BoolVar(&retry, "retry", false, "take it also if it failed before")
	files, err := parse(f, args, 1)
	if err != nil {
		return err
	}
	cl, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	q := url.Values{"wait": {fmt.Sprint(!noWait && !cl.atRest)}, "retry": {fmt.Sprint(retry)}}
	return a.offer(ctx, cl, "/v1/apply", files[0], q)
}

func (a *app) cmdConfirm(ctx context.Context, args []string) error {
	return a.decide(ctx, "confirm", args)
}

func (a *app) cmdRollback(ctx context.Context, args []string) error {
	return a.decide(ctx, "rollback", args)
}

func (a *app) decide(ctx context.Context, name string, args []string) error {
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
	resp, err := cl.do(ctx, "POST", "/v1/"+name, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var o admin.Outcome
	if err := decode(resp.Body, &o); err != nil {
		return err
	}
	if name == "rollback" && !a.json {
		// What serves now is what was asked for; the word belongs to the bundle that went.
		fmt.Fprintln(a.Out, outcomeLine(o))
		return nil
	}
	return a.conclude(o)
}

func (a *app) cmdEventsExport(ctx context.Context, args []string) error {
	var c clientFlags
	var format, since, output, stream string
	f := a.flags("events export")
	c.register(f)
	f.StringVar(&format, "format", "ndjson", "ndjson, csv or wso2")
	f.StringVar(&since, "since", "", "time as 2026-11-25T00:00:00Z, or a length of time back from now, as 24h")
	f.StringVar(&output, "output", "-", "file to write; - is standard output")
	f.StringVar(&stream, "stream-version", "", "of wso2: 3.0.0, 3.1.0 or 3.2.0")
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	if !slices.Contains([]string{"ndjson", "csv", "wso2"}, format) {
		return cli.Usage("events export: --format %q is not one of ndjson, csv, wso2", format)
	}
	if d, err := time.ParseDuration(since); err == nil && d > 0 {
		since = time.Now().Add(-d).UTC().Format(time.RFC3339)
	}
	if format == "wso2" && output == "-" && cli.Terminal(a.Out) {
		return cli.Usage("events export: wso2 writes a zip; give --output FILE")
	}
	cl, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	return a.save(ctx, cl, "/v1/events", url.Values{"format": {format}, "since": {since}, "stream-version": {stream}}, output)
}

func (a *app) cmdEnroll(ctx context.Context, args []string) error {
	var c clientFlags
	var output string
	f := a.flags("enroll")
	c.register(f)
	f.StringVar(&output, "output", "", "file to write; default: <device id>.tideenroll")
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	cl, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	if output == "" {
		var s admin.Status
		if err := cl.get(ctx, "/v1/status", nil, &s); err != nil {
			return err
		}
		output = s.Device + ".tideenroll"
	}
	return a.save(ctx, cl, "/v1/enrol", nil, output)
}

func (a *app) cmdTrustShow(ctx context.Context, args []string) error {
	var c clientFlags
	f := a.flags("trust show")
	c.register(f)
	files, err := parse(f, args, -1)
	if err != nil {
		return err
	}
	if len(files) == 1 {
		return a.showRootFile(files[0])
	}
	cl, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	return show(ctx, a, cl, "/v1/trust", nil, func(t admin.Trust) error {
		if t.Root == 0 {
			fmt.Fprintln(a.Out, "no trust root installed")
			return nil
		}
		fmt.Fprintf(a.Out, "root version   %d\ntrust domain   %s\n", t.Root, t.Domain)
		for _, r := range t.Roles {
			fmt.Fprintf(a.Out, "role %-9s %d of %d must sign, epoch %d\n", r.Name, r.Threshold, len(r.Keys), r.Epoch)
			for _, k := range r.Keys {
				fmt.Fprintf(a.Out, "  %s\n", k)
			}
		}
		return nil
	})
}

// rootFile is a root as it is shown before it is pinned.
type rootFile struct {
	Version     uint64       `json:"version"`
	Domain      string       `json:"trust_domain"`
	Fingerprint string       `json:"fingerprint"` // of the first root: what --fingerprint wants
	Roles       []admin.Role `json:"roles"`
}

// readRootFile reads the first root of a file without judging its signatures.
func readRootFile(name string) (rootFile, []byte, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return rootFile{}, nil, err
	}
	envs, err := envelope.ReadFile(envelope.Root, strings.NewReader(string(b)))
	if err != nil {
		return rootFile{}, nil, refusal.About(name, err)
	}
	m, err := envelope.Parse(envs[0], envelope.Root)
	if err != nil {
		return rootFile{}, nil, refusal.About(name, err)
	}
	r, err := trust.ParseRoot(m.Payload)
	if err != nil {
		return rootFile{}, nil, refusal.About(name, err)
	}
	fp, err := trust.Fingerprint(envs[0])
	if err != nil {
		return rootFile{}, nil, refusal.About(name, err)
	}
	return rootFile{Version: r.Version, Domain: r.Domain.String(), Fingerprint: fp.String(), Roles: admin.Roles(r)}, b, nil
}

func (a *app) showRootFile(name string) error {
	r, _, err := readRootFile(name)
	if err != nil {
		return err
	}
	if a.json {
		return a.JSON(r)
	}
	printRoot(a.Out, r)
	return nil
}

func printRoot(w io.Writer, r rootFile) {
	fmt.Fprintf(w, "root version   %d\ntrust domain   %s\nfingerprint    %s\n", r.Version, r.Domain, r.Fingerprint)
	for _, role := range r.Roles {
		fmt.Fprintf(w, "role %-9s %d of %d must sign, epoch %d\n", role.Name, role.Threshold, len(role.Keys), role.Epoch)
		for _, k := range role.Keys {
			fmt.Fprintf(w, "  %s\n", k)
		}
	}
}

func (a *app) cmdTrustInstall(ctx context.Context, args []string) error {
	var c clientFlags
	var print string
	f := a.flags("trust install")
	c.register(f)
	f.StringVar(&print, "fingerprint", "", "SHA-256 of the first root, as tidectl trust show prints it")
	files, err := parse(f, args, 1)
	if err != nil {
		return err
	}
	r, b, err := readRootFile(files[0])
	if err != nil {
		return err
	}
	cl, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	var now admin.Trust
	if err := cl.get(ctx, "/v1/trust", nil, &now); err != nil {
		return err
	}
	if print == "" && now.Root == 0 {
		if print, err = a.askFingerprint(r); err != nil {
			return err
		}
	}
	resp, err := cl.do(ctx, "POST", "/v1/trust", url.Values{"fingerprint": {print}}, strings.NewReader(string(b)))
	if err != nil {
		return refusal.About(files[0], err)
	}
	defer resp.Body.Close()
	var o admin.Outcome
	if err := decode(resp.Body, &o); err != nil {
		return err
	}
	o.Object = files[0]
	return a.conclude(o)
}

// askFingerprint shows a root and asks whether it is the one.
func (a *app) askFingerprint(r rootFile) (string, error) {
	if !cli.Terminal(a.In) {
		return "", cli.Usage("trust install: without a terminal --fingerprint HEX is needed; tidectl trust show prints it")
	}
	printRoot(a.Err, r)
	fmt.Fprint(a.Err, "Believe this root from now on? Type yes: ")
	answer, err := bufio.NewReader(a.In).ReadString('\n')
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(answer) != "yes" {
		return "", refusal.New(refusal.RootNone, "not installed: the answer was not yes")
	}
	return r.Fingerprint, nil
}

func (a *app) cmdAccess(ctx context.Context, args []string) error {
	var c clientFlags
	var output string
	f := a.flags("access")
	c.register(f)
	f.StringVar(&output, "output", "-", "file to write; - is standard output")
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	cl, err := c.dial(a)
	if err != nil {
		return err
	}
	return a.save(ctx, cl, "/v1/access", nil, output)
}
