package trust

import (
	"math"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
)

func with(o Offer, change func(*Offer)) Offer {
	change(&o)
	return o
}

// TestD1ToD9Counters offers bundles to a device that has confirmed bundle 42 with
// content 42 in epoch 3, tries bundle 45 and gave up 44, under a root whose minimum is
// 40 and which revokes content 66.
func TestD1ToD9Counters(t *testing.T) {
	at := func(seq uint64, content byte) Offer {
		return with(offer(seq, content), func(o *Offer) { o.Epoch = 3 })
	}
	s := pinned(t, root(1).with(func(r *Root) {
		epoch(RoleRelease, 3)(r)
		r.Minimums = []Minimum{{Product: "gate", Channel: "stable", Epoch: 3, Seq: 40}}
		r.Revoked = []Digest{{66}}
	}), 0)
	fresh := s
	s = s.Try(at(42, 42)).Confirm(at(42, 42)).Fail(at(44, 44), refusal.Health).Try(at(45, 45))
	serving := Moment{Floor: built, Serving: Digest{42}}
	older := Moment{Floor: built, Serving: Digest{41}}
	inEpoch := func(o Offer, e uint64) Offer { return with(o, func(o *Offer) { o.Epoch = e }) }

	for _, v := range []struct {
		name    string
		state   State
		o       Offer
		at      Moment
		verdict Verdict
		word    refusal.Word
		reason  string
	}{
		{"next", s, at(43, 43), serving, Install, "", ""},
		{"D1 lower seq", s, at(41, 41), serving, Refused, refusal.Rollback, "bundle 41 is older than the active one (42)"},
		{"D2 same seq and digest", s, at(42, 42), serving, AlreadyInstalled, "", ""},
		{"same, but an older one serves", s, at(42, 42), older, Reinstall, "", ""},
		{"the older one that serves", s, at(41, 41), older, AlreadyInstalled, "", ""},
		{"D3 same seq, other digest", s, at(42, 99), serving, Refused, refusal.Equivocation, "bundle 42 has digest 63"},
		{"D3 other digest than the one on trial", s, at(45, 99), serving, Refused, refusal.Equivocation, "another bundle 45"},
		{"D3 other digest than the failed one", s, at(44, 99), serving, Refused, refusal.Equivocation, "another bundle 44"},
		{"on trial", s, at(45, 45), serving, OnTrial, "", ""},
		{"failed before", s, at(44, 44), serving, Refused, refusal.Health, "failed on this device before"},
		{"failed before, forgiven", s.Forgive(Digest{44}), at(44, 44), serving, Install, "", ""},
		{"a failed one that serves for want of a better", s, at(44, 44), Moment{Floor: built, Serving: Digest{44}}, Refused, refusal.Health, "failed"},
		{"D4 below the minimum, never installed", fresh, at(39, 39), Moment{Floor: built}, Refused, refusal.Rollback, "below the minimum 40"},
		{"at the minimum", fresh, at(40, 40), Moment{Floor: built}, Install, "", ""},
		{"revoked", s, at(50, 66), serving, Refused, refusal.Revoked, "revoked by the trust root"},
		{"revoked and older", s, at(41, 66), serving, Refused, refusal.Rollback, "older"},
		{"2^20 ahead", s, at(42+1<<20, 1), serving, Install, "", ""},
		{"D5 2^20 + 1 ahead", s, at(43+1<<20, 1), serving, Refused, refusal.Limit, "seq jump: from 42"},
		{"D5 2^64 - 1", s, at(math.MaxUint64, 1), serving, Refused, refusal.Limit, "seq jump"},
		{"2^20 ahead of the minimum, nothing confirmed", fresh, at(40+1<<20, 1), Moment{Floor: built}, Install, "", ""},
		{"2^20 + 1 ahead of the minimum", fresh, at(41+1<<20, 1), Moment{Floor: built}, Refused, refusal.Limit, "from 40"},
		{"D7 old epoch, higher seq", s, inEpoch(at(50, 50), 2), serving, Refused, refusal.Rollback, "epoch 2 is over"},
		{"epoch the root does not know", s, inEpoch(at(50, 50), 4), serving, Refused, refusal.RootChain, "epoch 4 is not known yet"},
		{"the serving one of an old epoch", s, inEpoch(at(42, 42), 2), serving, AlreadyInstalled, "", ""},
		{"D9 old content, new seq", s, at(43, 43), serving, Install, "", ""},
		{"another product is counted by itself", s, with(at(1, 1), func(o *Offer) { o.Product = "other" }), serving, Install, "", ""},
		{"another channel is counted by itself", s, with(at(1, 1), func(o *Offer) { o.Channel = "beta" }), serving, Install, "", ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			d := device
			d.Product, d.Channel = "", ""
			got, _, err := v.state.Judge(v.o, d, v.at)
			wantRefusal(t, err, v.word, v.reason)
			if got != v.verdict {
				t.Errorf("verdict %q, want %q", got, v.verdict)
			}
		})
	}
}

