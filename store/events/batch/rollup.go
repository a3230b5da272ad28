package batch

import (
	"encoding/binary"
	"strings"
	"time"
)

// The columns of a roll-up batch. Their order is the format.
const (
	rolMinute = iota // minutes after the row before it; the first: after the minute of the batch's start
	rolAPI
	rolVersion
	rolApplication
	rolName
	rolClass
	rolLevel
	rolCalls
	rolRetries
	rolIn
	rolOut
	rolTotal
	rolBackend
	rolSlowest
	rolOverQuota
	rolCached
	rolTokenCached
	rolDoubt
	rolColumns
)

var rolNames = []string{
	"minute", "api", "version", "application", "name", "class", "level", "calls", "retries", "in", "out",
	"total", "backend", "slowest", "over quota", "cached", "token cached", "doubt",
}

type rollUpKey struct {
	minute            int64
	api, version, app string
	class             uint8
	level             Level
}

// A Table counts calls by minute, API, application, status class and level. It keeps no
// string of an event. It is for one goroutine.
//
// A batch of roll-ups counts the calls since the batch before it: rows of one minute in
// several batches are to be added up.
type Table struct {
	Packer *Packer // nil: one of its own, made by the first Pack

	index map[rollUpKey]int
	rows  []RollUp
	names map[string]string // one copy of each text
	text  int               // bytes of them
	now   time.Time
	start Stamp
	last  int64 // unix minute of the newest row
	calls uint64
}

// Rows returns the number of rows.
func (t *Table) Rows() int { return len(t.rows) }

// Full reports whether the next event might not fit.
func (t *Table) Full() bool { return len(t.rows) >= maxRows || t.text >= maxRowText }

// A table within these bounds packs into less than MaxBody even when nothing of it repeats.
const (
	maxRows    = 512
	maxRowText = 16 << 10
)

// Add counts e, of the moment that now and start give by two clocks.
func (t *Table) Add(e *Event, now time.Time, start Stamp) {
	if len(t.rows) == 0 {
		t.now, t.start = now, start
	}
	at := t.start.Unix.Add(e.Time.Sub(t.now))
	k := rollUpKey{minute: floorMinute(at), api: e.API, version: e.Version, app: e.ApplicationID, class: e.Class(), level: e.Level}
	i, ok := t.index[k]
	if !ok {
		i = t.open(k, e)
	}
	r := &t.rows[i]
	t.calls++
	r.Calls++
	r.Retries += uint64(e.Retries)
	r.BytesIn += e.BytesIn
	r.BytesOut += e.BytesOut
	total := time.Duration(micros(e.Total)) * time.Microsecond
	r.Total = min(r.Total+total, maxMicros*time.Microsecond)
	r.Backend = min(r.Backend+time.Duration(micros(e.Backend))*time.Microsecond, maxMicros*time.Microsecond)
	r.Slowest = max(r.Slowest, total)
	for _, f := range []struct {
		flag Flags
		n    *uint64
	}{{OverQuota, &r.OverQuota}, {ResponseCached, &r.Cached}, {TokenCached, &r.TokenCached}, {Unsynced, &r.Doubt}} {
		if e.Flags&f.flag != 0 {
			*f.n++
		}
	}
}

func (t *Table) open(k rollUpKey, e *Event) int {
	if t.index == nil {
		t.index, t.names = make(map[rollUpKey]int), make(map[string]string)
	}
	k.api, k.version, k.app = t.own(k.api), t.own(k.version), t.own(k.app)
	t.index[k] = len(t.rows)
	t.rows = append(t.rows, RollUp{
		Minute: time.Unix(k.minute*60, 0).UTC(), API: k.api, Version: k.version,
		ApplicationID: k.app, ApplicationName: t.own(e.ApplicationName), Class: k.class, Level: k.level,
	})
	t.last = k.minute
	return len(t.rows) - 1
}

func (t *Table) own(s string) string {
	kept, ok := t.names[s]
	if !ok {
		kept = strings.Clone(s)
		t.names[kept] = kept
		t.text += len(kept)
	}
	return kept
}

func floorMinute(at time.Time) int64 {
	s := at.Unix()
	m := s / 60
	if s%60 < 0 {
		m--
	}
	return m
}

