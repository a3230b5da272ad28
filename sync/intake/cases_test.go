package intake

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/bundle/write"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"
)

// The cases of the attack table: each test bears the id of its case. refuse checks, beside
// the word, that what serves, what is believed and what is stored are as before, and that
// there is exactly one entry in the audit log.

// settled returns a device that serves bundle 5 and has bundle 4 before it.
func settled(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	w.confirm(w.bundle(4, nil))
	w.confirm(w.bundle(5, nil))
	return w
}

// A hostile is one file and the word it has to meet.
type hostile struct {
	file []byte
	word refusal.Word
	say  string // part of the reason
}

func (w *world) refuseAll(cases map[string]hostile) {
	w.t.Helper()
	for name, c := range cases {
		r := w.refuse(candidate(c.file), c.word, 0)
		if !strings.Contains(r.Detail, c.say) {
			w.t.Errorf("%s: reason %q does not say %q", name, r.Detail, c.say)
		}
		if w.t.Failed() {
			w.t.Fatalf("case %q", name)
		}
	}
}

func TestA1A2A3A11A17FilesThatAreNoBundle(t *testing.T) {
	w := settled(t)
	random := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(random)
	good := w.bundle(6, nil)
	version := bytes.Clone(good)
	version[16] = 2
	root, err := envelope.Parse(w.fleet.Roots[0], envelope.Root)
	if err != nil {
		t.Fatal(err)
	}
	manifestOfRoot, err := envelope.Sign(envelope.Manifest, root.Payload, bundletest.Signers(10, 11)...)
	if err != nil {
		t.Fatal(err)
	}
	w.refuseAll(map[string]hostile{
		"A1 empty":                    {nil, refusal.Format, "magic"},
		"A1 one byte":                 {[]byte{0xd9}, refusal.Format, "magic"},
		"A1 random":                   {random, refusal.Format, "magic"},
		"A2 another number":           {version, refusal.FormatVersion, "magic"},
		"A3 metaset of 2^40":          {canon.AppendBytesHead(canon.Magic(bundle.Word), 1<<40), refusal.Limit, ""},
		"A11 a byte more":             {append(bytes.Clone(good), 0), refusal.Trailing, ""},
		"A17 root in a bundle":        {bundletest.Forge(nil, w.fleet.Roots[0]), refusal.Format, "type"},
		"A17 root signed as manifest": {bundletest.Forge(nil, manifestOfRoot), refusal.Format, "type"},
		"an enrolment request":        {canon.Magic("tide-enroll"), refusal.Format, "enroll"},
	})
}

func TestA4CutAtEveryByte(t *testing.T) {
	w := settled(t)
	good := w.bundle(6, nil)
	before := w.picture()
	for n := range len(good) {
		word := refusal.Truncated
		if n < 3 {
			word = refusal.Format
		}
		r, err := w.offer(good[:n])
		w.mustBe(r, err, word)
	}
	after := w.picture()
	after.entries = before.entries
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	w.put(good)
}

func TestA18AnotherTotalAndNoSpace(t *testing.T) {
	w := settled(t)
	good := w.bundle(6, nil)
	lie := bundletest.Edit(t, bundletest.Payload(t, good), func(m bundletest.Map) { m[uint64(17)] = uint64(1) })
	h, _ := bundletest.Open(t, good)
	env, err := envelope.Sign(envelope.Manifest, lie, bundletest.Signers(10, 11)...)
	if err != nil {
		t.Fatal(err)
	}
	w.refuse(candidate(bundletest.Forge(h.Roots, env, bundletest.Chunks(t, good)...)), refusal.Limit, 0)

	w.desk.o.MaxBytes = int64(len(good)) - 1
	w.refuse(candidate(good), refusal.NoSpace, 0)
	w.quota = 4000
	w.restart()
	big := make([]byte, 50_000)
	rand.NewChaCha8([32]byte{2}).Read(big)
	read := &countingReader{}
	file := w.bundle(6, func(s *write.Spec) { s.Files = append(s.Files, write.Bytes("zz", big)) })
	w.refuse(Candidate{Source: "apply", Name: "x", Open: func() (io.ReadCloser, error) {
		read.r = bytes.NewReader(file)
		return io.NopCloser(read), nil
	}}, refusal.NoSpace, 0)
	if n := read.n.Load(); n > 2*pieceBytes {
		t.Errorf("%d bytes were read before the space was looked at", n)
	}
}

type countingReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func TestA20TheLargestManifestIsAccepted(t *testing.T) {
	w := newWorld(t)
	s := w.fleet.Spec(1)
	for i := range bundle.MaxFiles - len(s.Files) {
		s.Files = append(s.Files, write.Bytes(fmt.Sprintf("%05d/%s", i, strings.Repeat("x", 169)), fmt.Appendf(nil, "%d", i)))
	}
	keys := []int{10, 11, 12}
	for n := len(keys); n < envelope.MaxSignatures; n++ {
		keys = append(keys, 50+n) // of nobody, see B4
	}
	file := bundletest.Build(t, s, keys...)
	if n := len(bundletest.Payload(t, file)); n <= bundle.MaxManifest-bundle.MaxFiles {
		t.Fatalf("the manifest has only %d bytes", n)
	}
	w.confirm(file)
	w.wantServes(1)
}

func TestBSignatures(t *testing.T) {
	w := settled(t)
	s := w.fleet.Spec(6)
	signed := func(keys ...int) []byte { return bundletest.Build(t, s, keys...) }
	bend := func(file []byte) []byte { // the last signature of the metaset
		h, m := bundletest.Open(t, file)
		b := bytes.Clone(file)
		_ = m
		b[len(h.Bytes)-10] ^= 1
		return b
	}
	w.refuseAll(map[string]hostile{
		"B1 the only signature is wrong":     {bend(signed(10)), refusal.SigBad, ""},
		"B3 only unknown keys":               {signed(50, 51), refusal.SigThreshold, bundletest.Key(50).Public().ID().String()[:8]},
		"one of two":                         {signed(10), refusal.SigThreshold, "1 of 2"},
		"one of two and an unknown key":      {signed(10, 50), refusal.SigThreshold, "1 of 2"},
		"B12 the root keys are not release":  {signed(0, 1), refusal.SigThreshold, "root"},
		"another domain, and its own keys":   {foreign(t, 6), refusal.TrustDomain, ""},
		"a good one and a wrong one of both": {bend(signed(10, 11)), refusal.SigThreshold, "1 of 2"},
	})
	r, err := w.desk.Plan(t.Context(), candidate(signed(10, 11, 50)))
	if err != nil || len(r.Warnings) != 0 {
		t.Errorf("B4 threshold and an unknown key: %v, %v", err, r.Warnings)
	}
	r, err = w.desk.Plan(t.Context(), candidate(bend(signed(10, 11, 12))))
	if err != nil || !has(r.Warnings, refusal.WarnSigExtraBad) {
		t.Errorf("B5 threshold and a wrong signature: %v, %v", err, r.Warnings)
	}
}

func TestA14A16EnvelopesThatAreNotOfTheProfile(t *testing.T) {
	w := settled(t)
	good := w.bundle(6, nil)
	payload, chunks := bundletest.Payload(t, good), bundletest.Chunks(t, good)
	one, err := envelope.Sign(envelope.Manifest, payload, bundletest.Signers(10)...)
	if err != nil {
		t.Fatal(err)
	}
	head := one[:bytes.Index(one, payload)+len(payload)] // tag, headers, payload
	entry := one[len(head)+1:]                           // behind the head of the array
	with := func(env []byte) []byte { return bundletest.Forge(nil, env, chunks...) }
	unprotected := bytes.Replace(bytes.Clone(one), append([]byte(envelope.Manifest.ContentType()), 0xa0), append([]byte(envelope.Manifest.ContentType()), 0xa1, 0x01, 0x26), 1)
	bare := append(append([]byte{0xd8, 98, 0x84, 0x41, 0xa0, 0xa0}, canon.AppendBytes(nil, payload)...), one[len(head):]...)
	w.refuseAll(map[string]hostile{
		"A14 unprotected is not empty":  {with(unprotected), refusal.Format, "cose"},
		"A14 protected is an empty map": {with(bare), refusal.Format, "cose"},
		"A16 no signature":              {with(append(bytes.Clone(head), 0x80)), refusal.SigNone, ""},
		"A16 17 signatures":             {with(append(append(bytes.Clone(head), 0x91), bytes.Repeat(entry, 17)...)), refusal.Limit, "17"},
		"the same signature twice":      {with(append(append(bytes.Clone(head), 0x82), bytes.Repeat(entry, 2)...)), refusal.Format, "same key"},
	})
}

// foreign returns a bundle of another fleet with keys of its own.
func foreign(t *testing.T, seq uint64) []byte {
	s := bundletest.New(t, "b").Spec(seq)
	return bundletest.Build(t, s, 60, 61)
}

