package trust

import (
	"bytes"
	"errors"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
)

func TestPin(t *testing.T) {
	two := root(7).with(func(r *Root) { r.Roles[RoleRoot] = keys(2, 0, 1, 2) })
	late := root(7).with(func(r *Root) { r.Issued = built + 11*year })
	for _, v := range []struct {
		name   string
		file   []byte
		built  uint64
		word   refusal.Word
		reason string
	}{
		{"any version", envelope.File(envelope.Root, seal(t, two, 0, 2)), built, "", ""},
		{"own threshold not met", envelope.File(envelope.Root, seal(t, two, 0, 3)), built, refusal.RootChain, "1 of 2 keys"},
		{"issued implausibly late", envelope.File(envelope.Root, seal(t, late, 0)), built, refusal.TimeJump, "10 years"},
		{"build time unknown", envelope.File(envelope.Root, seal(t, late, 0)), 0, "", ""},
		{"a bundle", []byte("\xd9\xd9\xf7\x82\x6btide-bundle\x01"), built, refusal.Format, "magic: a tide-bundle file"},
		{"no root in it", envelope.File(envelope.Root), built, refusal.Truncated, "before the first root"},
		{"a manifest in it", envelope.File(envelope.Root, sign(t, envelope.Manifest, []byte{0xa0}, 0)), built, refusal.Format, "type: content type"},
	} {
		t.Run(v.name, func(t *testing.T) {
			s, r, err := Pin(v.file, v.built)
			wantRefusal(t, err, v.word, v.reason)
			if err == nil && (r.Version != 7 || s.Root() != r || len(s.Roots()) != 1) {
				t.Errorf("pinned root %d of %d", r.Version, len(s.Roots()))
			}
		})
	}
}

func TestWithoutARoot(t *testing.T) {
	var s State
	_, _, err := s.AddRoot(seal(t, root(1), 0))
	wantRefusal(t, err, refusal.RootNone, "no trust root")
	_, _, err = s.Verify(RoleRelease, envelope.Manifest, nil)
	wantRefusal(t, err, refusal.RootNone, "no trust root")
	_, _, err = s.Judge(offer(1, 1), device, Moment{})
	wantRefusal(t, err, refusal.RootNone, "no trust root")
	_, err = s.Attest(0, 1)
	wantRefusal(t, err, refusal.RootNone, "no trust root")
	wantRefusal(t, s.Allowed(Line{}), refusal.RootNone, "no trust root")
}

