// Package verifier holds a second verifier of bundles, in another language, and the test
// that it and ours agree.
package verifier

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/write"
	"tidegate/sync/envelope"
	"tidegate/sync/keyfile"
	"tidegate/sync/trust"
)

// fleet is some keys and the roots they make.
type fleet struct {
	t      *testing.T
	keys   []keyfile.Key
	domain trust.Domain
	roots  [][]byte
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, domain: trust.Domain{1, 2, 3}}
	for i := range 6 {
		k, err := keyfile.Generate(fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		f.keys = append(f.keys, k)
	}
	return f
}

// role is a role of the keys with the given numbers.
func (f *fleet) role(epoch uint64, threshold int, keys ...int) trust.Role {
	r := trust.Role{Epoch: epoch, Threshold: threshold}
	for _, k := range keys {
		r.Keys = append(r.Keys, trust.Key{Name: f.keys[k].Name, Public: f.keys[k].Private.Public()})
	}
	return r
}

func (f *fleet) signers(keys ...int) []envelope.Signer {
	var out []envelope.Signer
	for _, k := range keys {
		out = append(out, f.keys[k].Private)
	}
	return out
}

// root adds a root to the chain.
func (f *fleet) root(root, release trust.Role, signers ...int) {
	f.t.Helper()
	r := &trust.Root{Domain: f.domain, Version: uint64(len(f.roots) + 1), Issued: 1_795_000_000, Roles: map[trust.RoleNumber]trust.Role{trust.RoleRoot: root, trust.RoleRelease: release}}
	payload, err := r.Marshal()
	if err != nil {
		f.t.Fatal(err)
	}
	env, err := envelope.Sign(envelope.Root, payload, f.signers(signers...)...)
	if err != nil {
		f.t.Fatal(err)
	}
	f.roots = append(f.roots, env)
}

// bundle builds a bundle that carries all roots.
func (f *fleet) bundle(signers ...int) []byte {
	f.t.Helper()
	big := bytes.Repeat([]byte("0123456789abcdef"), 70_000) // more than one chunk
	for i := range big {
		big[i] ^= byte(i * 2654435761 >> 13) // that does not shrink
	}
	var out bytes.Buffer
	_, err := write.Build(&out, write.Spec{
		Manifest: bundle.Manifest{
			Common:  trust.Common{Domain: f.domain, Epoch: 1, Seq: 7, Issued: 1_795_000_000},
			Product: "p", Channel: "c", Name: "n", Hardware: []string{"any"}, Selectors: []trust.Selector{trust.EveryDevice()},
		},
		Files: []write.File{write.Bytes("policy.cbor", []byte("hello hello hello hello hello hello")), write.Bytes("big", big), write.Bytes("copy", big), write.Bytes("empty", nil)},
		Roots: f.roots,
	}, f.signers(signers...)...)
	if err != nil {
		f.t.Fatal(err)
	}
	return out.Bytes()
}

// ours returns the word of our verifier.
func ours(t *testing.T, file, root []byte) string {
	t.Helper()
	state, _, err := trust.Pin(root, 1_794_000_000)
	if err == nil {
		_, _, err = write.Verify(context.Background(), bytes.NewReader(file), state)
	}
	if err == nil {
		return "OK"
	}
	w, ok := refusal.Of(err)
	if !ok {
		t.Fatalf("an error without a word: %v", err)
	}
	return string(w)
}

// row is one file and the root it is judged by.
type row struct {
	name       string
	file, root []byte
	want       string // "" for whatever both say
}

// theirs returns the words of the other verifier.
func theirs(t *testing.T, python string, rows []row) []string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"verify_bundle.py"}
	for i, r := range rows {
		a, b := filepath.Join(dir, fmt.Sprintf("%d.tide", i)), filepath.Join(dir, fmt.Sprintf("%d.tideroot", i))
		for name, data := range map[string][]byte{a: r.file, b: r.root} {
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		args = append(args, a, b)
	}
	cmd := exec.Command(python, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, _ := cmd.Output() // the exit code repeats the last word
	var words []string
	for line := range bytes.Lines(out) {
		var v struct{ Word string }
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatal(err)
		}
		words = append(words, v.Word)
	}
	if len(words) != len(rows) {
		t.Fatalf("%d words for %d files (%s)\n%s", len(words), len(rows), rows[len(words)].name, stderr.String())
	}
	return words
}

func TestBothVerifiersAgree(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 on this machine")
	}
	f := newFleet(t)
	f.root(f.role(1, 2, 0, 1, 2), f.role(1, 1, 3), 0, 1)
	first := envelope.File(envelope.Root, f.roots...)
	f.root(f.role(1, 2, 0, 1, 5), f.role(1, 2, 3, 4), 0, 1)
	good := f.bundle(3, 4)

	g := newFleet(t)
	g.root(g.role(1, 1, 0), g.role(1, 1, 3), 0)
	foreign := envelope.File(envelope.Root, g.roots...)

	lone := newFleet(t)
	lone.keys = f.keys
	lone.root(f.role(1, 2, 0, 1, 2), f.role(1, 1, 3), 0, 1)
	lone.root(f.role(1, 2, 0, 1, 5), f.role(1, 2, 3, 4), 5, 1) // not by two of the old keys

	rows := []row{
		{"whole", good, first, "OK"},
		{"one of two release keys", f.bundle(3), first, "E_SIG_THRESHOLD"},
		{"a key of nobody", f.bundle(3, 2), first, "E_SIG_THRESHOLD"},
		{"another fleet", good, foreign, ""},
		{"a root that does not follow", lone.bundle(3, 4), first, "E_ROOT_CHAIN"},
		{"empty", nil, first, "E_FORMAT"},
		{"not a bundle", []byte("PK\x03\x04 and more"), first, "E_FORMAT"},
		{"a root file", first, first, "E_FORMAT"},
		{"one byte more", append(good[:len(good):len(good)], 0), first, "E_TRAILING"},
	}
	// Cuts and flipped bits all over the file; most of it is content, so the head gets more.
	head := bytes.Index(good, []byte("tidegate.manifest"))
	step := max(len(good)/12, 1)
	for at := 5; at < len(good); at += step {
		rows = append(rows, row{fmt.Sprintf("cut at %d", at), good[:at], first, ""})
	}
	for at := 0; at < head+900; at += 61 {
		flipped := bytes.Clone(good)
		flipped[at] ^= 1 << (at % 8)
		rows = append(rows, row{fmt.Sprintf("bit flipped at %d", at), flipped, first, ""})
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-9] ^= 4
	rows = append(rows, row{"bit flipped in the last chunk", flipped, first, "E_DIGEST"})
	accepted := 0
	other := theirs(t, python, rows)
	for i, r := range rows {
		a, b := ours(t, r.file, r.root), other[i]
		if r.want != "" && a != r.want {
			t.Errorf("%s: ours says %s, want %s", r.name, a, r.want)
		}
		// Both must refuse, and for a like reason: which of two faults in one broken file is met
		// first may differ, so the class of the word is what must be equal.
		if (a == "OK") != (b == "OK") || refusal.Word(a).Exit() != refusal.Word(b).Exit() {
			t.Errorf("%s: ours says %s, the other %s", r.name, a, b)
		}
		if a == "OK" {
			accepted++
		}
	}
	// A flipped bit in a signature of the root that is pinned already changes nothing.
	if accepted == 0 || accepted > len(rows)/4 {
		t.Errorf("%d of %d files accepted", accepted, len(rows))
	}
}