func TestB2EachBitFlipped(t *testing.T) {
	w := settled(t)
	good := w.bundle(6, nil)
	for i := 0; i < len(good)*8; i += 7 { // every byte, and each bit in turn
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		r, err := w.desk.Plan(t.Context(), candidate(b))
		if err == nil {
			t.Fatalf("bit %d of byte %d: accepted, %+v", i%8, i/8, r)
		}
		if w, _ := refusal.Of(err); w.Exit() != 20 && w.Exit() != 30 && w.Exit() != 50 {
			t.Fatalf("bit %d of byte %d: %q, exit %d: %v", i%8, i/8, w, w.Exit(), err)
		}
	}
	w.wantServes(5)
}

func TestC16C17C18C22Roots(t *testing.T) {
	w := settled(t)
	for range 4 {
		w.fleet.Rotate(t, nil) // roots 2 to 5
	}
	with := func(roots ...[]byte) Candidate {
		return candidate(w.bundle(6, func(s *write.Spec) { s.Roots = roots }))
	}
	all := w.fleet.Roots
	w.refuse(with(all[2]), refusal.RootChain, 0)           // C16 a gap before the file
	w.refuse(with(all[1], all[3]), refusal.RootChain, 1)   // C16 a gap in the file: root 2 stands
	w.refuse(with(all[2], all[2]), refusal.RootChain, 1)   // C16 a repeat: root 3 stands
	w.refuse(with(all[3], all[2]), refusal.RootChain, 1)   // C16 descent: root 4 stands
	w.refuse(candidate(tooMany(all[0])), refusal.Limit, 0) // C18 33 roots
	w.refuse(candidate(bundletest.Forge([][]byte{hugeRoot(t)}, all[0])), refusal.Limit, 0)
	if got := w.desk.Status().Root; got != 4 {
		t.Fatalf("root is %d, want 4", got)
	}

	// C17 expired in between is nothing; expired at the end warns.
	w.fleet.Rotate(t, func(r *trust.Root) { r.Expires = bundletest.Issued - 2000 })
	r, err := w.desk.Plan(t.Context(), with(w.fleet.Roots[4:6]...))
	if err != nil || !has(r.Warnings, refusal.WarnRootExpired) {
		t.Errorf("C17 expired at the end: %v, %v", err, r.Warnings)
	}
	w.fleet.Rotate(t, func(r *trust.Root) { r.Expires = 0 })
	r, err = w.offer(w.fleet.RootFile(5))
	if err != nil || r.Phase != Accepted || r.Roots != 3 || len(r.Warnings) != 0 {
		t.Errorf("C17 expired in between: %+v, %v", r, err)
	}
	// The same file again is nothing new.
	if r, err = w.offer(w.fleet.RootFile(1)); err != nil || !r.Already || r.Roots != 0 {
		t.Errorf("roots that are known: %+v, %v", r, err)
	}

	// C22 all release keys go, then a bundle by two of them.
	w.fleet.Rotate(t, func(r *trust.Root) {
		role := r.Roles[trust.RoleRelease]
		role.Keys = []trust.Key{{Name: "new", Public: bundletest.Key(70).Public()}}
		role.Threshold = 1
		r.Roles[trust.RoleRelease] = role
	})
	last := w.fleet.Roots[len(w.fleet.Roots)-1]
	rep := w.refuse(with(last), refusal.SigThreshold, 1)
	if !strings.Contains(rep.Detail, "revoked in root 8") {
		t.Errorf("C22 reason %q does not say when the key went", rep.Detail)
	}
	s := w.fleet.Spec(6)
	w.confirm(bundletest.Build(t, s, 70))
}

func tooMany(root []byte) []byte {
	roots := make([][]byte, 33)
	for i := range roots {
		roots[i] = root
	}
	return envelope.File(envelope.Root, roots...)
}