// TestOneStep offers one root to a device at root 5 and compares every rule of a step.
func TestOneStep(t *testing.T) {
	base := root(5).with(func(r *Root) {
		r.Roles[RoleRoot] = keys(2, 0, 1, 2)
		r.Minimums = []Minimum{{Product: "gate", Channel: "stable", Epoch: 3, Seq: 40}}
		epoch(RoleRelease, 3)(r)
		epoch(RoleTime, 2)(r)
	})
	s := pinned(t, base, 0, 1)
	next := base.with(func(r *Root) { r.Version, r.Issued = 6, r.Issued+day })
	minimum := func(m ...Minimum) func(*Root) { return func(r *Root) { r.Minimums = m } }
	for _, v := range []struct {
		name   string
		change func(*Root)
		by     []int
		word   refusal.Word
		reason string
	}{
		{"as it should be", func(*Root) {}, []int{0, 1}, "", ""},
		{"1 of 2 old keys", func(*Root) {}, []int{0}, refusal.RootChain, "old keys: 1 of 2 keys"},
		{"C10 by others only", func(*Root) {}, []int{7, 8}, refusal.RootChain, "old keys: 0 of 2 keys"},
		{"C12 one new key short", func(r *Root) { r.Roles[RoleRoot] = keys(3, 0, 1, 2, 3) }, []int{0, 1}, refusal.RootChain, "old keys: 2 of 2 keys; new keys: 2 of 3 keys"},
		{"C16 gap", func(r *Root) { r.Version = 7 }, []int{0, 1}, refusal.RootChain, "root 7 does not follow root 5"},
		{"other domain, our keys", func(r *Root) { r.Domain = Domain{'x'} }, []int{0, 1}, refusal.TrustDomain, "belongs to trust domain 78"},
		{"other domain, other keys", func(r *Root) { r.Domain = Domain{'x'} }, []int{7}, refusal.TrustDomain, "belongs to trust domain 78"},
		{"other domain, other keys, version 1", func(r *Root) { r.Domain, r.Version = Domain{'x'}, 1 }, []int{7}, refusal.TrustDomain, ""},
		{"other domain, too few of our keys", func(r *Root) { r.Domain = Domain{'x'} }, []int{0}, refusal.RootChain, "1 of 2"},
		{"release epoch falls", func(r *Root) {
			epoch(RoleRelease, 2)(r)
			r.Minimums = []Minimum{{Product: "gate", Channel: "stable", Epoch: 2, Seq: 40}}
		}, []int{0, 1}, refusal.Root, "epoch 2 of role release is lower than 3"},
		{"time epoch falls", epoch(RoleTime, 1), []int{0, 1}, refusal.Root, "epoch 1 of role time is lower than 2"},
		{"epoch rises", epoch(RoleRelease, 9), []int{0, 1}, "", ""},
		{"a role is gone", func(r *Root) { delete(r.Roles, RoleTime) }, []int{0, 1}, "", ""},
		{"minimum gone", minimum(), []int{0, 1}, refusal.Root, "minimum of gate, stable is lower than (3, 40) or gone"},
		{"minimum of another channel only", minimum(Minimum{Product: "gate", Channel: "beta", Epoch: 3, Seq: 90}), []int{0, 1}, refusal.Root, "or gone"},
		{"minimum seq falls", minimum(Minimum{Product: "gate", Channel: "stable", Epoch: 3, Seq: 39}), []int{0, 1}, refusal.Root, "is lower than (3, 40)"},
		{"minimum epoch falls", minimum(Minimum{Product: "gate", Channel: "stable", Epoch: 2, Seq: 90}), []int{0, 1}, refusal.Root, "is lower than (3, 40)"},
		{"minimum epoch rises, seq falls", func(r *Root) {
			epoch(RoleRelease, 4)(r)
			r.Minimums = []Minimum{{Product: "gate", Channel: "stable", Epoch: 4}}
		}, []int{0, 1}, "", ""},
		{"one more minimum", minimum(Minimum{Product: "gate", Channel: "beta"}, Minimum{Product: "gate", Channel: "stable", Epoch: 3, Seq: 40}), []int{0, 1}, "", ""},
		{"issued in 10 years", func(r *Root) { r.Issued = base.Issued + 10*year }, []int{0, 1}, "", ""},
		{"D14 issued a second later", func(r *Root) { r.Issued = base.Issued + 10*year + 1 }, []int{0, 1}, refusal.TimeJump, "10 years"},
		{"issued earlier", func(r *Root) { r.Issued = 1 }, []int{0, 1}, "", ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			before := record(t, s)
			got, _, err := s.AddRoot(seal(t, next.with(v.change), v.by...))
			wantRefusal(t, err, v.word, v.reason)
			switch {
			case err != nil && record(t, got) != before:
				t.Error("refused, and yet the state changed")
			case err == nil && got.Root().Version != 6:
				t.Errorf("accepted, and yet at root %d", got.Root().Version)
			case err == nil && got.Generation() != s.Generation()+1:
				t.Errorf("generation %d after %d", got.Generation(), s.Generation())
			}
		})
	}
}

// An epoch must not fall by way of a root in which the role is missing.
func TestEpochIsRememberedWhileARoleIsGone(t *testing.T) {
	s := pinned(t, root(1).with(epoch(RoleTime, 5)), 0)
	s = follow(t, s, root(2).with(func(r *Root) { delete(r.Roles, RoleTime) }), 0)
	_, _, err := s.AddRoot(seal(t, root(3).with(epoch(RoleTime, 4)), 0))
	wantRefusal(t, err, refusal.Root, "epoch 4 of role time is lower than 5")
	follow(t, s, root(3).with(epoch(RoleTime, 5)), 0)
}

func TestSignatureOfOldKeysComesBeforeContent(t *testing.T) {
	s := pinned(t, root(1), 0)
	payload, err := root(2).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	// The release role's threshold becomes 0: content that nobody signed is not judged.
	broken := bytes.Replace(payload, []byte{0x02, 0xa3, 0x01, 0x00, 0x02, 0x01}, []byte{0x02, 0xa3, 0x01, 0x00, 0x02, 0x00}, 1)
	if bytes.Equal(broken, payload) {
		t.Fatal("the payload has no release role to break")
	}
	_, _, err = s.AddRoot(sign(t, envelope.Root, broken, 9))
	wantRefusal(t, err, refusal.RootChain, "old keys: 0 of 1")
	_, _, err = s.AddRoot(sign(t, envelope.Root, broken, 0))
	wantRefusal(t, err, refusal.Root, "threshold 0")
}

