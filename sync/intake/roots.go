package intake

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"tidegate/policy/refusal"
	"tidegate/store/audit"
	"tidegate/store/slots"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
)

// keepRoots returns the function that stores a root that was accepted, in a transaction of
// its own. A verdict about a trial may fall meanwhile, so only the roots of next are taken.
func (d *Desk) keepRoots(source string) func(trust.State) error {
	return func(next trust.State) error {
		roots := next.Roots()
		return d.addRoot(source, roots[len(roots)-1])
	}
}

// addRoot takes one step of the chain, durably.
func (d *Desk) addRoot(source string, env []byte) error {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	next := d.next()
	before := next.state.Generation()
	state, _, err := next.state.AddRoot(env)
	if err != nil {
		return err
	}
	if state.Generation() == before {
		return nil
	}
	next.state = state
	root := state.Root()
	digest := fingerprint(env)
	if err := d.commit("root", next, d.entry(audit.Root, source, digest[:], "", fmt.Sprintf("root %d", root.Version))); err != nil {
		return err
	}
	d.log.Info("trust root accepted", "version", root.Version, "source", source)
	return nil
}

// fingerprint returns the digest of the payload of a root that was accepted.
func fingerprint(env []byte) trust.Digest {
	f, err := trust.Fingerprint(env)
	if err != nil { // cannot be: it was parsed before
		return sha256.Sum256(env)
	}
	return f
}

func (d *Desk) offerRoots(r Report, in io.Reader) (Report, error) {
	return d.walkRoots(r, in, d.keepRoots(r.Source))
}

func (d *Desk) planRoots(r Report, in io.Reader) (Report, error) {
	return d.walkRoots(r, in, func(trust.State) error { return nil })
}

func (d *Desk) walkRoots(r Report, in io.Reader, keep func(trust.State) error) (Report, error) {
	envs, err := envelope.ReadFile(envelope.Root, in)
	if err != nil {
		return r, refusal.About(r.Object, err)
	}
	if err := d.locked(); err != nil {
		return r, refusal.About(r.Object, err)
	}
	state := d.Trust()
	roots := 0
	_, warnings, err := state.AddRoots(envs, d.Floor().Unix, func(s trust.State) error {
		if err := keep(s); err != nil {
			return err
		}
		roots++
		return nil
	})
	r.Warnings = append(r.Warnings, warnings...)
	r.Roots = roots
	if err != nil {
		d.alarmFor(err, envs...)
		return r, refusal.About(r.Object, err)
	}
	r.Phase, r.Already = Accepted, roots == 0
	return r, nil
}

// InstallRoot pins the first root of a .tideroot file on a device without a root, and walks
// the rest of the chain in it. It is a person's decision: whoever calls it has shown the
// root, or expects a fingerprint, the SHA-256 of the payload of the first root; zero is not
// compared. A device that has a root walks on from it; it never gets another pin.
//
// It also unlocks a device whose trust state cannot be read: the bundle that serves keeps
// its place in the sequence.
func (d *Desk) InstallRoot(ctx context.Context, file []byte, expect trust.Digest) (Report, error) {
	r := Report{Kind: envelope.Root, Source: "trust install"}
	if err := d.take(); err != nil {
		return r.with(err), err
	}
	defer d.leave()
	r, err := d.installRoot(r, file, expect)
	r = r.with(err)
	if err != nil {
		d.refused(ctx, r)
	} else {
		d.rejudge(ctx)
	}
	d.tell(r)
	return r, err
}

func (d *Desk) installRoot(r Report, file []byte, expect trust.Digest) (Report, error) {
	if d.cur.Load().state.Root() != nil && d.locked() == nil {
		return d.offerRoots(r, newBytes(file))
	}
	pinned, root, err := trust.Pin(file, d.o.Build)
	if err != nil {
		return r, err
	}
	first := pinned.Roots()[0]
	if got := fingerprint(first); expect != (trust.Digest{}) && got != expect {
		return r, refusal.New(refusal.RootChain, "the fingerprint of the root is %s, not the one given", got).
			WithHint("compare with the fingerprint that the fleet's owner published")
	}
	digest := fingerprint(first)
	d.deciding.Lock()
	next := d.next()
	if f := next.state.Floor(); f.Unix > pinned.Floor().Unix {
		pinned = pinned.SetTime(f.Unix * 1000) // what was known of the time stays known
	}
	next.state = pinned
	// On a device that was locked the bundle that serves was confirmed once: it keeps its
	// place in the sequence, as far as it belongs to this root.
	if m := d.manifest(bundle.Digest(d.servingDigest())); m != nil && m.Domain == root.Domain {
		next.state = next.state.Confirm(m.Offer())
		g := slots.Digest(m.Digest())
		next.ptr.Good, next.ptr.Active = g, g
	}
	err = d.commit("pin", next, d.entry(audit.Root, r.Source, digest[:], "", fmt.Sprintf("root %d pinned", root.Version)))
	d.deciding.Unlock()
	if err != nil {
		return r, err
	}
	d.mu.Lock()
	d.failing = nil
	d.mu.Unlock()
	d.alarm(refusal.State, "")
	d.log.Info("trust root pinned", "version", root.Version, "fingerprint", digest.String())
	r.Roots, r.Digest = 1, digest
	more, err := d.offerRoots(r, newBytes(file))
	more.Roots++
	more.Already = false
	return more, err
}

