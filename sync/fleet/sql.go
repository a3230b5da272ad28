package fleet

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"tidegate/store/events/batch"
	"tidegate/sync/envelope"
	"tidegate/sync/report"
	"tidegate/sync/trust"
	"time"
)

// A dialect is what differs between databases.
type dialect struct {
	blob     string // type of bytes
	lock     string // suffix of a SELECT that locks its rows
	numbered bool   // parameters are $1, $2 …
}

// Rows says whether calls are also stored one by one.
type Rows uint8

// The choices.
const (
	CallRows  Rows = iota // a row per call beside the batch, for queries
	BatchOnly             // batches as they came; read them with export
)

// database is a Store over an engine.
type database struct {
	db   engine
	d    dialect
	rows Rows
}

// schemaVersion is raised with each change of the tables.
const schemaVersion = 1

// tables are the schema. Times are microseconds since 1970 unless said otherwise; ids and
// digests are text, so that any tool can read them.
func (s *database) tables() []string {
	blob := s.d.blob
	return []string{
		`CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)`,
		`CREATE TABLE IF NOT EXISTS keys (device TEXT PRIMARY KEY, report ` + blob + ` NOT NULL)`,
		`CREATE TABLE IF NOT EXISTS batches (device TEXT NOT NULL, epoch TEXT NOT NULL, seq BIGINT NOT NULL,
			class INTEGER NOT NULL, boot TEXT NOT NULL, start_boot_us BIGINT NOT NULL, start_us BIGINT NOT NULL, clock TEXT NOT NULL,
			calls BIGINT NOT NULL, received_us BIGINT NOT NULL, sealed ` + blob + ` NOT NULL, PRIMARY KEY (device, epoch, seq))`,
		`CREATE INDEX IF NOT EXISTS batches_received ON batches (received_us)`,
		`CREATE TABLE IF NOT EXISTS losses (device TEXT NOT NULL, epoch TEXT NOT NULL, number BIGINT NOT NULL,
			class INTEGER NOT NULL, from_seq BIGINT NOT NULL, to_seq BIGINT NOT NULL, calls BIGINT, bytes BIGINT NOT NULL,
			first_s BIGINT NOT NULL, last_s BIGINT NOT NULL, reason TEXT NOT NULL, received_us BIGINT NOT NULL,
			PRIMARY KEY (device, epoch, number))`,
		`CREATE TABLE IF NOT EXISTS marks (device TEXT NOT NULL, epoch TEXT NOT NULL, upto BIGINT NOT NULL, touched_us BIGINT NOT NULL,
			PRIMARY KEY (device, epoch))`,
		`CREATE TABLE IF NOT EXISTS status (device TEXT PRIMARY KEY, received_us BIGINT NOT NULL, online INTEGER NOT NULL,
			boot TEXT NOT NULL, nonce TEXT NOT NULL, state TEXT NOT NULL, bundle TEXT NOT NULL, seq BIGINT NOT NULL, since_us BIGINT NOT NULL,
			json TEXT NOT NULL)`,
		`CREATE TABLE IF NOT EXISTS results (device TEXT NOT NULL, number BIGINT NOT NULL, digest TEXT NOT NULL, phase TEXT NOT NULL,
			word TEXT NOT NULL, detail TEXT NOT NULL, seq BIGINT NOT NULL, issued_s BIGINT NOT NULL, received_us BIGINT NOT NULL,
			PRIMARY KEY (device, number, digest, phase))`,
		`CREATE TABLE IF NOT EXISTS calls (device TEXT NOT NULL, epoch TEXT NOT NULL, batch BIGINT NOT NULL, idx INTEGER NOT NULL,
			time_us BIGINT NOT NULL, api TEXT NOT NULL, version TEXT NOT NULL, method TEXT NOT NULL, template TEXT NOT NULL,
			status INTEGER NOT NULL, fault BIGINT NOT NULL, refused_by TEXT NOT NULL, application TEXT NOT NULL, plan TEXT NOT NULL,
			user_name TEXT NOT NULL, client TEXT NOT NULL, total_us BIGINT NOT NULL, backend_us BIGINT NOT NULL,
			bytes_in BIGINT NOT NULL, bytes_out BIGINT NOT NULL, PRIMARY KEY (device, epoch, batch, idx))`,
	}
}

const callColumns = 20