func TestRootsTheDeviceHas(t *testing.T) {
	s := pinned(t, root(3), 0)
	four := root(4).with(func(r *Root) { r.Roles[RoleRoot] = keys(1, 0, 1) })
	s = follow(t, s, four, 0)
	s = follow(t, s, root(5), 0)
	other := func(r *Root) *Root { return r.with(func(r *Root) { r.Issued++ }) }
	for _, v := range []struct {
		name   string
		env    []byte
		word   refusal.Word
		reason string
	}{
		{"the newest", seal(t, root(5), 0), "", ""},
		{"an earlier one", seal(t, four, 0), "", ""},
		{"the pinned one", seal(t, root(3), 0), "", ""},
		{"the same with another signature", seal(t, four, 0, 1), "", ""},
		{"the same with no good signature", seal(t, four, 9), "", ""},
		{"from before the pin", seal(t, root(2), 9), "", ""},
		{"D3 another 4, signed by 3", seal(t, other(four), 0), refusal.Equivocation, "another root 4 was signed by root 3"},
		{"another 5, signed by 4", seal(t, other(root(5)), 1), refusal.Equivocation, "another root 5 was signed by root 4"},
		{"another 5, signed by nobody we know", seal(t, other(root(5)), 9), refusal.RootChain, "another root 5"},
		{"another 3, and 2 is unknown", seal(t, other(root(3)), 0), refusal.RootChain, "another root 3"},
	} {
		t.Run(v.name, func(t *testing.T) {
			got, _, err := s.AddRoot(v.env)
			wantRefusal(t, err, v.word, v.reason)
			if record(t, got) != record(t, s) {
				t.Error("the state changed")
			}
		})
	}
}

func TestC16OrderInAFile(t *testing.T) {
	env := make([][]byte, 9)
	for n := uint64(1); n < 9; n++ {
		env[n] = seal(t, root(n), 0)
	}
	for _, v := range []struct {
		name   string
		file   [][]byte
		at     uint64 // root in the end
		word   refusal.Word
		reason string
	}{
		{"rising", [][]byte{env[3], env[4], env[5]}, 5, "", ""},
		{"with known ones before", [][]byte{env[1], env[2], env[3], env[4]}, 4, "", ""},
		{"only known ones", [][]byte{env[1], env[2]}, 2, "", ""},
		{"none", nil, 2, "", ""},
		{"gap", [][]byte{env[3], env[5]}, 3, refusal.RootChain, "root 5 follows root 3"},
		{"gap before the first", [][]byte{env[4], env[5]}, 2, refusal.RootChain, "root 4 does not follow root 2"},
		{"repeat", [][]byte{env[3], env[3]}, 3, refusal.RootChain, "root 3 follows root 3"},
		{"descent", [][]byte{env[3], env[2]}, 3, refusal.RootChain, "root 2 follows root 3"},
		{"descent among known ones", [][]byte{env[2], env[1]}, 2, refusal.RootChain, "root 1 follows root 2"},
	} {
		t.Run(v.name, func(t *testing.T) {
			s := follow(t, pinned(t, root(1), 0), root(2), 0)
			kept := s.Root().Version
			got, _, err := s.AddRoots(v.file, built, func(s State) error {
				kept++
				return nil
			})
			wantRefusal(t, err, v.word, v.reason)
			if got.Root().Version != v.at || kept != v.at {
				t.Errorf("at root %d, kept up to %d, want %d", got.Root().Version, kept, v.at)
			}
		})
	}
}

