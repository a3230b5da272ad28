package trust

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
)

// script reads small numbers from the bytes of a fuzzer, zeros at the end.
type script struct{ b []byte }

func (s *script) n(limit int) int {
	if len(s.b) == 0 {
		return 0
	}
	n := int(s.b[0]) % limit
	s.b = s.b[1:]
	return n
}

// some returns a choice among the test keys 0 to 4, never empty.
func (s *script) some() []int {
	bits := s.n(32)
	var in []int
	for k := range 5 {
		if bits>>k&1 == 1 {
			in = append(in, k)
		}
	}
	if len(in) == 0 {
		in = []int{0}
	}
	return in
}

// among counts the keys of the root role that are in by.
func among(r *Root, by []int) int {
	n := 0
	for _, k := range r.Roles[RoleRoot].Keys {
		for _, b := range by {
			if k.Public == signer(b).Public() {
				n++
			}
		}
	}
	return n
}

// FuzzChain drives a device with roots of all kinds, bundles and restarts, and
// compares each step with what the rules say in a few lines.
func FuzzChain(f *testing.F) {
	f.Add([]byte{0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 1, 7, 0, 2, 0, 0, 0, 0})
	f.Add([]byte{0, 1, 3, 1, 3, 1, 1, 5, 1, 2, 9, 0, 1, 7, 2, 7, 0, 0, 0, 2, 1, 1})
	f.Add([]byte("rotate, revoke, cut, restart, confirm, and all of it once more"))
	f.Fuzz(drive)
}

// TestChainAgainstRules runs what FuzzChain runs on a few scripts drawn by lot.
func TestChainAgainstRules(t *testing.T) {
	for seed := range uint64(40) {
		b := make([]byte, 160)
		lot := rand.New(rand.NewPCG(seed, 1))
		for i := range b {
			b[i] = byte(lot.Uint32())
		}
		drive(t, b)
	}
}

// drive runs one script: roots, bundles, restarts and failures on one device.
func drive(t *testing.T, b []byte) {
	in := &script{b[:min(len(b), 256)]}
	s := pinned(t, root(1), 0)
	for len(in.b) > 0 {
		switch in.n(6) {
		case 0, 1, 2:
			s = driveRoot(t, s, in)
		case 3:
			o := with(offer(uint64(in.n(8)), byte(in.n(4)+1)), func(o *Offer) { o.Epoch = uint64(in.n(3)) })
			s = driveOffer(t, s, o, in.n(2) == 0)
		case 4:
			s = reload(t, s)
		case 5:
			next := s.Fail(offer(uint64(in.n(8)), byte(in.n(4)+1)), refusal.Health)
			if next.Floor() != s.Floor() {
				t.Fatal("a failure moved the floor")
			}
			s = next
		}
	}
}

func driveRoot(t *testing.T, s State, in *script) State {
	old := s.Root()
	role := in.some()
	next := root(old.Version + uint64(in.n(3))).with(func(r *Root) {
		r.Roles[RoleRoot] = keys(1+in.n(len(role)), role...)
		epoch(RoleRelease, uint64(in.n(3)))(r)
		if m := in.n(4); m > 0 {
			r.Minimums = []Minimum{{Product: "gate", Channel: "stable", Seq: uint64(m)}}
		}
	})
	by := in.some()
	before := record(t, s)
	got, _, err := s.AddRoot(seal(t, next, by...))
	if err != nil {
		if _, ok := refusal.Of(err); !ok {
			t.Fatalf("error without a word: %v", err)
		}
		if record(t, got) != before {
			t.Fatalf("refused (%v), and yet the state changed", err)
		}
	}
	was, is := old.Minimum("gate", "stable"), next.Minimum("gate", "stable")
	mayStep := next.Version == old.Version+1 &&
		among(old, by) >= old.Roles[RoleRoot].Threshold &&
		among(next, by) >= next.Roles[RoleRoot].Threshold &&
		next.Roles[RoleRelease].Epoch >= old.Roles[RoleRelease].Epoch &&
		is.Seq >= was.Seq
	if stepped := got.Root().Version == old.Version+1; stepped != mayStep {
		t.Fatalf("stepped %v, want %v: from %+v to %+v signed by %v: %v", stepped, mayStep, old, next, by, err)
	}
	if mayStep && got.Floor().Unix < s.Floor().Unix && next.Roles[RoleRelease].Epoch == old.Roles[RoleRelease].Epoch {
		t.Fatal("the floor fell without a new epoch")
	}
	return got
}

func driveOffer(t *testing.T, s State, o Offer, confirm bool) State {
	before := record(t, s)
	verdict, _, err := s.Judge(o, device, Moment{Floor: s.Floor().Unix})
	if record(t, s) != before {
		t.Fatal("a judgement changed the state")
	}
	if (verdict == Refused) != (err != nil) {
		t.Fatalf("verdict %q beside %v", verdict, err)
	}
	if verdict != Install && verdict != Reinstall {
		return s
	}
	had, any := s.Confirmed(o.Product, o.Channel)
	m := s.Root().Minimum(o.Product, o.Channel)
	if any && comparePair(o.Epoch, o.Seq, had.Epoch, had.Seq) < 0 || comparePair(o.Epoch, o.Seq, m.Epoch, m.Seq) < 0 {
		t.Fatalf("bundle (%d, %d) after %+v with minimum %+v", o.Epoch, o.Seq, had, m)
	}
	if any && had.sameNumber(o.Line()) && had.Digest != o.Digest {
		t.Fatalf("two contents under %d", o.Seq)
	}
	next := s.Try(o)
	if !confirm {
		return next.Fail(o, refusal.Health)
	}
	next = next.Confirm(o)
	if next.Floor().Unix < s.Floor().Unix {
		t.Fatal("the floor fell")
	}
	return next
}

// reload stores the state, loads it again and wants it to be the same.
func reload(t *testing.T, s State) State {
	b := record(t, s)
	got, err := Load([]byte(b), s.Roots(), built)
	if err != nil {
		t.Fatal(err)
	}
	if record(t, got) != b {
		t.Fatalf("stored %x, loaded %x", b, record(t, got))
	}
	return got
}

// FuzzEnrolment shows that what parses has one encoding.
func FuzzEnrolment(f *testing.F) {
	f.Add(enrolment(f, nil))
	f.Add(enrolment(f, func(e *Enrolment) { e.Hardware, e.Labels, e.Name, e.Expires = []string{"a"}, nil, "", 9 }))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEnrolment(b)
		if err != nil {
			return
		}
		again, err := e.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("parsed %x, encodes to %x, %v", b, again, err)
		}
	})
}

func BenchmarkVerifyManifest(b *testing.B) {
	s := pinned(b, root(1).with(func(r *Root) { r.Roles[RoleRelease] = keys(2, 20, 21, 22) }), 0)
	env := sign(b, envelope.Manifest, object(b, Common{Type: "manifest", Domain: domain, Seq: 1}), 20, 22)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := s.Verify(RoleRelease, envelope.Manifest, env); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAddRoot(b *testing.B) {
	s := pinned(b, root(1).with(func(r *Root) { r.Roles[RoleRoot] = keys(2, 0, 1, 2) }), 0, 1)
	env := seal(b, root(2).with(func(r *Root) { r.Roles[RoleRoot] = keys(2, 0, 1, 2) }), 0, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := s.AddRoot(env); err != nil {
			b.Fatal(err)
		}
	}
}
