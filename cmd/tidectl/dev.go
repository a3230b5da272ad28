package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"tidegate/cmd/cli"
	"tidegate/policy"
	"tidegate/policy/project"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"tidegate/sync/keyfile"
	"tidegate/sync/trust"
	"time"

	"github.com/spf13/cobra"
)

// devIssuer is the issuer of the tokens of tidectl dev. No real token can claim it: the
// name is reserved (RFC 2606).
const devIssuer = "https://dev.tidegate.invalid"

// devFolder is where dev keeps its throw-away keys, so that tokens outlive a restart of it.
func devFolder(dir string) string { return filepath.Join(dir, ".tidegate") }

func (a *app) devCommand() *cobra.Command {
	var d dev
	c := &cobra.Command{
		Use:   "dev [DIR]",
		Short: "Run a project locally: build with throw-away keys, serve, rebuild on change",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d.app, d.dir = a, "."
			if len(args) == 1 {
				d.dir = args[0]
			}
			return d.run(cmd.Context())
		},
	}
	c.Flags().BoolVar(&d.demo, "demo-backend", false, "answer in place of all backends")
	c.Flags().BoolVar(&d.try, "try", false, "print calls to try, each as a shell command")
	c.Flags().StringVar(&d.program, "tidegate", "", "the tidegate program; default: beside tidectl, else on the PATH")
	c.Flags().StringVar(&d.data, "data", "", "data folder of the device; default: a temporary one that is removed at the end")
	return c
}

// dev is one run of tidectl dev.
type dev struct {
	*app
	dir, program, data string
	demo, try          bool

	release keyfile.Key
	domain  trust.Domain
	issuer  *ecdsa.PrivateKey
	seq     uint64
	backend *demoBackend
	sock    string
	api     string // URL of the API listener
}

func (d *dev) run(ctx context.Context) error {
	p, err := d.loadProject(d.dir, fetcher(ctx))
	if err != nil {
		return err
	}
	if err := d.keys(); err != nil {
		return err
	}
	if err := d.find(); err != nil {
		return err
	}
	if d.data == "" {
		tmp, err := os.MkdirTemp("", "tidegate-dev-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp) //nolint:errcheck // a temporary folder
		d.data = tmp
	}
	if d.demo {
		if d.backend, err = startDemo(); err != nil {
			return err
		}
		defer d.backend.close()
	}
	device, err := d.start(ctx, p)
	if err != nil {
		return err
	}
	defer device.stop()
	if err := d.install(ctx, device); err != nil {
		return err
	}
	if err := d.apply(ctx, p); err != nil {
		return err
	}
	d.announce(p)
	return d.watch(ctx, device, p)
}

// keys makes the throw-away keys, or takes those of the last run.
func (d *dev) keys() error {
	k, err := keyfile.Generate("dev")
	if err != nil {
		return err
	}
	d.release = k
	if _, err := rand.Read(d.domain[:]); err != nil {
		return err
	}
	folder := devFolder(d.dir)
	name := filepath.Join(folder, "issuer.pem")
	if key, err := readPEMKey(name); err == nil {
		if ec, ok := key.(*ecdsa.PrivateKey); ok {
			d.issuer = ec
			return nil
		}
	}
	if d.issuer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(d.issuer)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, ".gitignore"), []byte("*\n"), 0o600); err != nil {
		return err
	}
	return os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// find looks for the device program.
func (d *dev) find() error {
	if d.program != "" {
		return nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "tidegate")
		if info, err := os.Stat(beside); err == nil && !info.IsDir() {
			d.program = beside
			return nil
		}
	}
	p, err := exec.LookPath("tidegate")
	if err != nil {
		return errors.New("tidegate: the device program is neither beside tidectl nor on the PATH; give --tidegate FILE")
	}
	d.program = p
	return nil
}

// device is the child process.
type device struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error
}

// stop ends the device and waits for it.
func (v *device) stop() {
	_ = v.cmd.Process.Signal(syscall.SIGTERM) // fails only when it has exited
	select {
	case <-v.exited:
	case <-time.After(15 * time.Second):
		_ = v.cmd.Process.Kill()
		<-v.exited
	}
}

// start runs the device on loopback addresses, those of the environment first.
func (d *dev) start(ctx context.Context, p *project.Project) (*device, error) {
	d.sock = filepath.Join(d.data, "admin.sock")
	if len(d.sock) > 100 { // a unix socket's path has at most 107 bytes
		d.sock = filepath.Join(os.TempDir(), fmt.Sprintf("tidegate-dev-%d.sock", os.Getpid()))
	}
	env := append(os.Environ(), "TIDEGATE_ADMIN_SOCKET="+d.sock)
	for _, v := range [][2]string{{"TIDEGATE_LISTEN_HTTP", "127.0.0.1:9090"}, {"TIDEGATE_LISTEN_HTTPS", "127.0.0.1:9095"}, {"TIDEGATE_ADMIN_LISTEN", "127.0.0.1:9099"}} {
		if d.Getenv(v[0]) == "" {
			env = append(env, v[0]+"="+v[1])
		} else {
			env = append(env, v[0]+"="+d.Getenv(v[0]))
		}
	}
	if d.Getenv("TIDEGATE_LOG_LEVEL") == "" {
		env = append(env, "TIDEGATE_LOG_LEVEL=warn")
	}
	if d.backend != nil {
		for _, e := range p.Set.Endpoints {
			env = append(env, "TIDEGATE_ENDPOINTS_"+envName(e.Name)+"_URL="+d.backend.url)
		}
	}
	cmd := exec.Command(d.program, "run", "--data", d.data, "--config", "")
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = d.Err, d.Err
	// A signal from the terminal is for us: the device is stopped in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	v := &device{cmd: cmd, exited: make(chan struct{})}
	go func() {
		v.err = cmd.Wait()
		close(v.exited)
	}()
	if err := d.ready(ctx, v); err != nil {
		v.stop()
		return nil, err
	}
	return v, nil
}