// A new epoch starts the count again: the way out after a stolen key used it up.
func TestNewEpochEndsAFastForward(t *testing.T) {
	s := pinned(t, root(1), 0)
	stolen := offer(1<<20, 9)
	s = s.Try(stolen).Confirm(stolen)
	serving := Moment{Floor: built, Serving: stolen.Digest}
	_, _, err := s.Judge(offer(5, 5), device, serving)
	wantRefusal(t, err, refusal.Rollback, "older")

	s = follow(t, s, root(2).with(epoch(RoleRelease, 1)), 0)
	good := with(offer(1, 1), func(o *Offer) { o.Epoch = 1 })
	if v, _, err := s.Judge(good, device, serving); v != Install {
		t.Errorf("bundle 1 of the new epoch: %v, %v", v, err)
	}
	_, _, err = s.Judge(with(good, func(o *Offer) { o.Seq = 1<<20 + 1 }), device, serving)
	wantRefusal(t, err, refusal.Limit, "seq jump: from 0")

	// Nor does a minimum of the old epoch help to jump in the new one.
	s = pinned(t, root(1).with(func(r *Root) {
		epoch(RoleRelease, 1)(r)
		r.Minimums = []Minimum{{Product: "gate", Channel: "stable", Seq: 1 << 30}}
	}), 0)
	_, _, err = s.Judge(with(good, func(o *Offer) { o.Seq = 1<<20 + 1 }), device, Moment{})
	wantRefusal(t, err, refusal.Limit, "seq jump: from 0")
	if v, _, err := s.Judge(good, device, Moment{}); v != Install {
		t.Errorf("bundle 1 above a minimum of the old epoch: %v, %v", v, err)
	}
}

func TestE1E3E7Target(t *testing.T) {
	s := pinned(t, root(1), 0)
	good := offer(1, 1)
	selecting := func(sel ...Selector) func(*Offer) { return func(o *Offer) { o.Selectors = sel } }
	for _, v := range []struct {
		name   string
		change func(*Offer)
		word   refusal.Word
		reason string
	}{
		{"as it should be", func(*Offer) {}, "", ""},
		{"other domain", func(o *Offer) { o.Domain = Domain{1} }, refusal.TrustDomain, "belongs to"},
		{"E1 other product", func(o *Offer) { o.Product = "other" }, refusal.Target, "product is other"},
		{"E1 other channel", func(o *Offer) { o.Channel = "beta" }, refusal.Target, "channel is beta"},
		{"E1 other hardware", func(o *Offer) { o.Hardware = []string{"linux-arm"} }, refusal.Target, "hardware class"},
		{"own hardware", func(o *Offer) { o.Hardware = []string{"linux-arm", "linux-arm64"} }, "", ""},
		{"no hardware", func(o *Offer) { o.Hardware = nil }, refusal.Target, "hardware class"},
		{"this device", selecting(OneDevice(device.ID)), "", ""},
		{"E1 other device", selecting(OneDevice(DeviceID{9})), refusal.Target, "devices: for [device beaaaaaaaaaaaaaaaaaaaaaaaa]"},
		{"a label", selecting(DevicesWith("plant")), "", ""},
		{"two labels", selecting(DevicesWith("plant", "north")), "", ""},
		{"E1 other label", selecting(DevicesWith("ship")), refusal.Target, "label ship"},
		{"E1 one of two labels", selecting(DevicesWith("north", "ship")), refusal.Target, "label ship + north"},
		{"no labels select nobody", selecting(DevicesWith()), refusal.Target, "devices"},
		{"E2 no selectors select nobody", selecting(), refusal.Target, "devices"},
		{"one of several", selecting(OneDevice(DeviceID{9}), DevicesWith("north")), "", ""},
		{"E7 newer tidegate", func(o *Offer) { o.Least = [3]uint64{1, 2, 4} }, refusal.Runtime, "needs tidegate 1.2.4, this is 1.2.3"},
		{"E7 newer major", func(o *Offer) { o.Least = [3]uint64{2, 0, 0} }, refusal.Runtime, "needs tidegate 2.0.0"},
		{"this tidegate", func(o *Offer) { o.Least = [3]uint64{1, 2, 3} }, "", ""},
		{"older minor, higher patch", func(o *Offer) { o.Least = [3]uint64{1, 1, 9} }, "", ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			verdict, _, err := s.Judge(with(good, v.change), device, Moment{Floor: built})
			wantRefusal(t, err, v.word, v.reason)
			if (verdict == Install) != (v.word == "") {
				t.Errorf("verdict %q", verdict)
			}
		})
	}
}