func (d *Desk) offerEnrolment(r Report, in io.Reader) (Report, error) {
	env, err := d.enrolment(in)
	if err != nil {
		return r, refusal.About(r.Object, err)
	}
	d.deciding.Lock()
	defer d.deciding.Unlock()
	next := d.next()
	before := next.state.Generation()
	state, warnings, err := next.state.Enrol(env, d.o.Device, d.Floor().Unix)
	r.Warnings = append(r.Warnings, warnings...)
	if err != nil {
		d.alarmFor(err, env)
		return r, refusal.About(r.Object, err)
	}
	r.describeEnrolment(state.Enrolment())
	r.Phase = Accepted
	if state.Generation() == before {
		r.Already = true
		return r, nil
	}
	next.state = state
	e := state.Enrolment()
	return r, d.commit("enrolment", next, d.entry(audit.Enrolled, r.Source, nil, "", fmt.Sprintf("product %s, channel %s, labels %q", e.Product, e.Channel, e.Labels)))
}

func (d *Desk) planEnrolment(r Report, in io.Reader) (Report, error) {
	env, err := d.enrolment(in)
	if err != nil {
		return r, refusal.About(r.Object, err)
	}
	state := d.Trust()
	after, warnings, err := state.Enrol(env, d.o.Device, d.Floor().Unix)
	r.Warnings = append(r.Warnings, warnings...)
	if err != nil {
		return r, refusal.About(r.Object, err)
	}
	r.describeEnrolment(after.Enrolment())
	r.Phase, r.Already = Accepted, after.Generation() == state.Generation()
	return r, nil
}

func (r *Report) describeEnrolment(e *trust.Enrolment) {
	r.Product, r.Channel, r.Name, r.Epoch, r.Seq = e.Product, e.Channel, e.Name, e.Epoch, e.Seq
}

func (d *Desk) enrolment(in io.Reader) ([]byte, error) {
	envs, err := envelope.ReadFile(envelope.Device, in)
	if err != nil {
		return nil, err
	}
	if err := d.locked(); err != nil {
		return nil, err
	}
	return envs[0], nil
}

// rejudge looks again at what serves after the root has changed: a bundle that is revoked
// or below the minimum gives way to the newest stored one that is allowed. If there is none
// it goes on serving, with an alarm.
func (d *Desk) rejudge(ctx context.Context) {
	if t := d.onTrial(); t != nil {
		if err := d.Trust().Allowed(t.m.Offer().Line()); err != nil {
			word, _ := refusal.Of(err)
			d.end(ctx, t, word, err.Error(), "root")
		}
		return
	}
	d.deciding.Lock()
	defer d.deciding.Unlock()
	cur := d.cur.Load()
	if cur.ptr.Active.IsZero() {
		return
	}
	err := d.allowed(cur.ptr.Active)
	if err == nil {
		d.alarm(refusal.Revoked, "")
		return
	}
	word, _ := refusal.Of(err)
	e, m, other := d.fallback(ctx, cur.ptr.Active)
	if m == nil {
		if d.alarm(refusal.Revoked, "the bundle that serves is not allowed any more, and there is no other: "+err.Error()) {
			g := cur.ptr.Active
			if err := d.o.Audit.Record(d.o.State, d.entry(audit.Alarm, "root", g[:], word, "serves although it is not allowed any more")); err != nil {
				d.log.Error("audit entry of an alarm", "err", err)
			}
		}
		return
	}
	next := d.next()
	next.ptr.Active = other
	if err := d.commit("give way", next, d.entry(audit.RolledBack, "root", cur.ptr.Active[:], word, err.Error())); err != nil {
		d.log.Error("switch to the allowed bundle", "err", err)
		return
	}
	d.serve(e, m)
}

// allowed refuses a stored bundle that the root does not allow to serve any more.
func (d *Desk) allowed(g slots.Digest) error {
	m := d.manifest(bundle.Digest(g))
	if m == nil {
		return refusal.New(refusal.Digest, "store: slot %s cannot be read", g)
	}
	state := d.cur.Load().state
	if state.Root() == nil {
		return nil // nobody has said otherwise; what is stored serves
	}
	return state.Allowed(m.Offer().Line())
}