// envName is a group's name as it stands in variables.
func envName(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
}

// ready waits until the device answers on its socket.
func (d *dev) ready(ctx context.Context, v *device) error {
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		var dial net.Dialer
		if c, err := dial.DialContext(ctx, "unix", d.sock); err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-v.exited:
			return cli.StatusError(max(v.cmd.ProcessState.ExitCode(), 1))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return errors.New("the device did not come up within 20 s")
}

// tidegate runs one command of the device program against the running device.
func (d *dev) tidegate(ctx context.Context, out io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, d.program, args...)
	cmd.Env = append(os.Environ(), "TIDEGATE_ADMIN_SOCKET="+d.sock)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &text
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == refusal.ExitWaiting {
		return nil // on trial: it serves
	}
	if errors.As(err, &exit) {
		_, _ = d.Err.Write(text.Bytes())
		return cli.StatusError(exit.ExitCode())
	}
	return err
}

// install makes the throw-away trust root known to the device.
func (d *dev) install(ctx context.Context, _ *device) error {
	key := trust.Key{Name: "dev", Public: d.release.Private.Public()}
	root := &trust.Root{
		Domain: d.domain, Version: 1, Issued: uint64(time.Now().Unix()),
		Roles: map[trust.RoleNumber]trust.Role{
			trust.RoleRoot:    {Epoch: 1, Threshold: 1, Keys: []trust.Key{key}},
			trust.RoleRelease: {Epoch: 1, Threshold: 1, Keys: []trust.Key{key}},
		},
	}
	payload, err := root.Marshal()
	if err != nil {
		return err
	}
	env, err := envelope.Sign(envelope.Root, payload, d.release.Private)
	if err != nil {
		return err
	}
	fp, err := trust.Fingerprint(env)
	if err != nil {
		return err
	}
	file := filepath.Join(d.data, "dev.tideroot")
	if err := os.WriteFile(file, envelope.File(envelope.Root, env), 0o600); err != nil {
		return err
	}
	return d.tidegate(ctx, io.Discard, "trust", "install", "--fingerprint", fp.String(), file)
}

// apply builds the project with the throw-away key and gives it to the device.
func (d *dev) apply(ctx context.Context, p *project.Project) error {
	d.seq++
	pub, err := x509.MarshalPKIXPublicKey(d.issuer.Public())
	if err != nil {
		return err
	}
	set := *p.Set
	set.Issuers = append(set.Issuers[:len(set.Issuers):len(set.Issuers)], policy.Issuer{
		Name: "tidectl dev", Issuer: devIssuer, Algorithms: []string{"ES256"},
		Keys: []policy.Key{{PKIX: pub}}, SingleKey: true,
	})
	q := *p
	q.Set = &set
	q.Tide.Trial = project.Trial{Window: time.Second}
	q.Tide.Probes = nil
	q.Tide.Hardware = []string{"any"}
	q.Tide.Devices = []project.Selector{{}}
	file := filepath.Join(d.data, "dev.tide")
	o := buildOptions{domain: d.domain, epoch: 1, seq: d.seq, issued: time.Now(), signers: []envelope.Signer{d.release.Private}, out: file}
	if len(p.Secrets) > 0 {
		request := filepath.Join(d.data, "dev.tideenroll")
		if err := d.tidegate(ctx, io.Discard, "enroll", "--output", request); err != nil {
			return err
		}
		if o.to, err = readSealKeys([]string{request}); err != nil {
			return err
		}
	}
	if _, err = buildBundle(&q, o); err != nil {
		return err
	}
	return d.tidegate(ctx, io.Discard, "apply", "--no-wait", file)
}

// deviceStatus is the part of tidegate status that dev needs.
type deviceStatus struct {
	Listen struct {
		HTTP  string `json:"http"`
		HTTPS string `json:"https"`
		Admin string `json:"admin"`
	} `json:"listen"`
}

// watch rebuilds when a file of the project changes, until ctx ends or the device does.
func (d *dev) watch(ctx context.Context, v *device, p *project.Project) error {
	seen := d.fingerprint(p)
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-v.exited:
			d.Say("tidectl: the device has ended: %v", v.err)
			return cli.StatusError(max(v.cmd.ProcessState.ExitCode(), 1))
		case <-tick.C:
		}
		now := d.fingerprint(p)
		if now == seen {
			continue
		}
		seen = now
		next, err := d.loadProject(d.dir, fetcher(ctx))
		if err != nil {
			d.Say("tidectl: the running version goes on serving")
			continue
		}
		p = next
		if err := d.apply(ctx, p); err != nil {
			if w, ok := refusal.Of(err); ok {
				d.Say("tidectl: %s: %v", w, err)
			}
			continue
		}
		seen = d.fingerprint(p)
		d.Say("tidectl: rebuilt and active")
	}
}

// fingerprint is a text that changes when a file of the project does.
func (d *dev) fingerprint(*project.Project) string {
	var b strings.Builder
	w := bufio.NewWriter(&b)
	_ = filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // a file that went away between two looks is a change by itself
		}
		if e.IsDir() {
			if strings.HasPrefix(e.Name(), ".") && path != d.dir {
				return filepath.SkipDir
			}
			return nil
		}
		if info, err := e.Info(); err == nil {
			fmt.Fprintf(w, "%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
		}
		return nil
	})
	_ = w.Flush()
	return b.String()
}