// TestC20CutBetweenRoots keeps each root before the next is looked at, and goes on
// from the last that was kept.
func TestC20CutBetweenRoots(t *testing.T) {
	var file [][]byte
	for n := uint64(2); n <= 6; n++ {
		file = append(file, seal(t, root(n), 0))
	}
	for cut := range len(file) {
		kept := pinned(t, root(1), 0)
		power := errors.New("power cut")
		n := 0
		keep := func(s State) error {
			if n == cut {
				return power
			}
			if s.Root().Version != kept.Root().Version+1 {
				t.Fatalf("root %d was offered to keep after root %d", s.Root().Version, kept.Root().Version)
			}
			kept = s
			n++
			return nil
		}
		got, _, err := kept.AddRoots(file, built, keep)
		if !errors.Is(err, power) || got.Root().Version != uint64(cut+1) || kept.Root().Version != uint64(cut+1) {
			t.Fatalf("cut at %d: %v, at root %d, kept %d", cut, err, got.Root().Version, kept.Root().Version)
		}
		b, err := kept.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Load(b, kept.Roots(), built)
		if err != nil {
			t.Fatal(err)
		}
		end, _, err := again.AddRoots(file, built, func(State) error { return nil })
		if err != nil || end.Root().Version != 6 {
			t.Fatalf("after a cut at %d: %v, at root %d", cut, err, end.Root().Version)
		}
	}
}

func TestC17ExpiredRoots(t *testing.T) {
	expired := func(n uint64) []byte {
		return seal(t, root(n).with(func(r *Root) { r.Expires = built + 30*day }), 0)
	}
	s := pinned(t, root(1), 0)
	none := func(State) error { return nil }
	const late = built + 31*day

	_, w, err := s.AddRoots([][]byte{expired(2), seal(t, root(3), 0)}, late, none)
	wantRefusal(t, err, "", "")
	wantWarnings(t, w)

	s, w, err = s.AddRoots([][]byte{expired(2), expired(3)}, late, none)
	wantRefusal(t, err, "", "")
	wantWarnings(t, w, refusal.WarnRootExpired)
	wantWarnings(t, s.RootExpiry(built+30*day))
}

func TestC18Limits(t *testing.T) {
	s := pinned(t, root(1), 0)
	var many [][]byte
	for n := uint64(2); n <= 34; n++ {
		many = append(many, seal(t, root(n), 0))
	}
	none := func(State) error { return nil }
	got, _, err := s.AddRoots(many, built, none)
	wantRefusal(t, err, refusal.Limit, "33 roots")
	if got.Root().Version != 1 {
		t.Errorf("at root %d, want 1", got.Root().Version)
	}
	if got, _, err = s.AddRoots(many[:32], built, none); err != nil || got.Root().Version != 33 {
		t.Errorf("32 roots: %v", err)
	}

	// A root padded by extensions to exactly 16 KiB, and to one byte more.
	padded := func(n int) []byte {
		return seal(t, root(2).with(func(r *Root) { r.Extensions = map[uint64][]byte{1: make([]byte, n)} }), 0)
	}
	rest := MaxRoot - (len(padded(10000)) - 10000)
	if _, _, err := s.AddRoot(padded(rest)); err != nil {
		t.Errorf("%d bytes: %v", len(padded(rest)), err)
	}
	_, _, err = s.AddRoot(padded(rest + 1))
	wantRefusal(t, err, refusal.Limit, "root of 16385 bytes")
}

func TestC18Steps(t *testing.T) {
	s := pinned(t, root(1), 0)
	for n := uint64(2); n <= MaxSteps+1; n++ {
		s = follow(t, s, root(n), 0)
	}
	_, _, err := s.AddRoot(seal(t, root(MaxSteps+2), 0))
	wantRefusal(t, err, refusal.Limit, "more than 1024 steps")
	if _, _, err := s.AddRoot(seal(t, root(MaxSteps+1), 0)); err != nil {
		t.Errorf("the newest again: %v", err)
	}
}

func TestB12B14WhyKeysDoNotCount(t *testing.T) {
	s := pinned(t, root(4), 0)
	s = follow(t, s, root(5).with(func(r *Root) { r.Roles[RoleRelease] = keys(1, 21) }), 0)
	payload := object(t, Common{Type: "manifest", Domain: domain, Seq: 1})
	for _, v := range []struct {
		name   string
		by     int
		reason string
	}{
		{"C22 revoked key", 20, "revoked in root 5"},
		{"B12 wrong role", 0, "a key of role root"},
		{"B12 wrong role", 26, "a key of role time"},
		{"B3 unknown key", 9, "no key of role release"},
	} {
		t.Run(v.name, func(t *testing.T) {
			_, _, err := s.Verify(RoleRelease, envelope.Manifest, sign(t, envelope.Manifest, payload, v.by))
			wantRefusal(t, err, refusal.SigThreshold, v.reason)
			wantRefusal(t, err, refusal.SigThreshold, signer(v.by).Public().ID().String())
		})
	}
}