func TestD10D11D14Times(t *testing.T) {
	s := pinned(t, root(1), 0)
	const now = built + 100*day
	for _, v := range []struct {
		name            string
		issued, expires uint64
		floor, wall     uint64
		word            refusal.Word
		reason          string
		warnings        []refusal.Word
	}{
		{"never expires", built, 0, now, now, "", "", nil},
		{"expires later", built, now + 1, now, now, "", "", nil},
		{"expires now", built, now, now, now, "", "", nil},
		{"D10 expired", built, now - 1, now, now, refusal.Expired, "(trust root)", nil},
		{"D10 expired, wall clock behind", built, now - 1, now, 5, refusal.Expired, "it is at least", []refusal.Word{refusal.WarnClock}},
		{"expired by the wall clock only", built, now + 5, now, now + 6, "", "", []refusal.Word{refusal.WarnMaybeExpired}},
		{"D11 wall clock 1970", built, now + 5, now, 5, "", "", []refusal.Word{refusal.WarnClock}},
		{"D11 wall clock 2106", built, 0, now, 4_294_967_295, "", "", nil},
		{"D11 wall clock 2106, with expiry", built, now + 5, now, 4_294_967_295, "", "", []refusal.Word{refusal.WarnMaybeExpired}},
		{"D11 wall clock 3 years behind", built, 0, now, now - 3*year, "", "", []refusal.Word{refusal.WarnClock}},
		{"no wall clock", built, 0, now, 0, "", "", nil},
		{"issued after the floor: there is no not-before", now + 5*year, 0, now, now, "", "", nil},
		{"D14 issued 2099", 4_070_908_800, 0, now, now, refusal.TimeJump, "10 years", nil},
		{"D14 issued at the end of time", math.MaxUint64, 0, now, now, refusal.TimeJump, "after 9999", nil},
		{"D14 comes before D10", 4_070_908_800, 1, now, now, refusal.TimeJump, "10 years", nil},
	} {
		t.Run(v.name, func(t *testing.T) {
			o := with(offer(1, 1), func(o *Offer) { o.Issued, o.Expires = v.issued, v.expires })
			before := s.Floor()
			_, w, err := s.Judge(o, device, Moment{Floor: v.floor, Wall: v.wall})
			wantRefusal(t, err, v.word, v.reason)
			wantWarnings(t, w, v.warnings...)
			if s.Floor() != before {
				t.Errorf("floor moved to %v", s.Floor())
			}
		})
	}
}

// The bound on issued follows the program as well as the root, whichever is later.
func TestD14BoundFollowsTheBuild(t *testing.T) {
	o := with(offer(1, 1), func(o *Offer) { o.Issued = built + 15*year })
	s := pinned(t, root(1), 0)
	_, _, err := s.Judge(o, device, Moment{})
	wantRefusal(t, err, refusal.TimeJump, "10 years")
	_, _, err = s.Built(built+6*year).Judge(o, device, Moment{})
	wantRefusal(t, err, "", "")
	_, _, err = follow(t, s, root(2).with(func(r *Root) { r.Issued = built + 6*year }), 0).Judge(o, device, Moment{})
	wantRefusal(t, err, "", "")
}

