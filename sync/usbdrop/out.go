package usbdrop

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"tidegate/platform/media"
	"tidegate/policy/refusal"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"tidegate/sync/envelope"
	"tidegate/sync/intake"
	"tidegate/sync/report"
	"time"
)

// Bounds of what is written.
const (
	fileBytes   = 8 << 20   // of batches in a file: one that is synced and read back in one go
	spare       = 256 << 10 // of a stick that is left free
	batchesRead = 16        // at once
	linesOut    = 500       // of the log
	maxText     = 512       // bytes of a detail in a receipt
)

// handOut writes what the device has to say, where somebody made the folder tide/out.
func (v *visit) handOut(ctx context.Context) {
	if v.p.o.Key == nil || v.s.dead != nil {
		return
	}
	wanted, err := v.s.hasFolder(outFolder)
	if err == nil && wanted {
		err = v.writeAll(ctx)
	}
	if err != nil && ctx.Err() == nil {
		v.v.Failed = fmt.Errorf("write to the stick: %w", err)
		if v.v.Stage == Accepted {
			// What came in stands; the person has to know that nothing, or not all, went out.
			v.v.fail(v.v.Failed)
		}
	}
}

// sealer signs for the device, in the trust domain of its root.
func (p *Port) sealer() *report.Sealer {
	s := &report.Sealer{Key: p.o.Key}
	if root := p.o.Desk.Trust().Root(); root != nil {
		s.Domain = root.Domain
	}
	return s
}

// own is the folder of this device.
func (v *visit) own() string { return outFolder + "/" + v.p.o.Device.String() }

func (v *visit) writeAll(ctx context.Context) error {
	if err := v.s.makeFolder(v.own()); err != nil {
		return err
	}
	v.seal = v.p.sealer()
	var errs []error
	if v.p.o.Enrol != nil {
		errs = append(errs, v.writeMade(v.p.o.Device.String()+".tideenroll", v.p.o.Enrol))
	}
	errs = append(errs, v.writeReceipts(), v.writeEvents(ctx))
	if v.p.o.Status != nil {
		errs = append(errs, v.writeMade("status.tidestatus", func() ([]byte, error) {
			b, err := v.p.o.Status()
			return envelope.File(envelope.Status, b), err
		}))
	}
	errs = append(errs, v.writeBytes("status.txt", v.text()))
	if v.p.o.Lines != nil {
		errs = append(errs, v.writeBytes("log.txt", []byte(strings.Join(v.p.o.Lines(linesOut), "\r\n")+"\r\n")))
	}
	return errors.Join(errs...)
}

func (v *visit) writeMade(name string, content func() ([]byte, error)) error {
	b, err := content()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return v.writeBytes(name, b)
}

