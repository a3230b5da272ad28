package fleet

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"tidegate/store/events/batch"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
	"time"
)

// A transaction stores one intake.
type transaction struct {
	s    *database
	ctx  context.Context
	tx   conn
	upTo map[name]uint64
}

func (t *transaction) exec(query string, args ...any) (int64, error) {
	return t.tx.exec(t.ctx, t.s.q(query), args...)
}

// lockMarks makes the marks that in touches and locks them in one order, so that collectors
// which share a database wait for each other and never for ever.
func (t *transaction) lockMarks(in *Intake) ([]name, error) {
	set := map[name]bool{}
	for i := range in.Batches {
		set[name{in.Batches[i].Device, in.Batches[i].Epoch}] = true
	}
	for i := range in.Losses {
		set[name{in.Losses[i].Device, in.Losses[i].Epoch}] = true
	}
	for i := range in.Statuses {
		for _, q := range in.Statuses[i].Queues {
			set[name{in.Statuses[i].Device, q.Epoch}] = true
		}
	}
	names := make([]name, 0, len(set))
	for n := range set {
		names = append(names, n)
	}
	slices.SortFunc(names, compareNames)
	t.upTo = make(map[name]uint64, len(names))
	now := micro(time.Now())
	for _, n := range names {
		if _, err := t.exec(`INSERT INTO marks (device, epoch, upto, touched_us) VALUES (?, ?, 0, ?) ON CONFLICT DO NOTHING`, n.device.String(), text(n.epoch), now); err != nil {
			return nil, err
		}
		var upTo uint64
		if err := one(t.ctx, t.tx, t.s.q(`SELECT upto FROM marks WHERE device = ? AND epoch = ?`+t.s.d.lock), []any{n.device.String(), text(n.epoch)}, &upTo); err != nil {
			return nil, err
		}
		t.upTo[n] = upTo
	}
	return names, nil
}

func (t *transaction) putBatch(b *Batch) error {
	if b.Seq <= t.upTo[name{b.Device, b.Epoch}] {
		return nil
	}
	n, err := t.exec(`INSERT INTO batches (device, epoch, seq, class, boot, start_boot_us, start_us, clock, calls, received_us, sealed)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		b.Device.String(), text(b.Epoch), int64(b.Seq), int64(b.Class), hex.EncodeToString(b.BootID[:]), b.Start.Boot.Microseconds(), //nolint:gosec // counted from 1
		micro(b.Start.Unix), b.Start.Quality.String(), int64(b.Calls), micro(b.Received), b.Sealed) //nolint:gosec // at most 4,096
	if err != nil || n == 0 {
		return err
	}
	if _, err := t.exec(`INSERT INTO keys (device, report) VALUES (?, ?) ON CONFLICT DO NOTHING`, b.Device.String(), b.Key[:]); err != nil {
		return err
	}
	if t.s.rows == BatchOnly || b.Class != batch.Detail {
		return nil
	}
	return t.putCalls(b)
}

// rowsAtOnce keeps a statement below the number of parameters that SQLite allows.
const rowsAtOnce = 200

// putCalls stores every call of a batch as a row. A batch that does not decode is kept as it
// came; it was sealed by its device, and lost no sooner than here.
func (t *transaction) putCalls(b *Batch) error {
	args := make([]any, 0, rowsAtOnce*callColumns)
	flush := func() error {
		if len(args) == 0 {
			return nil
		}
		row := "(" + strings.TrimSuffix(strings.Repeat("?, ", callColumns), ", ") + ")"
		rows := strings.TrimSuffix(strings.Repeat(row+", ", len(args)/callColumns), ", ")
		_, err := t.exec(`INSERT INTO calls VALUES `+rows+` ON CONFLICT DO NOTHING`, args...)
		args = args[:0]
		return err
	}
	i := 0
	for e, err := range b.Batch.Events() {
		if err != nil {
			return nil //nolint:nilerr // the batch is stored; export names what is wrong with it
		}
		client := ""
		if e.Client.IsValid() {
			client = e.Client.String()
		}
		args = append(args, b.Device.String(), text(b.Epoch), int64(b.Seq), i, micro(e.Time), e.API, e.Version, e.Method, e.Template, //nolint:gosec // counted from 1
			int64(e.Status), int64(e.Fault), e.Level.String(), e.ApplicationName, e.Plan, e.User, client,
			e.Total.Microseconds(), e.Backend.Microseconds(), int64(min(e.BytesIn, 1<<62)), int64(min(e.BytesOut, 1<<62))) //nolint:gosec // bounded
		i++
		if len(args) == rowsAtOnce*callColumns {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

func (t *transaction) putLoss(l *Loss) error {
	var calls any
	if l.Known {
		calls = int64(min(l.Calls, 1<<62)) //nolint:gosec // bounded
	}
	_, err := t.exec(`INSERT INTO losses (device, epoch, number, class, from_seq, to_seq, calls, bytes, first_s, last_s, reason, received_us)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		l.Device.String(), text(l.Epoch), int64(l.Number), int64(l.Class), int64(min(l.From, 1<<62)), int64(min(l.To, 1<<62)), calls, //nolint:gosec // bounded
		int64(min(l.Bytes, 1<<62)), l.First.Unix(), l.Last.Unix(), string(l.Reason), micro(l.Received)) //nolint:gosec // bounded
	return err
}

