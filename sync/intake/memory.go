package intake

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
	"tidegate/store"
	"tidegate/store/audit"
	"tidegate/store/slots"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// A memory is what the device knows: what it believes and which bundles it has. It is a
// value that is never changed, only replaced by [Desk.commit].
type memory struct {
	state trust.State
	ptr   slots.Pointers
	gen   uint64        // of the copy on disk
	at    time.Duration // boot time up to which the floor of state is counted
}

// now returns the state with the time since then counted in.
func (m *memory) now(c Clock) trust.State { return m.state.Advance(c.Boot() - m.at) }

// next returns a copy to be changed, with its floor counted up to now.
func (d *Desk) next() memory {
	m := *d.cur.Load()
	at := d.o.Clock.Boot()
	m.state, m.at = m.state.Advance(at-m.at), at
	return m
}

// Where the trust state lies in state.db.
const (
	trustBucket = "trust"
	rootsBucket = "roots"
)

var recordKey = []byte("record")

// Files beside state.db that hold the second copy.
const (
	rootFile      = "trust/root"
	enrolmentFile = "trust/enrolment"
)

// A mark is the copy in trust/state: what must never go down, in one sector.
type mark struct {
	Trust  []byte   `cbor:"1,keyasint"` // see [trust.State.Mark]
	Good   [32]byte `cbor:"2,keyasint"`
	Older  [32]byte `cbor:"3,keyasint"`
	Active uint8    `cbor:"4,keyasint"` // 0 none, 1 good, 2 older, 3 the bundle that was on trial
}

// markBytes is what a mark leaves for the trust state.
const markBytes = durable.SlotBytes - 82

// commit makes next what the device knows, together with the audit entries, in one
// transaction. When it returns nil the change is on disk. The second copy follows: root
// file, then slot; if that fails the next commit or start catches up, and the change stands.
// The caller holds deciding.
func (d *Desk) commit(what string, next memory, entries ...audit.Entry) error {
	old := d.cur.Load()
	rootsChanged := next.state.Chain() != old.state.Chain()
	next.gen = old.gen + 1
	d.o.Step(what + ": transaction")
	err := d.o.State.Update(func(tx *store.Tx) error {
		for _, e := range entries {
			if _, err := d.o.Audit.Append(tx, e); err != nil {
				return err
			}
		}
		return writeMemory(tx, &next, rootsChanged)
	})
	if err != nil {
		return err
	}
	d.cur.Store(&next)
	d.contribute(next.state)
	d.o.Step(what + ": committed")
	if err := d.copyOut(what, &next, rootsChanged); err != nil {
		d.alarm(refusal.Store, "the second copy of the trust state lags behind: "+err.Error())
		return nil //nolint:nilerr // the database has it; the alarm tells
	}
	d.alarm(refusal.Store, "")
	return nil
}

// writeMemory writes m, and its roots if they are others than those that lie there.
func writeMemory(tx *store.Tx, m *memory, roots bool) error {
	record, err := m.state.Marshal()
	if err != nil {
		return err
	}
	if err := tx.Bucket(trustBucket).Put(recordKey, record); err != nil {
		return err
	}
	if roots {
		if err := putRoots(tx, m.state.Roots()); err != nil {
			return err
		}
	}
	if err := m.ptr.Store(tx); err != nil {
		return err
	}
	return tx.SetGeneration(m.gen)
}

func putRoots(tx *store.Tx, roots [][]byte) error {
	if err := tx.Bucket(trustBucket).DeleteBucket(rootsBucket); err != nil {
		return err
	}
	b := tx.Bucket(trustBucket, rootsBucket)
	for i, r := range roots {
		if err := b.Put(binary.BigEndian.AppendUint32(nil, uint32(i)), r); err != nil { //nolint:gosec // at most 1,025
			return err
		}
	}
	return nil
}

// copyOut writes the second copy of m.
func (d *Desk) copyOut(what string, m *memory, roots bool) error {
	if roots {
		d.o.Step(what + ": root file")
		if err := d.writeRootFile(m.state.Roots()); err != nil {
			return err
		}
	}
	if err := d.writeEnrolment(m.state); err != nil {
		return err
	}
	b, err := encodeMark(m)
	if err != nil {
		return err
	}
	d.o.Step(what + ": slot")
	return d.o.Slots.Store(b, m.gen)
}

func encodeMark(m *memory) ([]byte, error) {
	t, err := m.state.Mark(markBytes)
	if err != nil {
		return nil, err
	}
	k := mark{Trust: t, Good: m.ptr.Good, Older: m.ptr.Older}
	switch m.ptr.Active {
	case slots.Digest{}:
	case m.ptr.Good:
		k.Active = 1
	case m.ptr.Older:
		k.Active = 2
	default:
		k.Active = 3
	}
	return cbor.Marshal(k)
}

func (d *Desk) writeRootFile(roots [][]byte) error {
	path := filepath.Join(d.o.Dir, rootFile)
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// More roots than a file for exchange may have, so not written by envelope.File.
	b := canon.Magic(envelope.Root.FileWord())
	for _, r := range roots {
		b = canon.AppendBytes(b, r)
	}
	return durable.WriteFile(path, b, 0o600)
}

// writeEnrolment writes the enrolment if it is another than the one in the file.
func (d *Desk) writeEnrolment(s trust.State) error {
	env := s.EnrolmentMessage()
	if env == nil {
		return nil
	}
	path := filepath.Join(d.o.Dir, enrolmentFile)
	b := envelope.File(envelope.Device, env)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, b) {
		return nil
	}
	d.o.Step("enrolment file")
	return durable.WriteFile(path, b, 0o600)
}