func hugeRoot(t *testing.T) []byte {
	env, err := envelope.Sign(envelope.Root, make([]byte, 17<<10), bundletest.Key(0))
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func TestTwoHistoriesOfRootsRaiseAnAlarm(t *testing.T) {
	w := settled(t)
	other := *w.fleet
	w.fleet.Rotate(t, nil)
	other.Rotate(t, func(r *trust.Root) { r.Issued += 5 })
	if _, err := w.offer(w.fleet.RootFile(2)); err != nil {
		t.Fatal(err)
	}
	w.refuse(candidate(other.RootFile(2)), refusal.Equivocation, 0)
	if w.desk.Status().Alarms[refusal.Equivocation] == "" {
		t.Error("no alarm")
	}
}

func TestD1ToD10Counters(t *testing.T) {
	w := settled(t)
	five := w.bundle(5, nil)
	w.refuse(candidate(w.bundle(4, nil)), refusal.Rollback, 0) // D1
	r := w.refuse(candidate(w.bundle(3, nil)), refusal.Rollback, 0)
	if !strings.Contains(r.Detail, "bundle 3 is older than the active one (5)") || !strings.Contains(r.Hint, "--seq 6") {
		t.Errorf("D1 says %q, hint %q", r.Detail, r.Hint)
	}
	before := w.picture()
	gen := w.desk.cur.Load().gen
	if r, err := w.offer(five); err != nil || !r.Already || r.Phase != Confirmed { // D2
		t.Errorf("D2: %+v, %v", r, err)
	}
	if after := w.picture(); fmt.Sprint(after) != fmt.Sprint(before) || w.desk.cur.Load().gen != gen {
		t.Error("D2 wrote something")
	}
	w.refuse(candidate(w.bundle(5, func(s *write.Spec) { s.Manifest.Version = "other" })), refusal.Equivocation, 0) // D3
	if w.desk.Status().Alarms[refusal.Equivocation] == "" {
		t.Error("D3 raised no alarm")
	}
	w.refuse(candidate(w.bundle(5+1<<20+1, nil)), refusal.Limit, 0) // D5
	w.refuse(candidate(w.bundle(1<<64-1, nil)), refusal.Limit, 0)
	if r, err := w.desk.Plan(t.Context(), candidate(w.bundle(5+1<<20, nil))); err != nil {
		t.Errorf("the highest jump: %+v, %v", r, err)
	}

	w.refuse(candidate(w.bundle(6, func(s *write.Spec) { s.Manifest.Epoch = 0 })), refusal.Rollback, 0)  // D7
	w.refuse(candidate(w.bundle(6, func(s *write.Spec) { s.Manifest.Epoch = 2 })), refusal.RootChain, 0) // its root is missing
	w.confirm(w.bundle(6, func(s *write.Spec) { s.Files = w.fleet.Spec(4).Files }))                      // D9
	w.wantSeq(6)
	w.wantServes(4)

	// A new epoch: any seq from 1, and old ones are over.
	w.fleet.Rotate(t, func(r *trust.Root) {
		role := r.Roles[trust.RoleRelease]
		role.Epoch = 2
		r.Roles[trust.RoleRelease] = role
	})
	one := w.bundle(1, func(s *write.Spec) { s.Roots = w.fleet.Roots[1:] })
	w.confirm(one)
	w.wantSeq(1)
	w.refuse(candidate(w.bundle(7, func(s *write.Spec) { s.Manifest.Epoch = 1 })), refusal.Rollback, 0)
}

func TestD4BelowTheMinimum(t *testing.T) {
	w := newWorld(t)
	w.fleet.Rotate(t, func(r *trust.Root) {
		r.Minimums = []trust.Minimum{{Product: "gate", Channel: "stable", Epoch: 1, Seq: 10}}
	})
	r := w.refuse(candidate(w.bundle(9, func(s *write.Spec) { s.Roots = w.fleet.Roots[1:] })), refusal.Rollback, 1)
	if !strings.Contains(r.Detail, "minimum") {
		t.Errorf("reason %q", r.Detail)
	}
	w.confirm(w.bundle(10, nil))
}

func TestD9D11D14Times(t *testing.T) {
	w := settled(t)
	floor := w.desk.Floor()
	expired := w.bundle(6, func(s *write.Spec) { s.Manifest.Expires = bundletest.Issued })
	r := w.refuse(candidate(expired), refusal.Expired, 0) // D10
	if !strings.Contains(r.Detail, "confirmed bundle") {
		t.Errorf("D10 reason %q does not name the source", r.Detail)
	}
	w.refuse(candidate(w.bundle(6, func(s *write.Spec) { s.Manifest.Issued = 4_070_908_800 })), refusal.TimeJump, 0) // D14: 2099
	if got := w.desk.Floor(); got.Unix > floor.Unix+2 {
		t.Errorf("D14 moved the floor from %d to %d", floor.Unix, got.Unix)
	}
	for i, wall := range []time.Time{time.Unix(0, 0), time.Date(2106, 1, 1, 0, 0, 0, 0, time.UTC), w.clock.Wall().AddDate(-3, 0, 0)} { // D11
		w.clock.setWall(wall)
		seq := uint64(6 + i)
		r, err := w.offer(w.bundle(seq, func(s *write.Spec) { s.Manifest.Expires = bundletest.Issued + 1e7 }))
		if err != nil {
			t.Fatalf("D11 wall clock %v: %v", wall, err)
		}
		if word := map[bool]refusal.Word{true: refusal.WarnClock, false: refusal.WarnMaybeExpired}[wall.Year() < 2100]; !has(r.Warnings, word) {
			t.Errorf("D11 wall clock %v: warnings %v, want %s", wall, r.Warnings, word)
		}
		if _, err := w.desk.Confirm(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		w.wantServes(seq)
	}
}

func TestD15D16WhatExpiresGoesOnServing(t *testing.T) {
	w := newWorld(t)
	w.fleet.Rotate(t, func(r *trust.Root) { r.Expires = bundletest.Issued + 500 })
	w.confirm(w.bundle(1, func(s *write.Spec) {
		s.Roots = w.fleet.Roots[1:]
		s.Manifest.Expires = bundletest.Issued + 1000
	}))
	if err := w.desk.SetTime(time.Unix(bundletest.Issued+1e6, 0), "console"); err != nil {
		t.Fatal(err)
	}
	w.wantServes(1)
	w.restart()
	w.wantServes(1)
	if s := w.desk.Status(); s.Locked != nil || !has(s.Warnings, refusal.WarnRootExpired) || s.Floor.Unix < bundletest.Issued+1e6 {
		t.Errorf("status %+v", s)
	}
}

func TestE1E3E7Targets(t *testing.T) {
	w := settled(t)
	other := trust.DeviceIDOf(bundletest.Key(91).Public())
	spec := func(change func(m *bundle.Manifest)) []byte {
		return w.bundle(6, func(s *write.Spec) { change(&s.Manifest) })
	}
	w.refuseAll(map[string]hostile{
		"product":  {spec(func(m *bundle.Manifest) { m.Product = "pump" }), refusal.Target, "product"},
		"channel":  {spec(func(m *bundle.Manifest) { m.Channel = "beta" }), refusal.Target, "channel"},
		"hardware": {spec(func(m *bundle.Manifest) { m.Hardware = []string{"linux-amd64", "linux-riscv64"} }), refusal.Target, "hardware"},
		"device":   {spec(func(m *bundle.Manifest) { m.Selectors = []trust.Selector{trust.OneDevice(other)} }), refusal.Target, "device"},
		"label":    {spec(func(m *bundle.Manifest) { m.Selectors = []trust.Selector{trust.DevicesWith("north")} }), refusal.Target, "label"},
		"version":  {spec(func(m *bundle.Manifest) { m.Least = &[3]uint64{1, 0, 1} }), refusal.Runtime, "1.0.1"},
	})
	// E3 labels come from the enrolment and from nowhere else.
	if r, err := w.offer(w.fleet.Enrolment(t, deviceKey, 1, func(e *trust.Enrolment) { e.Labels = []string{"north", "plant-3"} })); err != nil || r.Phase != Accepted {
		t.Fatalf("enrolment: %+v, %v", r, err)
	}
	w.refuse(candidate(spec(func(m *bundle.Manifest) { m.Selectors = []trust.Selector{trust.DevicesWith("north", "south")} })), refusal.Target, 0)
	w.confirm(spec(func(m *bundle.Manifest) {
		m.Hardware, m.Least = []string{"linux-arm64"}, &[3]uint64{1, 0, 0}
		m.Selectors = []trust.Selector{trust.OneDevice(other), trust.DevicesWith("north", "plant-3")}
	}))
	w.restart()
	if d := w.desk.Status().Device; len(d.Labels) != 2 {
		t.Errorf("labels after a restart: %q", d.Labels)
	}
}

func TestEnrolmentsOfOthersAndOldOnes(t *testing.T) {
	w := settled(t)
	second := w.fleet.Enrolment(t, deviceKey, 2, nil)
	if _, err := w.offer(second); err != nil {
		t.Fatal(err)
	}
	if r, err := w.offer(second); err != nil || !r.Already {
		t.Errorf("the same again: %+v, %v", r, err)
	}
	w.refuse(candidate(w.fleet.Enrolment(t, deviceKey, 1, nil)), refusal.Rollback, 0)
	w.refuse(candidate(w.fleet.Enrolment(t, deviceKey, 2, func(e *trust.Enrolment) { e.Name = "x" })), refusal.Equivocation, 0)
	w.refuse(candidate(w.fleet.Enrolment(t, 91, 3, nil)), refusal.Target, 0)
	w.refuse(candidate(bundletest.New(t, "b").Enrolment(t, deviceKey, 3, nil)), refusal.TrustDomain, 0)
}