// putStatus keeps the newest state of a device. Collectors that share the work commit in any
// order, and sticks come late: what is older than the state that is stored does not replace it,
// and what came on a stick says nothing of a connection. If it came over the link and is older by more than a minute, the clock of a collector was set
// back.
func (t *transaction) putStatus(st *Status) error {
	r := rowOf(st)
	js, err := json.Marshal(r)
	if err != nil {
		return err
	}
	online := 1
	if st.Nonce == (message.Token{}) { // it came on a stick
		online = 0
	}
	_, err = t.exec(`INSERT INTO status (device, received_us, online, boot, nonce, state, bundle, seq, since_us, json)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (device) DO UPDATE SET received_us = excluded.received_us,
		boot = CASE WHEN excluded.online = 1 THEN excluded.boot ELSE status.boot END,
		nonce = CASE WHEN excluded.online = 1 THEN excluded.nonce ELSE status.nonce END,
		online = CASE WHEN excluded.online = 1 THEN 1 ELSE status.online END, state = excluded.state, seq = excluded.seq, json = excluded.json,
		since_us = CASE WHEN status.bundle = excluded.bundle THEN status.since_us ELSE excluded.since_us END, bundle = excluded.bundle
		WHERE excluded.received_us >= status.received_us OR excluded.online = 1 AND excluded.received_us < status.received_us - 60000000`,
		r.Device, micro(st.Received), online, hex.EncodeToString(st.Boot[:]), st.Nonce.String(), r.State, r.Bundle, int64(min(r.Seq, 1<<62)), micro(st.Received), string(js)) //nolint:gosec // bounded
	if err != nil {
		return err
	}
	// What a device has released it will never send again: another collector, or a stick,
	// took it.
	for _, q := range st.Queues {
		n := name{st.Device, q.Epoch}
		if q.Acked > t.upTo[n] {
			t.upTo[n] = q.Acked
		}
	}
	return nil
}

// putWill marks a device as gone, unless it has come back since.
func (t *transaction) putWill(w *Will) error {
	_, err := t.exec(`UPDATE status SET online = 0 WHERE device = ? AND boot = ? AND nonce = ?`, w.Device.String(), hex.EncodeToString(w.Boot[:]), w.Nonce.String())
	return err
}