// TestOrderOfJudgement lets one more thing be wrong at each step: the first counts.
func TestOrderOfJudgement(t *testing.T) {
	s := pinned(t, root(1).with(epoch(RoleRelease, 2)), 0)
	have := with(offer(42, 42), func(o *Offer) { o.Epoch = 2 })
	s = s.Confirm(have)
	o := with(offer(43, 43), func(o *Offer) { o.Epoch = 2 })
	s = s.Fail(o, refusal.Compile)
	at := Moment{Floor: built + 99*day, Serving: Digest{42}}
	for _, v := range []struct {
		name   string
		change func(*Offer)
		want   refusal.Word
	}{
		{"failed before", func(*Offer) {}, refusal.Compile},
		{"least version", func(o *Offer) { o.Least = [3]uint64{9} }, refusal.Runtime},
		{"selectors", func(o *Offer) { o.Selectors = []Selector{OneDevice(DeviceID{})} }, refusal.Target},
		{"expired", func(o *Offer) { o.Expires = 1 }, refusal.Expired},
		{"issued", func(o *Offer) { o.Issued = math.MaxUint64 }, refusal.TimeJump},
		{"seq", func(o *Offer) { o.Seq = 1 }, refusal.Rollback},
		{"epoch", func(o *Offer) { o.Epoch = 3 }, refusal.RootChain},
		{"product", func(o *Offer) { o.Product = "other" }, refusal.Target},
		{"domain", func(o *Offer) { o.Domain = Domain{} }, refusal.TrustDomain},
	} {
		v.change(&o)
		_, _, err := s.Judge(o, device, at)
		wantRefusal(t, err, v.want, "")
	}
}

func TestJ6J9Allowed(t *testing.T) {
	s := pinned(t, root(1), 0)
	good, older := offer(42, 42).Line(), offer(41, 41).Line()
	wantRefusal(t, s.Allowed(good), "", "")
	wantRefusal(t, s.Allowed(older), "", "")

	s = follow(t, s, root(2).with(func(r *Root) { r.Revoked = []Digest{good.Digest} }), 0)
	wantRefusal(t, s.Allowed(good), refusal.Revoked, "bundle 42")
	wantRefusal(t, s.Allowed(older), "", "")
	_, _, err := s.Confirm(offer(42, 42)).Judge(offer(42, 42), device, Moment{Serving: older.Digest})
	wantRefusal(t, err, refusal.Revoked, "bundle 42") // nor again, though it was confirmed once
	if !s.Revoked(good.Digest) || s.Revoked(older.Digest) {
		t.Error("Revoked does not agree")
	}

	s = follow(t, s, root(3).with(func(r *Root) {
		r.Minimums = []Minimum{{Product: "gate", Channel: "stable", Seq: 42}}
	}), 0)
	wantRefusal(t, s.Allowed(good), "", "")
	wantRefusal(t, s.Allowed(older), refusal.Rollback, "below the minimum 42")
}

func TestSelectorCBOR(t *testing.T) {
	for _, sel := range []Selector{EveryDevice(), OneDevice(DeviceID{1, 2}), DevicesWith("north"), DevicesWith("plant", "north", "a", "north")} {
		b, err := canon.Marshal([]Selector{sel})
		if err != nil {
			t.Fatal(err)
		}
		var got []Selector
		if err := canon.Unmarshal(b, &got, canon.Within(200)); err != nil || got[0].String() != sel.String() {
			t.Errorf("%v: got %v, %v", sel, got, err)
		}
	}
	for _, v := range []struct{ name, hex string }{
		{"empty", "80"},
		{"number", "00"},
		{"every device with more", "820000"},
		{"unknown kind", "8103"},
		{"device of 15 bytes", "82014f000000000000000000000000000000"},
		{"device missing", "8101"},
		{"no labels", "8102"},
		{"labels not sorted", "8302616261 61"},
		{"label twice", "83026161 6161"},
		{"longer label first", "83026262626161"},
		{"label no name", "82026141"},
		{"label not text", "820200"},
	} {
		var got Selector
		if err := canon.Unmarshal(unhex(t, v.hex), &got, canon.Within(200)); !refusal.Is(err, refusal.Format) {
			t.Errorf("%s: got %v, %v, want E_FORMAT", v.name, got, err)
		}
	}
}