// Pack turns the table into a batch, without Epoch, Seq, BootID and Lost, and starts anew.
// The batch has Count 0 when there was nothing to pack.
func (t *Table) Pack() (Batch, error) {
	defer t.reset()
	b := Batch{Header: Header{Class: RollUps, Start: t.start, Count: len(t.rows), Calls: t.calls}}
	if b.Count == 0 {
		return b, nil
	}
	var texts dictionary
	columns := make([][]byte, rolColumns)
	put := func(column int, v uint64) { columns[column] = binary.AppendUvarint(columns[column], v) }
	last := floorMinute(t.start.Unix)
	for i := range t.rows {
		r := &t.rows[i]
		minute := floorMinute(r.Minute)
		put(rolMinute, zigzag(minute-last))
		last = minute
		put(rolAPI, texts.number(r.API))
		put(rolVersion, texts.number(r.Version))
		put(rolApplication, texts.number(r.ApplicationID))
		put(rolName, texts.number(r.ApplicationName))
		put(rolClass, uint64(r.Class))
		put(rolLevel, uint64(r.Level))
		for j, v := range r.sums() {
			put(rolCalls+j, v)
		}
		if end := r.Minute.Add(time.Minute).Sub(t.start.Unix); end > b.Span {
			b.Span = end.Truncate(time.Microsecond)
		}
	}
	for i, c := range columns {
		if zeros(c) {
			columns[i] = nil
		}
	}
	if t.Packer == nil {
		t.Packer = new(Packer)
	}
	_, err := t.Packer.pack(&b, &body{Version: bodyVersion, Strings: texts.texts, Columns: columns})
	return b, err
}

// sums are the columns from rolCalls on.
func (r *RollUp) sums() [rolColumns - rolCalls]uint64 {
	return [...]uint64{
		r.Calls, r.Retries, r.BytesIn, r.BytesOut, uint64(r.Total.Microseconds()),
		uint64(r.Backend.Microseconds()), uint64(r.Slowest.Microseconds()), r.OverQuota, r.Cached, r.TokenCached, r.Doubt,
	}
}

func (t *Table) reset() {
	clear(t.index)
	clear(t.names)
	clear(t.rows)
	t.rows, t.calls, t.text = t.rows[:0], 0, 0
}

func (b *Batch) rollUps(yield func(*RollUp, error) bool) {
	content, err := unpack(b, RollUps, 0, rolColumns)
	if err != nil {
		yield(nil, err)
		return
	}
	col := readers(content.Columns, rolNames, &err)
	minute := floorMinute(b.Start.Unix)
	for range b.Count {
		minute += col[rolMinute].signed()
		if minute < -maxMinute || minute > maxMinute {
			col[rolMinute].fail("leaves the range of times")
		}
		r := RollUp{
			Minute: time.Unix(minute*60, 0).UTC(),
			API:    col[rolAPI].text(content.Strings), Version: col[rolVersion].text(content.Strings),
			ApplicationID: col[rolApplication].text(content.Strings), ApplicationName: col[rolName].text(content.Strings),
			Class: uint8(col[rolClass].below(6)), Level: Level(col[rolLevel].below(1 << 8)),
			Calls: col[rolCalls].next(), Retries: col[rolRetries].next(),
			BytesIn: col[rolIn].next(), BytesOut: col[rolOut].next(),
			Total:     time.Duration(col[rolTotal].below(maxMicros+1)) * time.Microsecond,
			Backend:   time.Duration(col[rolBackend].below(maxMicros+1)) * time.Microsecond,
			Slowest:   time.Duration(col[rolSlowest].below(maxMicros+1)) * time.Microsecond,
			OverQuota: col[rolOverQuota].next(), Cached: col[rolCached].next(),
			TokenCached: col[rolTokenCached].next(), Doubt: col[rolDoubt].next(),
		}
		if err != nil {
			break
		}
		if !yield(&r, nil) {
			return
		}
	}
	if err == nil {
		finish(col)
	}
	if err != nil {
		yield(nil, err)
	}
}

// maxMinute bounds the minutes of roll-ups: 1,900 years from 1970 either way.
const maxMinute = 1 << 30