// begin makes the tables, or finds them of another version.
func (s *database) begin(ctx context.Context) error {
	return s.db.in(ctx, func(tx conn) error {
		for _, q := range s.tables() {
			if _, err := tx.exec(ctx, q); err != nil {
				return err
			}
		}
		if _, err := tx.exec(ctx, s.q(`INSERT INTO meta (name, value) VALUES ('schema', ?) ON CONFLICT DO NOTHING`), strconv.Itoa(schemaVersion)); err != nil {
			return err
		}
		var v string
		if err := one(ctx, tx, `SELECT value FROM meta WHERE name = 'schema'`, nil, &v); err != nil {
			return err
		}
		if v != strconv.Itoa(schemaVersion) {
			return fmt.Errorf("database has schema %s, this program writes %d", v, schemaVersion)
		}
		return nil
	})
}

// q writes parameters as the database wants them.
func (s *database) q(query string) string {
	if !s.d.numbered {
		return query
	}
	var b strings.Builder
	n := 0
	for _, r := range query {
		if r == '?' {
			n++
			b.WriteString("$" + strconv.Itoa(n))
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Close closes the database.
func (s *database) Close() error { return s.db.Close() }

// name is an epoch of a device, the unit of marks.
type name struct {
	device trust.DeviceID
	epoch  batch.Epoch
}

func compareNames(a, b name) int {
	if c := strings.Compare(string(a.device[:]), string(b.device[:])); c != 0 {
		return c
	}
	return strings.Compare(string(a.epoch[:]), string(b.epoch[:]))
}

func text(e batch.Epoch) string   { return hex.EncodeToString(e[:]) }
func micro(t time.Time) int64     { return t.UnixMicro() }
func fromMicro(n int64) time.Time { return time.UnixMicro(n).UTC() }
func parseEpoch(s string) (e batch.Epoch, err error) {
	b, err := hex.DecodeString(s)
	if err == nil && len(b) != len(e) {
		err = fmt.Errorf("epoch %q", s)
	}
	copy(e[:], b)
	return e, err
}

// Put implements [Store].
func (s *database) Put(ctx context.Context, in Intake) (marks []Mark, err error) {
	err = s.db.in(ctx, func(tx conn) error {
		marks = marks[:0]
		t := &transaction{s: s, ctx: ctx, tx: tx}
		touched, err := t.lockMarks(&in)
		if err != nil {
			return err
		}
		for i := range in.Batches {
			if err := t.putBatch(&in.Batches[i]); err != nil {
				return err
			}
		}
		for i := range in.Losses {
			if err := t.putLoss(&in.Losses[i]); err != nil {
				return err
			}
		}
		for i := range in.Statuses {
			if err := t.putStatus(&in.Statuses[i]); err != nil {
				return err
			}
		}
		for i := range in.Wills {
			if err := t.putWill(&in.Wills[i]); err != nil {
				return err
			}
		}
		for i := range in.Results {
			if err := t.putResult(&in.Results[i]); err != nil {
				return err
			}
		}
		for _, n := range touched {
			m, err := t.advance(n)
			if err != nil {
				return err
			}
			marks = append(marks, m)
		}
		return nil
	})
	return marks, err
}

// Marks implements [Store].
func (s *database) Marks(ctx context.Context, id trust.DeviceID, n int) ([]Mark, error) {
	rows, err := s.db.query(ctx, s.q(`SELECT epoch, upto FROM marks WHERE device = ? ORDER BY touched_us DESC LIMIT ?`), id.String(), n)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // Err is asked
	var all []Mark
	for rows.Next() {
		var e string
		m := Mark{Device: id}
		if err := rows.Scan(&e, &m.UpTo); err != nil {
			return nil, err
		}
		if m.Epoch, err = parseEpoch(e); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, rows.Err()
}

// Devices implements [Store].
func (s *database) Devices(ctx context.Context) iter.Seq2[DeviceRow, error] {
	return func(yield func(DeviceRow, error) bool) {
		rows, err := s.db.query(ctx, `SELECT s.json, s.received_us, s.online, s.since_us,
			(SELECT COUNT(*) FROM batches b WHERE b.device = s.device), (SELECT COALESCE(MAX(start_us), 0) FROM batches b WHERE b.device = s.device)
			FROM status s ORDER BY s.device`)
		if err != nil {
			yield(DeviceRow{}, err)
			return
		}
		defer rows.Close() //nolint:errcheck // Err is asked
		for rows.Next() {
			var r DeviceRow
			var js string
			var received, since, newest int64
			var online int
			err := rows.Scan(&js, &received, &online, &since, &r.Batches, &newest)
			stored := r.Batches
			if err == nil {
				err = json.Unmarshal([]byte(js), &r)
			}
			r.Batches, r.Heard, r.Online, r.Since = stored, fromMicro(received), online == 1, fromMicro(since)
			if newest > 0 {
				r.LastCall = fromMicro(newest)
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(DeviceRow{}, err)
		}
	}
}

func (f Filter) where() (string, []any) {
	where, args := ` WHERE received_us >= ?`, []any{int64(0)}
	if !f.Since.IsZero() {
		args[0] = micro(f.Since)
	}
	if f.Device != (trust.DeviceID{}) {
		where += ` AND device = ?`
		args = append(args, f.Device.String())
	}
	return where, args
}

// Batches implements [Store]. It reads a few batches at a time: its consumer may be slow.
func (s *database) Batches(ctx context.Context, f Filter) iter.Seq2[*batch.Batch, error] {
	return func(yield func(*batch.Batch, error) bool) {
		where, args := f.where()
		device, epoch, seq := "", "", int64(0)
		for {
			rows, err := s.page(ctx, where, args, device, epoch, seq)
			if err != nil {
				yield(nil, err)
				return
			}
			if len(rows) == 0 {
				return
			}
			for _, r := range rows {
				b, err := r.open()
				if !yield(b, err) || err != nil {
					return
				}
				device, epoch, seq = r.device, r.epoch, r.seq
			}
		}
	}
}

type batchRow struct {
	device, epoch string
	seq           int64
	sealed, key   []byte
}

const pageRows = 64

func (s *database) page(ctx context.Context, where string, args []any, device, epoch string, seq int64) ([]batchRow, error) {
	q := `SELECT b.device, b.epoch, b.seq, b.sealed, k.report FROM batches b JOIN keys k ON k.device = b.device` +
		strings.ReplaceAll(where, " device ", " b.device ") +
		` AND b.class = 1 AND (b.device, b.epoch, b.seq) > (?, ?, ?) ORDER BY b.device, b.epoch, b.seq LIMIT ` + strconv.Itoa(pageRows)
	rows, err := s.db.query(ctx, s.q(q), append(slices.Clone(args), device, epoch, seq)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // Err is asked
	var all []batchRow
	for rows.Next() {
		var r batchRow
		if err := rows.Scan(&r.device, &r.epoch, &r.seq, &r.sealed, &r.key); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

// open opens a stored batch: what was tampered with in the database is found.
func (r *batchRow) open() (*batch.Batch, error) {
	if len(r.key) != len(envelope.PublicKey{}) {
		return nil, fmt.Errorf("device %s: stored key of %d bytes", r.device, len(r.key))
	}
	domain, err := domainOf(r.sealed)
	if err != nil {
		return nil, err
	}
	o, err := report.NewOpener(domain, envelope.PublicKey(r.key))
	if err != nil {
		return nil, err
	}
	b, err := o.Batch(r.sealed)
	if err != nil {
		return nil, fmt.Errorf("device %s: stored batch %d of epoch %s: %w", r.device, r.seq, r.epoch, err)
	}
	return b, nil
}

// Losses implements [Store].
func (s *database) Losses(ctx context.Context, f Filter) ([]batch.Loss, error) {
	where, args := f.where()
	rows, err := s.db.query(ctx, s.q(`SELECT epoch, number, class, from_seq, to_seq, calls, bytes, first_s, last_s, reason FROM losses`+where+
		` ORDER BY device, number`), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // Err is asked
	var all []batch.Loss
	for rows.Next() {
		var l batch.Loss
		var e, reason string
		var calls sql.NullInt64
		var first, last int64
		if err := rows.Scan(&e, &l.Number, &l.Class, &l.From, &l.To, &calls, &l.Bytes, &first, &last, &reason); err != nil {
			return nil, err
		}
		if l.Epoch, err = parseEpoch(e); err != nil {
			return nil, err
		}
		l.Known, l.Calls = calls.Valid, uint64(calls.Int64) //nolint:gosec // stored from a uint64
		l.First, l.Last, l.Reason = time.Unix(first, 0).UTC(), time.Unix(last, 0).UTC(), batch.Reason(reason)
		all = append(all, l)
	}
	return all, rows.Err()
}

// Prune implements [Store]. Only what the marks cover goes: a batch above a gap would be
// taken for new if it came again.
func (s *database) Prune(ctx context.Context, t time.Time) (n int64, err error) {
	err = s.db.in(ctx, func(tx conn) error {
		const old = `received_us < ? AND seq <= (SELECT upto FROM marks m WHERE m.device = batches.device AND m.epoch = batches.epoch)`
		if _, err := tx.exec(ctx, s.q(`DELETE FROM calls WHERE EXISTS (SELECT 1 FROM batches WHERE batches.device = calls.device
			AND batches.epoch = calls.epoch AND batches.seq = calls.batch AND `+old+`)`), micro(t)); err != nil {
			return err
		}
		n, err = tx.exec(ctx, s.q(`DELETE FROM batches WHERE `+old), micro(t))
		return err
	})
	return n, err
}