// writeBytes writes one small file.
func (v *visit) writeBytes(name string, b []byte) error {
	_, err := v.s.write(v.own(), func(w io.Writer) (string, error) {
		_, err := w.Write(b)
		return name, err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	v.v.Wrote = append(v.v.Wrote, name)
	return nil
}

// receipts writes the receipts of a verdict to a stick that was looked into before.
func (p *Port) receipts(ctx context.Context, vol media.Volume, verdict *Verdict) []string {
	v := p.enter(ctx, vol)
	if v.s == nil || p.o.Key == nil {
		return nil
	}
	defer v.s.close()
	v.v.Items, v.seal = verdict.Items, p.sealer()
	if there, err := v.s.hasFolder(v.own()); err != nil || !there {
		return nil
	}
	if err := v.writeReceipts(); err != nil {
		p.log.Warn("stick: receipt", "err", err)
	}
	return v.v.Wrote
}

// writeReceipts writes what became of each bundle of the stick.
func (v *visit) writeReceipts() error {
	var errs []error
	for n := range v.v.Items {
		i := &v.v.Items[n]
		if !i.bundle() {
			continue
		}
		r := &i.Report
		env, err := v.seal.Receipt(&report.Receipt{
			Product: r.Product, Channel: r.Channel, Digest: r.Digest, Phase: r.Phase.String(), Word: string(r.Word),
			Detail: cut(r.Detail, maxText), Number: r.Seq, File: cut(r.Object, maxText),
		}, v.p.o.Now())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		name := fmt.Sprintf("%d-%s.tidereceipt", r.Seq, hex.EncodeToString(r.Digest[:6]))
		errs = append(errs, v.writeBytes(name, envelope.File(report.Receipts, env)))
	}
	return errors.Join(errs...)
}

// cut shortens text to n bytes of valid UTF-8.
func cut(s string, n int) string {
	return strings.ToValidUTF8(s[:min(len(s), n)], "")
}

// text is the verdict and the state of the device for people, with the line ends of Windows.
func (v *visit) text() []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	st := v.p.o.Desk.Status()
	line("Tidegate %s", v.p.o.Device)
	line("time     %s (estimate of the device)", v.p.o.Now().UTC().Format(time.RFC3339))
	bundle := func(name string, i *intake.BundleInfo) {
		if i != nil {
			line("%-8s %s %s, bundle %d, %s (%s)", name, i.Name, i.Label, i.Seq, i.Product+"/"+i.Channel, i.Digest.String()[:12])
		}
	}
	bundle("serves", st.Serving)
	bundle("trial", st.Trial)
	bundle("good", st.Good)
	line("root     %d", st.Root)
	for w, text := range st.Alarms {
		line("ALARM    %s: %s", w, text)
	}
	line("")
	line("This stick: %s", v.v.Stage)
	line("%s", strings.TrimSpace(string(v.v.Word)+" "+v.v.Detail))
	if v.v.Hint != "" {
		line("%s", v.v.Hint)
	}
	for n := range v.v.Items {
		line("  %s: %s", v.v.Items[n].File, v.v.Items[n].text())
	}
	for _, w := range v.v.Warnings {
		line("  %s: %s", w.Word, w.Error())
	}
	line("")
	line("Written:")
	for _, name := range v.v.Wrote {
		line("  %s", name)
	}
	return b.Bytes()
}

// writeEvents writes all losses and batches that are not acknowledged, and deletes them if the
// site said that this is enough.
func (v *visit) writeEvents(ctx context.Context) error {
	losses, err := v.p.o.Queue.Losses(0, lossesAtOnce)
	if errors.Is(err, events.ErrNoFile) {
		return nil // the queue has no file yet: what is in memory stays there
	}
	if err != nil {
		return err
	}
	for _, c := range v.p.o.Queue.Status().Classes {
		cur, first := events.Cursor{Class: c.Class, Epoch: c.Epoch, Seq: c.Acked}, uint64(0)
		for more := true; more; {
			f := &batchFile{v: v, ctx: ctx, class: c.Class, losses: losses, cur: cur}
			if more, err = f.write(); err != nil {
				return err
			}
			losses, cur = nil, f.cur
			if f.first == 0 {
				break
			}
			first = cmp.Or(first, f.first)
			v.removeOlder(f.epoch, first, cur.Seq)
		}
	}
	return nil
}

// A batchFile is one .tidebatch file that is being written.
type batchFile struct {
	v      *visit
	ctx    context.Context
	class  batch.Class
	losses []events.Loss

	cur   events.Cursor // behind the last batch in the file
	epoch batch.Epoch
	first uint64 // batch; 0: none
}

// write writes one file, if there is anything to go into it, and reports whether there is more.
func (f *batchFile) write() (more bool, err error) {
	free, err := f.v.s.free()
	if err != nil {
		return false, err
	}
	room := int64(fileBytes)
	if free >= 0 {
		room = min(room, free-spare)
	}
	some, err := f.v.p.o.Queue.Read(f.cur, 1)
	if err != nil || len(some) == 0 && len(f.losses) == 0 {
		return false, err
	}
	if room < 2*report.MaxBatch {
		return false, refusal.New(refusal.NoSpace, "the stick is full: %d KiB are free", max(free, 0)>>10).WithHint("make room on it; nothing was deleted here")
	}
	var name string
	_, err = f.v.s.write(f.v.own(), func(w io.Writer) (string, error) {
		var err error
		more, err = f.fill(w, room)
		name = f.name()
		return name, err
	})
	if err != nil {
		return false, err
	}
	f.v.v.Wrote = append(f.v.v.Wrote, name)
	if f.first != 0 {
		f.v.p.o.WentOut(f.cur)
	}
	if f.v.p.o.Release == WhenWritten {
		return more, f.release()
	}
	return more, nil
}

// name tells which batches are in the file.
func (f *batchFile) name() string {
	if n := len(f.losses); f.first == 0 && n > 0 {
		return fmt.Sprintf("%x-loss-%d-%d.tidebatch", f.losses[0].Epoch[:], f.losses[0].Number, f.losses[n-1].Number)
	}
	return fmt.Sprintf("%x-%d-%d.tidebatch", f.epoch[:], f.first, f.cur.Seq)
}

func (f *batchFile) fill(w io.Writer, room int64) (more bool, err error) {
	out, err := report.NewFileWriter(w)
	if err != nil {
		return false, err
	}
	seal, now := f.v.seal, f.v.p.o.Now()
	for i := range f.losses {
		env, err := seal.Loss(&f.losses[i], now)
		if err != nil {
			return false, err
		}
		if err := out.Add(env); err != nil {
			return false, err
		}
	}
	for {
		if err := f.ctx.Err(); err != nil {
			return false, err
		}
		some, err := f.v.p.o.Queue.Read(f.cur, batchesRead)
		if err != nil || len(some) == 0 {
			return false, err
		}
		for i := range some {
			if !out.Fits(room) {
				return true, nil
			}
			env, err := seal.Batch(&some[i], now)
			if err != nil {
				return false, err
			}
			if err := out.Add(env); err != nil {
				return false, err
			}
			if f.first == 0 {
				f.first, f.epoch = some[i].Seq, some[i].Epoch
			}
			f.cur = events.After(&some[i])
		}
	}
}

// release deletes what is in the file, which is on the stick and was read back.
func (f *batchFile) release() error {
	if n := len(f.losses); n > 0 {
		if err := f.v.p.o.Queue.ReleaseLosses(f.losses[n-1].Number); err != nil {
			return err
		}
	}
	if f.first == 0 {
		return nil
	}
	return f.v.p.o.Queue.Release(f.cur)
}

// removeOlder removes files of an earlier visit whose batches are all in what was written now.
// What was released since is not: a file may hold the only copy of it.
func (v *visit) removeOlder(epoch batch.Epoch, from, to uint64) {
	all, _, err := v.s.list(v.own())
	if err != nil {
		return
	}
	for _, e := range all {
		lo, hi, ok := batchesIn(e.Name, epoch)
		if !ok || lo < from || hi > to || slices.Contains(v.v.Wrote, e.Name) {
			continue
		}
		if err := v.s.remove(v.own() + "/" + e.Name); err != nil {
			return
		}
	}
}

// batchesIn reads the name of a file of batches.
func batchesIn(name string, epoch batch.Epoch) (lo, hi uint64, ok bool) {
	stem, isBatch := strings.CutSuffix(name, ".tidebatch")
	span, ours := strings.CutPrefix(stem, hex.EncodeToString(epoch[:])+"-")
	a, b, two := strings.Cut(span, "-")
	lo, errLo := strconv.ParseUint(a, 10, 64)
	hi, errHi := strconv.ParseUint(b, 10, 64)
	return lo, hi, isBatch && ours && two && errLo == nil && errHi == nil
}
