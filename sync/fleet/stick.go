package fleet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/report"
	"tidegate/sync/trust"
	"time"
)

// A Taken says what was taken from one folder of a device.
type Taken struct {
	Device   string   `json:"device"`
	Files    int      `json:"files"`
	Batches  int      `json:"batches"`
	Losses   int      `json:"losses"`
	Statuses int      `json:"statuses"`
	Refused  []string `json:"refused,omitempty"` // file and reason
	Ack      string   `json:"ack,omitempty"`     // file written for the way back
	Time     string   `json:"time,omitempty"`    // likewise, an attestation of the time
}

// Limits of what a stick may hold.
const (
	maxFolders    = 1024
	maxFiles      = 4096
	maxBatchFile  = 64 << 20
	maxStatusFile = 16 << 10
)

// From takes what devices wrote to a stick: it stores tide/out/<id>/*.tidebatch and
// status.tidestatus, and then writes tide/ack/<id>.tideack for the way back, and with a TimeSigner
// <id>.tidetime beside it. Twice is harmless.
// A file that is not whole or not signed is told and passed over; what stands before its
// fault is taken.
func (c *Collector) From(ctx context.Context, dir string) ([]Taken, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // only read
	entries, err := readDir(root, "tide/out", maxFolders)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, refusal.New(refusal.Format, "%s: no folder tide/out", dir).WithHint("give the folder that the stick is mounted on")
	}
	if err != nil {
		return nil, err
	}
	var all []Taken
	for _, e := range entries {
		id, err := trust.ParseDeviceID(e.Name())
		if err != nil || !e.IsDir() {
			continue
		}
		t, err := c.fromDevice(ctx, root, dir, id)
		all = append(all, t)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func readDir(root *os.Root, name string, most int) ([]fs.DirEntry, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	entries, err := f.ReadDir(most)
	if err == io.EOF {
		err = nil
	}
	return entries, err
}

func (c *Collector) fromDevice(ctx context.Context, root *os.Root, dir string, id trust.DeviceID) (t Taken, err error) {
	t.Device = id.String()
	folder := "tide/out/" + t.Device
	entries, err := readDir(root, folder, maxFiles)
	if err != nil {
		return t, err
	}
	device, known := c.o.Devices.Device(id)
	if !known {
		t.Refused = append(t.Refused, folder+": "+errUnknown.Error())
		return t, nil
	}
	w := newAckWriter(nil)
	for _, e := range entries {
		name := folder + "/" + e.Name()
		var take func(io.Reader) (Intake, error)
		limit := int64(maxBatchFile)
		switch filepath.Ext(e.Name()) {
		case ".tidebatch":
			take = func(r io.Reader) (Intake, error) { return c.readBatches(r, id, device.Report) }
		case ".tidestatus":
			take = func(r io.Reader) (Intake, error) { return c.readStatus(r, id, device.Report) }
			limit = maxStatusFile
		default:
			continue
		}
		info, err := root.Lstat(name)
		if err != nil || !info.Mode().IsRegular() || info.Size() > limit {
			t.Refused = append(t.Refused, name+": not a file of a size that is expected")
			continue
		}
		in, err := readFile(root, name, limit, take)
		if err != nil {
			t.Refused = append(t.Refused, fmt.Sprintf("%s: %v", name, err))
		}
		if in.Empty() {
			continue
		}
		if err := c.store(ctx, &in, w); err != nil {
			return t, err
		}
		t.Files++
		t.Batches += len(in.Batches)
		t.Losses += len(in.Losses)
		t.Statuses += len(in.Statuses)
	}
	if t.Ack, err = c.writeAck(dir, id, w); err != nil {
		return t, err
	}
	t.Time, err = c.writeTime(dir, id)
	return t, err
}

// writeTime writes an attestation of the time for a device. It answers no question, so that it
// proves what time has passed, and no more.
func (c *Collector) writeTime(dir string, id trust.DeviceID) (string, error) {
	if c.o.TimeSigner == nil {
		return "", nil
	}
	b, err := c.o.TimeSigner.Time(&message.Time{Device: id, Milli: uint64(time.Now().UnixMilli()), Error: clockError}) //nolint:gosec // not negative
	if err != nil {
		return "", about(id, err)
	}
	return c.writeBack(dir, id.String()+".tidetime", envelope.File(envelope.Time, b))
}

// writeBack writes a file for the way back to a device.
func (c *Collector) writeBack(dir, name string, b []byte) (string, error) {
	folder := filepath.Join(dir, "tide", "ack")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	name = filepath.Join(folder, name)
	return name, durable.WriteFile(name, b, 0o644)
}

// stickCommit bounds one transaction.
const stickCommit = 500

// store commits in steps and notes what to acknowledge.
func (c *Collector) store(ctx context.Context, in *Intake, w *ackWriter) error {
	part := Intake{Losses: in.Losses, Statuses: in.Statuses}
	for rest := in.Batches; ; {
		n := min(len(rest), stickCommit)
		part.Batches, rest = rest[:n], rest[n:]
		marks, err := c.o.Store.Put(ctx, part)
		if err != nil {
			return err
		}
		for _, m := range marks {
			w.upTo[name{m.Device, m.Epoch}] = m.UpTo
		}
		w.stored(&part)
		if len(rest) == 0 {
			return nil
		}
		part = Intake{}
	}
}

func readFile(root *os.Root, name string, limit int64, take func(io.Reader) (Intake, error)) (Intake, error) {
	f, err := root.Open(name)
	if err != nil {
		return Intake{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	return take(bufio.NewReaderSize(io.LimitReader(f, limit+1), 64<<10))
}

// readBatches reads a .tidebatch file: the magic, then losses and batches as byte strings. On
// an error it returns what came before.
func (c *Collector) readBatches(r io.Reader, id trust.DeviceID, key envelope.PublicKey) (in Intake, err error) {
	s := canon.NewReader(r)
	if err := s.Magic(envelope.Batch.FileWord()); err != nil {
		return in, err
	}
	for {
		n, err := s.ByteStringHead()
		if err == io.EOF {
			return in, nil
		}
		if err != nil {
			return in, err
		}
		if n > report.MaxBatch {
			return in, refusal.New(refusal.Limit, "object of %d bytes before byte %d, at most %d are allowed", n, s.Offset(), report.MaxBatch)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(s, b); err != nil {
			return in, err
		}
		kind := message.KindOf(b)
		if kind != envelope.Batch && kind != envelope.Loss {
			return in, refusal.New(refusal.Format, "type: object before byte %d is neither a batch nor a loss", s.Offset())
		}
		one, err := c.openSigned(id, key, kind, b, time.Now())
		if err != nil {
			return in, err
		}
		in.Batches = append(in.Batches, one.Batches...)
		in.Losses = append(in.Losses, one.Losses...)
	}
}

func (c *Collector) readStatus(r io.Reader, id trust.DeviceID, key envelope.PublicKey) (Intake, error) {
	msgs, err := envelope.ReadFile(envelope.Status, r)
	if err != nil {
		return Intake{}, err
	}
	in, err := c.openSigned(id, key, envelope.Status, msgs[0], time.Now())
	for i := range in.Statuses {
		in.Statuses[i].said()
	}
	return in, err
}

// said dates a state that was under way on a stick by when it was made, if the device knew the
// time then: what has come over the link since is newer.
func (s *Status) said() {
	at := time.Unix(int64(min(s.Issued, 1<<40)), 0) //nolint:gosec // bounded
	if s.Clock.State > 0 && at.Before(s.Received) {
		s.Received = at
	}
}

// writeAck writes the ack file of a device: one signed ack of everything that is stored of the
// epochs that were on the stick.
func (c *Collector) writeAck(dir string, id trust.DeviceID, w *ackWriter) (string, error) {
	t := w.of[id]
	if t == nil {
		return "", nil
	}
	a := &message.Ack{Device: id, Marks: []message.Mark{}, Losses: t.losses[:min(len(t.losses), perAck)]}
	for n, above := range t.marks {
		var also []uint64
		for _, s := range above {
			if s > w.upTo[n] && len(also) < perAck {
				also = append(also, s)
			}
		}
		a.Marks = append(a.Marks, message.Mark{Epoch: n.epoch, UpTo: w.upTo[n], Also: append([]uint64{}, also...)})
	}
	b, err := c.Seal(a)
	if err != nil {
		return "", about(id, err)
	}
	return c.writeBack(dir, id.String()+".tideack", envelope.File(envelope.Ack, b))
}