func TestVerify(t *testing.T) {
	s := pinned(t, root(1), 0)
	ours := Common{Type: "manifest", Domain: domain, Seq: 1}
	with := func(change func(*Common)) Common {
		c := ours
		change(&c)
		return c
	}
	for _, v := range []struct {
		name    string
		payload []byte
		by      []int
		word    refusal.Word
		reason  string
	}{
		{"as it should be", object(t, ours), []int{20}, "", ""},
		{"A17 type of a root inside", object(t, with(func(c *Common) { c.Type = "root" })), []int{20}, refusal.Format, `type: payload is a "root"`},
		{"other domain, our key", object(t, with(func(c *Common) { c.Domain = Domain{'x'} })), []int{20}, refusal.TrustDomain, "this device to"},
		{"other domain, other keys", object(t, with(func(c *Common) { c.Domain = Domain{'x'} })), []int{9}, refusal.TrustDomain, "this device to"},
		{"our domain, other keys", object(t, ours), []int{9}, refusal.SigThreshold, "0 of 1"},
		{"seq 0", object(t, with(func(c *Common) { c.Seq = 0 })), []int{20}, refusal.Format, "field 4"},
		{"not canonical, signed", []byte{0xa1, 0x18, 0x01, 0x00}, []int{20}, refusal.CBORCanon, "shortest"},
		{"not canonical, not signed", []byte{0xa1, 0x18, 0x01, 0x00}, []int{9}, refusal.SigThreshold, "0 of 1"},
		{"no map", []byte{0x80}, []int{20}, refusal.Format, "field 1"},
		{"domain of 15 bytes", []byte{0xa2, 1, 0x61, 'x', 2, 0x41, 0}, []int{20}, refusal.Format, "field 2"},
	} {
		t.Run(v.name, func(t *testing.T) {
			_, _, err := s.Verify(RoleRelease, envelope.Manifest, sign(t, envelope.Manifest, v.payload, v.by...))
			wantRefusal(t, err, v.word, v.reason)
		})
	}
	two := pinned(t, root(1).with(func(r *Root) { r.Roles[RoleRelease] = keys(2, 20, 21) }), 0)
	elsewhere := object(t, with(func(c *Common) { c.Domain = Domain{'x'} }))
	_, _, err := two.Verify(RoleRelease, envelope.Manifest, sign(t, envelope.Manifest, elsewhere, 20, 9))
	wantRefusal(t, err, refusal.SigThreshold, "1 of 2") // one of our keys signed it: not just a stray file
	_, _, err = s.Verify(RoleNumber(3), envelope.Manifest, sign(t, envelope.Manifest, object(t, ours), 20))
	wantRefusal(t, err, refusal.SigThreshold, "no role number 3")
}

func TestCurrent(t *testing.T) {
	s := pinned(t, root(1).with(epoch(RoleCollector, 4)), 0)
	for _, v := range []struct {
		name   string
		c      Common
		word   refusal.Word
		reason string
	}{
		{"now", Common{Epoch: 4, Issued: built}, "", ""},
		{"older epoch", Common{Epoch: 3, Issued: built}, refusal.Rollback, "epoch 3 of role collector is over"},
		{"newer epoch", Common{Epoch: 5, Issued: built}, refusal.RootChain, "epoch 5 of role collector is not known yet"},
		{"expired", Common{Epoch: 4, Issued: built, Expires: built + 4}, refusal.Expired, "it is at least"},
		{"expires now", Common{Epoch: 4, Issued: built, Expires: built + 5}, "", ""},
		{"2099", Common{Epoch: 4, Issued: 4_070_908_800}, refusal.TimeJump, "10 years"},
	} {
		t.Run(v.name, func(t *testing.T) {
			wantRefusal(t, s.Current(RoleCollector, v.c, built+5), v.word, v.reason)
		})
	}
}

func TestFingerprint(t *testing.T) {
	one, err := Fingerprint(seal(t, root(1), 0))
	if err != nil {
		t.Fatal(err)
	}
	same, err := Fingerprint(seal(t, root(1), 0, 9))
	if err != nil || same != one {
		t.Errorf("another signature made it %s, %v, want %s", same, err, one)
	}
	if other, _ := Fingerprint(seal(t, root(2), 0)); other == one {
		t.Error("two roots have one fingerprint")
	}
}
