package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"tidegate/appliance/admin"
	"tidegate/cmd/cli"
	"tidegate/policy/refusal"
	"tidegate/sync/trust"
)

// client talks to the running device over its unix socket.
type client struct {
	http   *http.Client
	path   string
	atRest bool // the device was opened for this command, and serves no calls
}

// clientFlags adds the flags that say where the socket is.
type clientFlags struct {
	configFlags
	socket string
}

func (c *clientFlags) register(f *flag.FlagSet) {
	c.configFlags.register(f)
	f.StringVar(&c.socket, "socket", "", "unix socket of the device")
}

// dial returns a client for the running device.
func (c *clientFlags) dial(a *app) (*client, error) {
	path := c.socket
	if path == "" {
		cfg, err := c.load(a)
		if err != nil {
			return nil, err
		}
		path = cfg.Socket()
	}
	return newClient(path), nil
}

// newClient returns a client for the device at a unix socket.
func newClient(path string) *client {
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
	return &client{http: &http.Client{Transport: t}, path: path}
}

// asError turns a fault into an error with its word, hint and exit code.
func asError(f admin.Fault) error {
	if f.Code == "" && f.Hint == "" {
		return errors.New(f.Error)
	}
	return &refusal.Error{Word: refusal.Word(f.Code), Detail: f.Error, Hint: f.Hint}
}

// do sends a request and returns the answer if its status is 2xx.
func (c *client) do(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	u := "http://device" + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	var f admin.Fault
	if json.Unmarshal(b, &f) != nil || f.Error == "" {
		return nil, fmt.Errorf("device: %s: %s", resp.Status, strings.TrimSpace(string(b)))
	}
	return nil, asError(f)
}

// hold makes a connection the line on which a helper holds a stick.
func (c *client) hold(ctx context.Context, name string) (net.Conn, *bufio.Reader, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.path)
	if err != nil {
		return nil, nil, c.explain(err)
	}
	in, err := upgrade(ctx, conn, name)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, in, nil
}

func upgrade(ctx context.Context, conn net.Conn, name string) (*bufio.Reader, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://device/v1/stick?"+url.Values{"name": {name}}.Encode(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", admin.StickProtocol)
	if err := r.Write(conn); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(conn, 64<<10)
	resp, err := http.ReadResponse(in, r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return nil, errors.Join(err, resp.Body.Close(), fmt.Errorf("device: %s: %s", resp.Status, strings.TrimSpace(string(b))))
	}
	return in, nil
}

// explain says what to do when the device cannot be reached.
func (c *client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: no device is running there; start it with tidegate run or tidegate service start, or name its socket with --socket", c.path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: not allowed; run as root, as the device's user, or as a member of admin.socket_gid", c.path)
	}
	var u *url.Error
	if errors.As(err, &u) {
		return fmt.Errorf("%s: %w", c.path, u.Err)
	}
	return err
}

// get fetches path and decodes the answer into v.
func (c *client) get(ctx context.Context, path string, query url.Values, v any) error {
	resp, err := c.do(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(v)
}

// show fetches path and prints it: as it came with --json, else by text.
func show[T any](ctx context.Context, a *app, c *client, path string, query url.Values, text func(T) error) error {
	var raw json.RawMessage
	if err := c.get(ctx, path, query, &raw); err != nil {
		return err
	}
	if a.json {
		return a.JSON(raw)
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	return text(v)
}

// offer sends a file to path and reports the outcomes as they come. The last one decides.
func (a *app) offer(ctx context.Context, c *client, path, name string, query url.Values) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return cli.Usage("%s is not a regular file", name)
	}
	query.Set("name", filepath.Base(name))
	progress := a.Progress("sending "+filepath.Base(name), info.Size())
	resp, err := c.do(ctx, http.MethodPost, path, query, io.TeeReader(f, progress))
	progress.Done()
	if err != nil {
		return refusal.About(filepath.Base(name), err)
	}
	defer resp.Body.Close()
	var last admin.Outcome
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var o admin.Outcome
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		last = o
		if !o.Final && !a.json {
			a.Say("%s", outcomeLine(o))
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return a.conclude(last)
}

// conclude prints the last outcome and returns what it means for the exit code.
func (a *app) conclude(o admin.Outcome) error {
	if a.json {
		if err := a.JSON(o); err != nil {
			return err
		}
		return exitWith(o.Exit)
	}
	for _, w := range o.Warnings {
		a.Say("tidegate: warning: %s", w)
	}
	if o.Code != "" {
		return &refusal.Error{Word: refusal.Word(o.Code), Object: o.Object, Detail: o.Detail, Hint: o.Hint}
	}
	if _, err := fmt.Fprintln(a.Out, outcomeLine(o)); err != nil {
		return err
	}
	return exitWith(o.Exit)
}

// outcomeLine says in one line what became of a file.
func outcomeLine(o admin.Outcome) string {
	what := o.Object
	if o.Seq > 0 && o.Kind == "manifest" {
		what = fmt.Sprintf("bundle %d of %s/%s", o.Seq, o.Product, o.Channel)
	}
	if o.Product == trust.SystemProduct && o.Kind == "manifest" {
		what = fmt.Sprintf("system %s (bundle %d of %s/%s)", o.Version, o.Seq, o.Product, o.Channel)
		if o.Phase == "trial" {
			return what + ": on trial, the machine starts anew with it"
		}
	}
	switch {
	case o.Phase == "trial" && o.ByHand:
		return fmt.Sprintf("%s: serves on trial; confirm within %.0f s: tidegate confirm", what, o.Deadline)
	case o.Phase == "trial":
		return fmt.Sprintf("%s: serves on trial for %.0f s", what, o.Deadline)
	case o.Already:
		return what + ": already so"
	case o.Phase == "accepted":
		return fmt.Sprintf("%s: in force (%s)", what, o.Kind)
	}
	return what + ": " + o.Phase
}
