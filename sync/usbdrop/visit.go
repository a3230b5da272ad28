package usbdrop

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"syscall"
	"tidegate/platform/media"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"tidegate/sync/intake"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/report"
	"tidegate/sync/trust"
)

// Limits of what is looked at on a stick.
const (
	maxCandidates = 64
	sniffBytes    = 64 // more than any magic takes
	maxAckFile    = message.MaxAck + 64
)

// Where things are on a stick.
const (
	topFolder  = "."
	tideFolder = "tide"
	ackFolder  = "tide/ack"
	outFolder  = "tide/out"
)

// source is what the audit log calls a stick.
const source = "usb"

// A scope says which ways a stick is used.
type scope int

const (
	inAndOut scope = iota
	onlyIn         // it was written to before
)

// A file is one candidate, open, with its first bytes read.
type file struct {
	name string // on the stick
	in   io.ReadCloser
	head []byte
	gone func() bool
}

// Close closes the file.
func (f *file) Close() { _ = f.in.Close() }

// Read reads on behind head. What the kernel calls an error of input and output is called by
// its name when the stick is not there any more.
func (f *file) Read(p []byte) (int, error) {
	n, err := f.in.Read(p)
	if err == nil || err == io.EOF || interrupted(err) {
		return n, err
	}
	err = media.Wrap(err)
	if refusal.Is(err, refusal.MediaIO) && f.gone() {
		err = pulled(err)
	}
	return n, err
}

func interrupted(err error) bool { return errors.Is(err, syscall.EINTR) }

// candidate hands the whole file, from its first byte, to the desk, which closes it.
func (f *file) candidate() intake.Candidate {
	return intake.Candidate{Source: source, Name: shown(path.Base(f.name)), Open: func() (io.ReadCloser, error) {
		return struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(f.head), f), f.in}, nil
	}}
}

// A visit is one look into one stick.
type visit struct {
	p *Port
	s *steady // nil: the stick was refused as a whole
	v Verdict

	seal *report.Sealer // for what goes out
}

// visit looks into a stick and tells what came of it.
func (p *Port) visit(ctx context.Context, vol media.Volume, what scope) Verdict {
	p.tell(Verdict{Volume: vol.Dir, Stage: Working, Detail: "looking into the stick"})
	v := p.enter(ctx, vol)
	if v.s != nil {
		v.takeIn(ctx)
		v.v.decide()
		if what == inAndOut {
			v.handOut(ctx)
		}
		v.s.close()
	}
	if ctx.Err() == nil {
		p.tell(v.v)
	}
	return v.v
}

// enter opens a stick. The visit has no folder if that was refused; the verdict tells.
func (p *Port) enter(ctx context.Context, vol media.Volume) *visit {
	v := &visit{p: p, v: Verdict{Volume: vol.Dir}}
	s := &steady{ctx: ctx, gone: func() bool { return !p.o.Volumes.Present(vol) }}
	f, err := ask(s, patience, func(func()) (Folder, error) { return p.o.Open(vol) }, func(f Folder) { _ = f.Close() })
	if err != nil {
		v.v.fail(err)
		return v
	}
	s.f = f
	v.s = s
	return v
}

// fail says that the stick as a whole was refused.
func (v *Verdict) fail(err error) {
	v.Stage, v.Detail, v.Hint = Refused, err.Error(), refusal.Hint(err)
	v.Word, _ = refusal.Of(err)
}

// takeIn goes over what is on the stick: roots and enrolments, acks, then one bundle.
func (v *visit) takeIn(ctx context.Context) {
	files := v.candidates()
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	kinds := map[envelope.Kind][]*file{}
	for _, f := range files {
		k := kindOf(f.head)
		if k == "" {
			v.skip(f.name, "not a Tidegate file")
			continue
		}
		kinds[k] = append(kinds[k], f)
	}
	for _, k := range []envelope.Kind{envelope.Root, envelope.Device} {
		for _, f := range kinds[k] {
			r, err := v.p.o.Desk.Offer(ctx, f.candidate())
			v.item(f, r, err)
		}
	}
	if v.p.o.Clock != nil { // before what may have expired, or begun, is judged
		for _, f := range append(kinds[envelope.Time], v.ownFile(".tidetime")...) {
			v.attest(f)
		}
		delete(kinds, envelope.Time)
	}
	for _, f := range append(kinds[envelope.Ack], v.ownFile(".tideack")...) {
		v.acknowledge(f)
	}
	v.takeBundle(ctx, kinds[envelope.Manifest])
	for k, some := range kinds {
		switch k {
		case envelope.Root, envelope.Device, envelope.Ack, envelope.Manifest:
		default:
			for _, f := range some {
				v.skip(f.name, "a "+k.FileWord()+" file, which is not for a device")
			}
		}
	}
}

func (v *visit) skip(name, why string) { v.v.add(Item{File: shown(name), Skip: why}) }