// remember reads what the device knows from its two copies, the newer of which counts.
func (d *Desk) remember() {
	db, dbErr := d.fromDB()
	slot, slotErr := d.fromSlot()
	switch {
	case db != nil && (slot == nil || db.gen >= slot.gen):
		d.cur.Store(db)
		if slot == nil || slot.gen < db.gen {
			d.repair(d.copyOut("repair", db, true))
		}
	case slot != nil:
		switch {
		case dbErr != nil:
			d.alarm(refusal.State, "the trust state in state.db is damaged, the copy in trust/state counts: "+dbErr.Error())
		case db != nil:
			d.alarm(refusal.StateRollback, "state.db is older than trust/state: an older database was put back")
		default:
			d.alarm(refusal.State, "state.db holds no trust state, the copy in trust/state counts")
		}
		d.cur.Store(slot)
		d.repair(d.adopt(slot))
	case dbErr == nil && slotErr == nil && !d.o.Locked:
		d.cur.Store(&memory{state: trust.State{}.Built(d.o.Build), at: d.o.Clock.Boot()})
	default:
		d.log.Error("trust state unreadable", "state.db", dbErr, "trust/state", slotErr)
		d.cur.Store(&memory{state: trust.State{}.Built(d.o.Build), at: d.o.Clock.Boot()})
		d.lock()
	}
}

// adopt writes what trust/state had into state.db, under the generation it has there.
func (d *Desk) adopt(m *memory) error {
	return d.o.State.Update(func(tx *store.Tx) error { return writeMemory(tx, m, true) })
}

// repair notes what became of bringing the copies together; the device works without.
func (d *Desk) repair(err error) {
	if err != nil {
		d.alarm(refusal.Store, "the two copies of the trust state differ and cannot be repaired: "+err.Error())
	}
}

// lock refuses updates until a person installs the trust root again.
func (d *Desk) lock() {
	err := refusal.New(refusal.State, "the trust state of this device cannot be read: updates are locked").
		WithHint("install the trust root again: tidegate trust install FILE.tideroot")
	d.mu.Lock()
	d.failing = err
	d.mu.Unlock()
	d.alarm(refusal.State, err.Detail)
}

// locked returns why nothing is taken in, or nil.
func (d *Desk) locked() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failing
}

// fromDB reads the copy in state.db; nil if there is none.
func (d *Desk) fromDB() (*memory, error) {
	m := &memory{at: d.o.Clock.Boot()}
	var record []byte
	var roots [][]byte
	err := d.o.State.View(func(tx *store.Tx) (err error) {
		if m.gen, err = tx.Generation(); err != nil {
			return err
		}
		if m.ptr, err = slots.LoadPointers(tx); err != nil {
			return err
		}
		if record, err = tx.Bucket(trustBucket).Get(recordKey); err != nil {
			return err
		}
		return tx.Bucket(trustBucket, rootsBucket).Each(func(_, v []byte) error {
			roots = append(roots, v)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	if record == nil {
		return nil, nil
	}
	m.state, err = trust.Load(record, roots, d.o.Build)
	if err != nil {
		// The roots may be the damaged part; they have a copy of their own.
		file, fileErr := d.readRootFile()
		if fileErr != nil {
			return nil, errors.Join(err, fileErr)
		}
		if m.state, fileErr = trust.Load(record, file, d.o.Build); fileErr != nil {
			return nil, err
		}
	}
	return m, nil
}

// fromSlot reads the copy in trust/state and the files beside it; nil without an error if
// there has never been one.
func (d *Desk) fromSlot() (*memory, error) {
	b, gen, err := d.o.Slots.Load()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var k mark
	if err := cbor.Unmarshal(b, &k); err != nil {
		return nil, err
	}
	roots, err := d.readRootFile()
	if err != nil {
		return nil, err
	}
	var enrolment []byte
	if f, err := os.ReadFile(filepath.Join(d.o.Dir, enrolmentFile)); err == nil {
		if all, err := envelope.ReadFile(envelope.Device, bytes.NewReader(f)); err == nil {
			enrolment = all[0]
		}
	}
	m := &memory{gen: gen, at: d.o.Clock.Boot(), ptr: slots.Pointers{Good: k.Good, Older: k.Older}}
	switch k.Active {
	case 1, 3:
		m.ptr.Active = k.Good
	case 2:
		m.ptr.Active = k.Older
	}
	m.state, err = trust.Restore(k.Trust, roots, enrolment, d.o.Build)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (d *Desk) readRootFile() ([][]byte, error) {
	f, err := os.Open(filepath.Join(d.o.Dir, rootFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	r := canon.NewReader(f)
	if err := r.Magic(envelope.Root.FileWord()); err != nil {
		return nil, err
	}
	var roots [][]byte
	for len(roots) <= trust.MaxSteps {
		n, err := r.ByteStringHead()
		if err == io.EOF {
			return roots, nil
		}
		if err != nil {
			return nil, err
		}
		if n > trust.MaxRoot {
			return nil, refusal.New(refusal.Limit, "root of %d bytes in %s", n, rootFile)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		roots = append(roots, b)
	}
	return nil, refusal.New(refusal.Limit, "more than %d roots in %s", trust.MaxSteps+1, rootFile)
}

// entry returns an audit entry about now.
func (d *Desk) entry(e audit.Event, source string, digest []byte, w refusal.Word, detail string) audit.Entry {
	return audit.Entry{
		Boot: d.o.BootID, Uptime: d.o.Clock.Boot(), Wall: d.o.Clock.Wall(),
		Floor: time.Unix(int64(min(d.Floor().Unix, 1<<40)), 0), //nolint:gosec // bounded
		Event: e, Word: w, Digest: digest, Source: source, Detail: detail,
	}
}
