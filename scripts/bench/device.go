package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"tidegate/policy"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/write"
	"tidegate/sync/envelope"
	"tidegate/sync/keyfile"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
	"time"
)

// signer is what signs for the device: a trust root with one key.
type signer struct {
	key    keyfile.Key
	domain trust.Domain
	seq    uint64
}

func newSigner() (*signer, error) {
	k, err := keyfile.Generate("bench")
	if err != nil {
		return nil, err
	}
	s := &signer{key: k}
	_, err = rand.Read(s.domain[:])
	return s, err
}

// root returns the trust root file and its fingerprint.
func (s *signer) root() ([]byte, string, error) {
	role := trust.Role{Epoch: 1, Threshold: 1, Keys: []trust.Key{{Name: "bench", Public: s.key.Private.Public()}}}
	r := &trust.Root{Domain: s.domain, Version: 1, Issued: uint64(time.Now().Unix()), Roles: map[trust.RoleNumber]trust.Role{
		trust.RoleRoot: role, trust.RoleRelease: role, trust.RoleTime: role, trust.RoleCollector: role,
	}}
	payload, err := r.Marshal()
	if err != nil {
		return nil, "", err
	}
	env, err := envelope.Sign(envelope.Root, payload, s.key.Private)
	if err != nil {
		return nil, "", err
	}
	fp, err := trust.Fingerprint(env)
	return envelope.File(envelope.Root, env), fp.String(), err
}

// message returns what signs messages of the online roles.
func (s *signer) message() message.Signer {
	return message.Signer{Domain: s.domain, Epoch: 1, Key: s.key.Private}
}

// bundle signs the next bundle of set.
func (s *signer) bundle(set *policy.Set) ([]byte, error) {
	s.seq++
	b, err := policy.Encode(set)
	if err != nil {
		return nil, err
	}
	m := bundle.Manifest{
		Common:  trust.Common{Domain: s.domain, Epoch: 1, Seq: s.seq, Issued: uint64(time.Now().Unix())},
		Product: "bench", Channel: "stable", Name: "bench", Hardware: []string{"any"}, Selectors: []trust.Selector{trust.EveryDevice()},
		Activation: &bundle.Activation{Mode: bundle.Automatic, Window: 1, Attempts: 3},
	}
	var out bytes.Buffer
	_, err = write.Build(&out, write.Spec{Manifest: m, Files: []write.File{write.Bytes("policy.cbor", b)}}, s.key.Private)
	return out.Bytes(), err
}

// issuerName is the issuer of the tokens.
const issuerName = "https://issuer.bench.example"

// plenty is a limit that no run reaches.
var plenty = policy.Limit{Count: 1 << 40, Window: time.Minute}

// petOperations are operations as a real API has them; calls go to the first.
var petOperations = []string{
	"GET /pet/{id}", "PUT /pet", "POST /pet", "DELETE /pet/{id}", "GET /pet/findByStatus", "GET /pet/findByTags", "POST /pet/{id}", "POST /pet/{id}/image",
	"GET /store/inventory", "POST /store/order", "GET /store/order/{order}", "DELETE /store/order/{order}",
	"POST /user", "POST /user/list", "GET /user/login", "GET /user/logout", "GET /user/{name}", "PUT /user/{name}", "DELETE /user/{name}",
	"GET /pet/{id}/visits", "POST /pet/{id}/visits", "GET /vets", "GET /vets/{vet}", "GET /owners/{owner}", "GET /owners/{owner}/pets",
}

// scenarioSet returns the APIs of all scenarios, and others beside them up to n APIs.
func (w *world) scenarioSet(n int) (*policy.Set, error) {
	der, err := x509.MarshalPKIXPublicKey(w.issuer.Public())
	if err != nil {
		return nil, err
	}
	set := &policy.Set{
		Format: policy.Format, Name: "bench",
		Endpoints: []policy.Endpoints{{Name: "pets", Targets: []policy.Target{{URL: "http://" + w.upstream}}}},
		Issuers:   []policy.Issuer{{Name: "bench", Issuer: issuerName, Algorithms: []string{"RS256"}, Keys: []policy.Key{{PKIX: der}}, SingleKey: true}},
		Plans: []policy.Plan{
			{Kind: policy.ResourcePlan, Name: "Plenty", Limit: plenty},
			{Kind: policy.SubscriptionPlan, Name: "Gold", Limit: plenty},
			{Kind: policy.ApplicationPlan, Name: "App", Limit: plenty},
		},
		Applications: []policy.Application{{ID: "1", Name: "bench", Owner: "bench", Plan: "App", Keys: []policy.ConsumerKey{{Key: "bench-app"}}}},
	}
	add := func(name string) {
		a := policy.API{Name: name, Version: "v1", BasePath: "/" + name + "/v1", Production: 1, Schemes: []policy.Scheme{{Kind: policy.OAuth2}}}
		if strings.Contains(name, "r") {
			a.Plan = "Plenty"
		}
		if strings.Contains(name, "a") {
			set.Subscriptions = append(set.Subscriptions, policy.Subscription{Application: "1", API: policy.APIID{Name: name, Version: "v1"}, Plan: "Gold"})
		}
		for _, o := range petOperations {
			method, template, _ := strings.Cut(o, " ")
			op := policy.Operation{ID: o, Method: method, Template: template}
			if strings.Contains(name, "j") {
				op.Security = []policy.Alternative{{{Scheme: 0}}}
			}
			a.Operations = append(a.Operations, op)
		}
		set.APIs = append(set.APIs, a)
	}
	for _, s := range scenarios {
		add(strings.ToLower(s))
	}
	for i := len(set.APIs); i < n; i++ {
		add(fmt.Sprintf("j%d", i))
	}
	return set, nil
}

