// Package bundletest makes trust roots, bundles and enrolments for tests: a fleet with keys
// that are the same in every run.
package bundletest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"testing"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/write"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
)

// Issued is when everything of a fleet is issued unless a test says otherwise: 15 January
// 2027, in seconds since 1970.
const Issued = 1_800_000_000

// Key returns signing key number n.
func Key(n int) envelope.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "tidegate test key %d", n))
	return envelope.PrivateKey(ed25519.NewKeyFromSeed(seed[:]))
}

// A Fleet is a trust root and what hangs on it. Root keys are 0, 1 and 2 with threshold 2,
// release keys 10, 11 and 12 with threshold 2.
type Fleet struct {
	Domain trust.Domain
	Root   *trust.Root // the newest
	Roots  [][]byte    // signed, oldest first

	rootKeys, releaseKeys []int
}

// New returns a fleet with root 1. Fleets of different names have different trust domains.
func New(t testing.TB, name string) *Fleet {
	t.Helper()
	sum := sha256.Sum256([]byte("tidegate test fleet " + name))
	f := &Fleet{Domain: trust.Domain(sum[:16]), rootKeys: []int{0, 1, 2}, releaseKeys: []int{10, 11, 12}}
	f.Root = &trust.Root{
		Domain: f.Domain, Version: 1, Issued: Issued,
		Roles: map[trust.RoleNumber]trust.Role{
			trust.RoleRoot:    role(1, 2, f.rootKeys),
			trust.RoleRelease: role(1, 2, f.releaseKeys),
		},
	}
	f.sign(t, 0, 1)
	return f
}

func role(epoch uint64, threshold int, keys []int) trust.Role {
	r := trust.Role{Epoch: epoch, Threshold: threshold}
	for _, n := range keys {
		r.Keys = append(r.Keys, trust.Key{Name: fmt.Sprintf("key %d", n), Public: Key(n).Public()})
	}
	return r
}

// Signers returns the keys with the given numbers as signers.
func Signers(keys ...int) []envelope.Signer {
	var all []envelope.Signer
	for _, n := range keys {
		all = append(all, Key(n))
	}
	return all
}

func (f *Fleet) sign(t testing.TB, keys ...int) {
	t.Helper()
	payload, err := f.Root.Marshal()
	if err != nil {
		t.Fatalf("root %d: %v", f.Root.Version, err)
	}
	env, err := envelope.Sign(envelope.Root, payload, Signers(keys...)...)
	if err != nil {
		t.Fatalf("root %d: %v", f.Root.Version, err)
	}
	f.Roots = append(f.Roots, env)
}

// Rotate adds the next root, changed by change and signed by root keys 0 and 1.
func (f *Fleet) Rotate(t testing.TB, change func(*trust.Root)) {
	t.Helper()
	next := *f.Root
	next.Version++
	next.Issued++
	next.Roles = make(map[trust.RoleNumber]trust.Role)
	for n, r := range f.Root.Roles {
		next.Roles[n] = r
	}
	if change != nil {
		change(&next)
	}
	next.SortSets()
	f.Root = &next
	f.sign(t, 0, 1)
}

// RootFile returns a .tideroot file with the roots from version on.
func (f *Fleet) RootFile(from int) []byte {
	return envelope.File(envelope.Root, f.Roots[from-1:]...)
}

// Spec returns the spec of a bundle for every device of product "gate", channel "stable":
// its content is policy.cbor with the sequence number in it, and a larger file.
func (f *Fleet) Spec(seq uint64) write.Spec {
	return write.Spec{
		Manifest: bundle.Manifest{
			Common:  trust.Common{Domain: f.Domain, Epoch: f.Root.Roles[trust.RoleRelease].Epoch, Seq: seq, Issued: Issued + seq},
			Product: "gate", Channel: "stable", Name: "plant", Version: fmt.Sprintf("1.0.%d", seq),
			Hardware: []string{"any"}, Selectors: []trust.Selector{trust.EveryDevice()},
		},
		Files: []write.File{
			write.Bytes("policy.cbor", fmt.Appendf(nil, "policy of bundle %d", seq)),
			write.Bytes("schemas/common.json", bytes.Repeat([]byte("{\"type\":\"object\"}\n"), 1000)),
		},
	}
}

// Bundle returns bundle seq, changed by change, signed by release keys 10 and 11.
func (f *Fleet) Bundle(t testing.TB, seq uint64, change func(*write.Spec)) []byte {
	t.Helper()
	s := f.Spec(seq)
	if change != nil {
		change(&s)
	}
	return Build(t, s, 10, 11)
}

// Build returns the bundle of s signed by the given keys.
func Build(t testing.TB, s write.Spec, keys ...int) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := write.Build(&b, s, Signers(keys...)...); err != nil {
		t.Fatalf("build bundle %d: %v", s.Manifest.Seq, err)
	}
	return b.Bytes()
}

// Forge returns a bundle file with the given signed objects, and the chunks as they are:
// what no tool of ours would write.
func Forge(roots [][]byte, manifest []byte, chunks ...[]byte) []byte {
	return forge(roots, manifest, chunks)
}

// Enrolment returns a .tidedevice file for the device with report key number key.
func (f *Fleet) Enrolment(t testing.TB, key int, seq uint64, change func(*trust.Enrolment)) []byte {
	t.Helper()
	e := &trust.Enrolment{
		Domain: f.Domain, Epoch: f.Root.Roles[trust.RoleRelease].Epoch, Seq: seq, Issued: Issued,
		Product: "gate", Channel: "stable", Report: Key(key).Public(),
		Seal:   []trust.SealKey{{KEM: 0x20, Public: make([]byte, 32)}},
		Device: trust.DeviceIDOf(Key(key).Public()), Name: "a device",
	}
	if change != nil {
		change(e)
	}
	payload, err := e.Marshal()
	if err != nil {
		t.Fatalf("enrolment: %v", err)
	}
	env, err := envelope.Sign(envelope.Device, payload, Signers(10, 11)...)
	if err != nil {
		t.Fatalf("enrolment: %v", err)
	}
	return envelope.File(envelope.Device, env)
}