func (v *visit) item(f *file, r intake.Report, err error) {
	if err != nil && r.Word == "" {
		r.Word, r.Detail = refusal.Store, err.Error() // it has no word of its own: our side failed
	}
	v.v.add(Item{File: shown(f.name), Report: r})
}

// kindOf returns which file of ours one is, by its magic; "" for a foreign one. A number of
// the format that is not known is for the desk to refuse.
func kindOf(head []byte) envelope.Kind {
	word, err := canon.NewReader(bytes.NewReader(head)).Word()
	if refusal.Is(err, refusal.FormatVersion) || err == nil && word == bundle.Word {
		return envelope.Manifest
	}
	if err != nil {
		return ""
	}
	kind, _ := strings.CutPrefix(word, "tide-")
	return envelope.Kind(kind)
}

// candidates opens what can be a file of ours in the two folders, at most 64: those first whose
// names look like it, then by name.
func (v *visit) candidates() []*file {
	var names []string
	tooMany := false
	for _, dir := range []string{topFolder, tideFolder} {
		all, more, err := v.s.list(dir)
		if err != nil {
			v.v.add(unread(dir, err))
			return nil
		}
		tooMany = tooMany || more
		for _, e := range all {
			name := path.Join(dir, e.Name)
			switch {
			case e.Skip == "":
				names = append(names, name)
			case !e.Dir && len(v.v.Items) < maxCandidates:
				v.skip(name, e.Skip)
			}
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(likely(a), likely(b)), cmp.Compare(a, b))
	})
	if len(names) > maxCandidates {
		names, tooMany = names[:maxCandidates], true
	}
	if tooMany {
		v.v.Warnings = append(v.v.Warnings, refusal.New(refusal.WarnTooMany, "only %d files of the stick were looked at", len(names)).
			WithHint("delete what does not belong there"))
	}
	var files []*file
	for _, name := range names {
		f, err := v.s.open(name, sniffBytes)
		if err != nil {
			v.v.add(unread(name, err))
			continue
		}
		files = append(files, f)
	}
	return files
}

// unread is a name on the stick that could not be read.
func unread(name string, err error) Item {
	return Item{File: shown(name), Report: intake.Report{
		Source: source, Object: shown(name), Phase: intake.Rejected, Word: wordOf(err), Detail: err.Error(), Hint: refusal.Hint(err),
	}}
}

// likely is 0 for a name that looks like a file of ours, else 1: it only orders.
func likely(name string) int {
	if strings.HasPrefix(strings.ToLower(path.Ext(name)), ".tid") {
		return 0
	}
	return 1
}

func wordOf(err error) refusal.Word {
	if w, ok := refusal.Of(err); ok {
		return w
	}
	return refusal.MediaIO
}

// takeBundle judges the heads of all bundles, one at a time, and reads on in the newest that
// applies; where there is a system besides, its turn comes after that of the APIs.
func (v *visit) takeBundle(ctx context.Context, files []*file) {
	var best [2]choice // of APIs, of systems
	defer func() {
		for _, c := range best {
			if c.look != nil {
				c.look.Close()
			}
		}
	}()
	for _, f := range files {
		l, r, err := v.p.o.Desk.Look(ctx, f.candidate())
		if err != nil {
			v.item(f, r, err)
			continue
		}
		b := &best[0]
		if r.Product == trust.SystemProduct {
			b = &best[1]
		}
		switch {
		case b.look == nil:
			*b = choice{l, f}
		case newer(&r, b.look):
			v.pass(b.look, b.of, l)
			*b = choice{l, f}
		default:
			v.pass(l, f, b.look)
		}
	}
	for _, c := range best {
		if c.look != nil {
			v.take(ctx, c)
		}
	}
}

// A choice is a bundle of a stick and its file.
type choice struct {
	look *intake.Look
	of   *file
}

// pass lets go of a bundle for a newer one.
func (v *visit) pass(l *intake.Look, f *file, newer *intake.Look) {
	r, n := l.Report(), newer.Report()
	l.Close()
	if r.Digest == n.Digest {
		v.skip(f.name, "the same bundle is on the stick twice")
		return
	}
	r.Phase, r.Word = intake.Rejected, refusal.Rollback
	r.Detail = "bundle " + number(r.Seq) + " is older than bundle " + number(n.Seq) + " on the same stick"
	v.item(f, r, nil)
}

func (v *visit) take(ctx context.Context, c choice) {
	if r := c.look.Report(); r.Phase == intake.Verified && v.p.o.Desk.Status().Trial != nil {
		r.Phase, r.Word, r.Detail = intake.Rejected, refusal.Busy, "another bundle is on trial"
		v.item(c.of, r, nil)
		return
	}
	r, err := c.look.Take(ctx)
	v.item(c.of, r, err)
}

// newer reports whether a bundle goes before the best so far.
func newer(r *intake.Report, best *intake.Look) bool {
	b := best.Report()
	return r.Epoch > b.Epoch || r.Epoch == b.Epoch && r.Seq > b.Seq
}