// A deviceSpec is how a device is configured.
type deviceSpec struct {
	name   string
	binary string // "": the one under test
	set    *policy.Set
	toml   string // more lines of its configuration
	limits limits
	env    []string
}

// device starts a device that already has its bundle, as after a reboot: it is started once
// to install root and bundle, and again to be measured.
func (w *world) device(s deviceSpec) (*gateway, error) {
	dir, err := os.MkdirTemp(w.dir, "tidegate-")
	if err != nil {
		return nil, err
	}
	plain, secure, admin := freePort(), freePort(), freePort()
	conf := fmt.Sprintf("data = %q\n[listen]\nhttp = \"127.0.0.1:%d\"\nhttps = \"127.0.0.1:%d\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n[tls]\ncert_file = %q\nkey_file = %q\nclient_auth = \"none\"\n"+
		"[admin]\nlisten = \"127.0.0.1:%d\"\n[clock]\ntrust = \"system\"\n[upstream]\nmax_idle = 1024\n%s", filepath.Join(dir, "data"), plain, secure, w.pem, w.pem, admin, s.toml)
	name := filepath.Join(dir, "tidegate.toml")
	if err := os.WriteFile(name, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	g := &gateway{can: strings.Join(scenarios, " "), plain: map[string]int{}, secure: map[string]int{}, dir: dir, admin: fmt.Sprintf("127.0.0.1:%d", admin), socket: filepath.Join(dir, "data", "admin.sock")}
	for _, sc := range scenarios {
		g.plain[sc], g.secure[sc] = plain, secure
	}
	addr := fmt.Sprintf("127.0.0.1:%d", plain)
	binary := w.tidegate
	if s.binary != "" {
		binary = s.binary
	}
	run := func(l limits) (*process, time.Duration, error) {
		p, err := startProcess(s.name, l, s.env, binary, "run", "--config", name)
		if err != nil {
			return nil, 0, err
		}
		d, err := p.waitFor(addr, []byte("GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), readyTime)
		if err != nil {
			p.stop()
		}
		return p, d, err
	}
	p, _, err := run(limits{})
	if err != nil {
		return nil, err
	}
	if err := w.install(g, s.set); err != nil {
		p.stop()
		return nil, fmt.Errorf("%s: %w: %s", s.name, err, p.out)
	}
	p.stop()
	if g.process, _, err = run(s.limits); err != nil {
		return nil, err
	}
	if g.start, err = g.process.waitFor(addr, w.request("P", ""), readyTime); err != nil {
		g.process.stop()
	}
	return g, err
}

// install gives a device its root and a bundle.
func (w *world) install(g *gateway, set *policy.Set) error {
	root, fp, err := w.signer.root()
	if err != nil {
		return err
	}
	name := filepath.Join(g.dir, "root.tide")
	if err := os.WriteFile(name, root, 0o600); err != nil {
		return err
	}
	if err := w.ask(g, "trust", "install", "--fingerprint", fp, name); err != nil {
		return err
	}
	return w.apply(g, set, false)
}

// apply signs the next bundle of set and has the device take it.
func (w *world) apply(g *gateway, set *policy.Set, noWait bool) error {
	b, err := w.signer.bundle(set)
	if err != nil {
		return err
	}
	name := filepath.Join(g.dir, fmt.Sprintf("%d.tide", w.signer.seq))
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return err
	}
	defer os.Remove(name)
	err = w.ask(g, "apply", fmt.Sprintf("--no-wait=%v", noWait), name)
	if noWait {
		return orOnTrial(err)
	}
	return err
}

// orOnTrial passes over the exit status of a command that does not wait for the verdict.
func orOnTrial(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 75 {
		return nil
	}
	return err
}

// ask runs one command of the device program.
func (w *world) ask(g *gateway, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, w.tidegate, args...)
	c.Env = append(os.Environ(), "TIDEGATE_ADMIN_SOCKET="+g.socket)
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("tidegate %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