func (t *transaction) putResult(r *Result) error {
	_, err := t.exec(`INSERT INTO results (device, number, digest, phase, word, detail, seq, issued_s, received_us)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		r.Device.String(), int64(min(r.Common.Seq, 1<<62)), r.Digest.String(), r.Phase, r.Word, r.Detail, int64(min(r.Number, 1<<62)), int64(min(r.Issued, 1<<62)), micro(r.Received)) //nolint:gosec // bounded
	return err
}

// advance moves a mark over what is stored behind it without a gap, losses included.
func (t *transaction) advance(n name) (Mark, error) {
	m := Mark{Device: n.device, Epoch: n.epoch, UpTo: t.upTo[n]}
	for {
		moved, err := t.step(&m)
		if err != nil {
			return m, err
		}
		if !moved {
			break
		}
	}
	_, err := t.exec(`UPDATE marks SET upto = ?, touched_us = ? WHERE device = ? AND epoch = ? AND upto < ?`,
		int64(m.UpTo), micro(time.Now()), n.device.String(), text(n.epoch), int64(m.UpTo)) //nolint:gosec // stored as int64
	return m, err
}

func (t *transaction) step(m *Mark) (moved bool, err error) {
	rows, err := t.tx.query(t.ctx, t.s.q(`SELECT seq FROM batches WHERE device = ? AND epoch = ? AND seq > ? ORDER BY seq LIMIT 1024`),
		m.Device.String(), text(m.Epoch), int64(m.UpTo)) //nolint:gosec // stored as int64
	if err != nil {
		return false, err
	}
	for rows.Next() {
		var seq uint64
		if err := rows.Scan(&seq); err != nil {
			return false, errors.Join(err, rows.Close())
		}
		if seq != m.UpTo+1 {
			break
		}
		m.UpTo, moved = seq, true
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return false, err
	}
	var to sql.NullInt64
	err = one(t.ctx, t.tx, t.s.q(`SELECT MAX(to_seq) FROM losses WHERE device = ? AND epoch = ? AND from_seq > 0 AND from_seq <= ? AND to_seq > ?`),
		[]any{m.Device.String(), text(m.Epoch), int64(m.UpTo) + 1, int64(m.UpTo)}, &to) //nolint:gosec // stored as int64
	if err != nil {
		return false, err
	}
	if to.Valid && uint64(to.Int64) > m.UpTo { //nolint:gosec // stored from a uint64
		m.UpTo, moved = uint64(to.Int64), true //nolint:gosec // as above
	}
	return moved, nil
}

// rowOf is what is shown of a status.
func rowOf(st *Status) DeviceRow {
	r := DeviceRow{
		Device: st.Device.String(), Product: st.Product, Channel: st.Channel, Labels: st.Labels, State: st.State,
		Clock: "UNSYNCED", Floor: time.Unix(int64(min(st.Clock.Floor, 1<<40)), 0).UTC(), Alarms: st.Alarms, Version: st.Version, Root: st.Root, //nolint:gosec // bounded
	}
	switch st.Clock.State {
	case 1:
		r.Clock = "HOLDOVER"
	case 2:
		r.Clock = "SYNCED"
	}
	if b := st.Bundle; b != nil {
		if b.Good != (trust.Digest{}) {
			r.Bundle, r.Seq = b.Good.String(), b.Seq
		}
		r.Trial = hex.EncodeToString(b.Trial)
	}
	for _, q := range st.Queues {
		r.Queued += q.Head - min(q.Acked, q.Head)
		if q.Class == uint64(batch.Detail) {
			r.Lost += q.Lost
		}
	}
	for _, d := range st.Drops {
		r.Dropped += d.N
	}
	if v := st.Last; v != nil {
		r.Refused, r.Why = v.Word, v.Detail
	}
	return r
}

// domainOf reads the trust domain that a sealed batch names.
func domainOf(sealed []byte) (d trust.Domain, err error) {
	m, err := envelope.Parse(sealed, envelope.Batch)
	if err != nil {
		return d, err
	}
	c := canon.Walk(m.Payload)
	c.Map()
	c.Uint()
	c.Text()
	c.Uint()
	b, ok := c.Bytes()
	if !ok || len(b) != len(d) {
		return d, fmt.Errorf("sealed batch names no trust domain")
	}
	return trust.Domain(b), nil
}
