// Package mqttsynctest makes the two ends of a link for tests and for the programs under
// scripts: a fleet with its keys, devices with a real desk and a real queue, a broker in this
// process, and a link that fails on demand. No program of the product links it.
package mqttsynctest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/write"
	"tidegate/sync/envelope"
	"tidegate/sync/fleet"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
	"time"
)

// Issued is when everything of a fleet is issued: 15 January 2027, in seconds since 1970.
const Issued = 1_800_000_000

// Name is the name of every fleet in topics.
const Name message.Fleet = "acme"

// Key returns a signing key that is the same in every run.
func Key(name string) envelope.PrivateKey {
	seed := sha256.Sum256([]byte("tidegate link test key " + name))
	return envelope.PrivateKey(ed25519.NewKeyFromSeed(seed[:]))
}

// A Fleet is a trust root and who signs under it.
type Fleet struct {
	Domain   trust.Domain
	State    trust.State
	RootFile []byte

	mu      sync.Mutex
	devices map[trust.DeviceID]*trust.Enrolment
}

// NewFleet returns a fleet whose root has every role, or the roles given.
func NewFleet(roles ...trust.RoleNumber) (*Fleet, error) {
	if len(roles) == 0 {
		roles = []trust.RoleNumber{trust.RoleRoot, trust.RoleRelease, trust.RoleTime, trust.RoleCollector}
	}
	sum := sha256.Sum256([]byte("tidegate link test fleet"))
	f := &Fleet{Domain: trust.Domain(sum[:16]), devices: map[trust.DeviceID]*trust.Enrolment{}}
	r := &trust.Root{Domain: f.Domain, Version: 1, Issued: Issued, Roles: map[trust.RoleNumber]trust.Role{}}
	for _, n := range roles {
		r.Roles[n] = trust.Role{Epoch: 1, Threshold: 1, Keys: []trust.Key{{Name: n.String(), Public: Key(n.String()).Public()}}}
	}
	payload, err := r.Marshal()
	if err != nil {
		return nil, err
	}
	env, err := envelope.Sign(envelope.Root, payload, Key("root"))
	if err != nil {
		return nil, err
	}
	f.RootFile = envelope.File(envelope.Root, env)
	f.State, err = fleet.Believe(f.RootFile)
	return f, err
}

// Signer returns the signer of an online role.
func (f *Fleet) Signer(role trust.RoleNumber) message.Signer {
	return message.Signer{Domain: f.Domain, Epoch: 1, Key: Key(role.String())}
}

// Know enrols a device in the fleet's directory, without a file.
func (f *Fleet) Know(key envelope.PublicKey) trust.DeviceID {
	id := trust.DeviceIDOf(key)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.devices[id] = &trust.Enrolment{Domain: f.Domain, Epoch: 1, Seq: 1, Product: "gate", Channel: "stable", Report: key, Device: id}
	return id
}

// Device implements fleet.Directory.
func (f *Fleet) Device(id trust.DeviceID) (*trust.Enrolment, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.devices[id]
	return e, ok
}

// All implements fleet.Directory.
func (f *Fleet) All(yield func(*trust.Enrolment) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.devices {
		if !yield(e) {
			return
		}
	}
}

// Bundle returns bundle seq for every device, with about size bytes of content that does not
// compress.
func (f *Fleet) Bundle(seq uint64, size int, change func(*bundle.Manifest)) ([]byte, error) {
	noise := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seq)}).Read(noise) //nolint:errcheck // never fails
	m := bundle.Manifest{
		Common:  trust.Common{Domain: f.Domain, Epoch: 1, Seq: seq, Issued: Issued + seq},
		Product: "gate", Channel: "stable", Name: "plant", Version: fmt.Sprintf("1.0.%d", seq),
		Hardware: []string{"any"}, Selectors: []trust.Selector{trust.EveryDevice()},
		Activation: &bundle.Activation{Mode: bundle.Automatic, Window: 1, Attempts: 3},
	}
	if change != nil {
		change(&m)
	}
	files := []write.File{write.Bytes("noise.bin", noise), write.Bytes("policy.cbor", fmt.Appendf(nil, "policy of bundle %d", seq))}
	var out bytes.Buffer
	_, err := write.Build(&out, write.Spec{Manifest: m, Files: files}, Key("release"))
	return out.Bytes(), err
}

// Publish returns a bundle ready to be published. It lies in dir.
func (f *Fleet) Publish(dir string, b []byte) (*fleet.Published, error) {
	sum := sha256.Sum256(b)
	name := filepath.Join(dir, fmt.Sprintf("%x.tide", sum[:8]))
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return nil, err
	}
	return fleet.OpenBundle(name, f.State)
}

// Now is a time at which everything of a fleet is valid.
func Now() time.Time { return time.Unix(Issued+86400, 0).UTC() }
