// Package revoked keeps the revocations that reach a device after its bundle: on disk
// before they are reported as taken, in force from the next call, and in force again from
// the first call after a power cut.
//
// An entry names a credential by a hash; what it was cannot be read back. An entry whose time
// has passed goes when room is needed, and only then: the clock of a device may turn back,
// its list does not. The package does not decide who may revoke.
package revoked

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/refusal"
	"tidegate/store"
)

var _ auth.Revoked = (*List)(nil)

// Max is the most entries of a list: 2.5 MB of memory and about 3 MB of state.db.
const Max = 100_000

// bucket holds the list in state.db. A key is the first byte of the hashes of its value, which
// is their entries in ascending order: one revocation writes a few pages, however long the
// list is, and the list fills its pages.
const bucket = "revoked"

// entryBytes is the size of an entry on disk: kind, hash, until.
const entryBytes = 1 + 16 + 8

// entry is one revocation in memory, 24 bytes.
type entry struct {
	hash  [16]byte
	until uint64
}

// kinds is the number of kinds, with an unused one at zero.
const kinds = policy.RevokedUser + 1

// table is an immutable list: the entries of each kind in ascending order of their hashes.
type table [kinds][]entry

// A List is the revocations of one device (auth.Revoked). All methods are safe for
// concurrent use; Until takes no lock.
type List struct {
	db *store.DB // nil: memory only

	mu         sync.Mutex // of changes
	table      atomic.Pointer[table]
	generation atomic.Uint64
}

// Open reads the list of db. A nil db is a list in memory: what is added lasts until the
// end of the process. With an error the returned list holds what could be read.
func Open(db *store.DB) (*List, error) {
	l := &List{db: db}
	t := new(table)
	l.table.Store(t)
	if db == nil {
		return l, nil
	}
	var bad []error
	err := db.View(func(tx *store.Tx) error {
		return tx.Bucket(bucket).Each(func(key, value []byte) error {
			list, err := decode(key, value)
			if err != nil {
				bad = append(bad, fmt.Errorf("part %x: %w", key, err))
				return nil
			}
			for _, r := range list {
				t[r.Kind] = append(t[r.Kind], entry{r.Hash, r.Until})
			}
			return nil
		})
	})
	for k := range t { // parts come in the order of hashes
		t[k] = slices.Clip(t[k])
	}
	if err := errors.Join(append(bad, err)...); err != nil {
		return l, fmt.Errorf("revocations: %w", err)
	}
	return l, nil
}

// Generation implements auth.Revoked.
func (l *List) Generation() uint64 { return l.generation.Load() }

// Until implements auth.Revoked.
func (l *List) Until(kind policy.RevocationKind, hash [16]byte) (uint64, bool) {
	if kind >= kinds {
		return 0, false
	}
	list := l.table.Load()[kind]
	i, ok := find(list, &hash)
	if !ok {
		return 0, false
	}
	return list[i].until, true
}

func find(list []entry, hash *[16]byte) (int, bool) {
	i, j := 0, len(list)
	for i < j {
		mid := int(uint(i+j) >> 1)
		switch c := bytes.Compare(list[mid].hash[:], hash[:]); {
		case c == 0:
			return mid, true
		case c < 0:
			i = mid + 1
		default:
			j = mid
		}
	}
	return i, false
}

// Len returns the number of entries.
func (l *List) Len() int { return l.table.Load().len() }

func (t *table) len() int {
	n := 0
	for _, list := range t {
		n += len(list)
	}
	return n
}

// Counts returns the number of entries by kind.
func (l *List) Counts() map[policy.RevocationKind]int {
	out := map[policy.RevocationKind]int{}
	for k, list := range l.table.Load() {
		if len(list) > 0 {
			out[policy.RevocationKind(k)] = len(list)
		}
	}
	return out
}

// Add takes revocations in and returns how many were new or reach further than before.
// When it returns nil they are on disk and in force. Of two with one name the longer
// counts. An entry that ended before lower, in Unix seconds, gives way when the list is full; the
// error is then E_LIMIT when there is still no room, and nothing of rs is taken. also, if not
// nil, writes in the same transaction; it is not called when nothing changes.
func (l *List) Add(lower int64, rs []policy.Revocation, also func(tx *store.Tx, n int) error) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := *l.table.Load()
	touched := map[byte]bool{}
	n, err := next.merge(rs, touched)
	if err != nil || n == 0 {
		return 0, err
	}
	if next.len() > Max {
		next.drop(lower, touched)
	}
	if have := next.len(); have > Max {
		return 0, refusal.New(refusal.Limit, "%d revocations: at most %d are possible", have, Max).
			WithHint("build a bundle with them: those of a bundle do not count here")
	}
	if l.db != nil {
		err := l.db.Update(func(tx *store.Tx) error {
			b := tx.Bucket(bucket)
			for first := range touched {
				if err := next.put(b, first); err != nil {
					return err
				}
			}
			if also == nil {
				return nil
			}
			return also(tx, n)
		})
		if err != nil {
			return 0, fmt.Errorf("revocations: %w", err)
		}
	}
	l.table.Store(&next)
	l.generation.Add(1) // after the entries can be seen
	return n, nil
}

// merge puts rs into t, whose lists are copied before they change, and notes the parts that
// change on disk.
func (t *table) merge(rs []policy.Revocation, touched map[byte]bool) (int, error) {
	byKind := [kinds][]entry{}
	for _, r := range rs {
		if r.Kind == 0 || r.Kind >= kinds {
			return 0, fmt.Errorf("revocation of unknown kind %d", r.Kind)
		}
		byKind[r.Kind] = append(byKind[r.Kind], entry{r.Hash, r.Until})
	}
	changed := 0
	for k, add := range byKind {
		if len(add) == 0 {
			continue
		}
		slices.SortStableFunc(add, func(a, b entry) int { return bytes.Compare(a.hash[:], b.hash[:]) })
		old := t[k]
		out := make([]entry, 0, len(old)+len(add))
		for len(add) > 0 {
			i, same := find(old, &add[0].hash)
			out = append(out, old[:i]...)
			old = old[i:]
			e, known := add[0], false
			if same {
				e.until, known = further(old[0].until, e.until), old[0].until == further(old[0].until, e.until)
				old = old[1:]
			}
			for add = add[1:]; len(add) > 0 && add[0].hash == e.hash; add = add[1:] {
				u := further(e.until, add[0].until)
				known = known && u == e.until
				e.until = u
			}
			if !known {
				changed++
				touched[e.hash[0]] = true
			}
			out = append(out, e)
		}
		t[k] = append(out, old...)
	}
	return changed, nil
}

// further returns the later of two ends, where 0 is none.
func further(a, b uint64) uint64 {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// drop takes out what ended before lower.
func (t *table) drop(lower int64, touched map[byte]bool) {
	for k, list := range t {
		kept := make([]entry, 0, len(list))
		for _, e := range list {
			if e.until != 0 && lower > 0 && e.until <= uint64(lower) {
				touched[e.hash[0]] = true
				continue
			}
			kept = append(kept, e)
		}
		t[k] = kept
	}
}

// put writes the part of the entries whose hash begins with first.
func (t *table) put(b *store.Bucket, first byte) error {
	var out []byte
	for k, list := range t {
		lo := [16]byte{first}
		i, _ := find(list, &lo)
		for ; i < len(list) && list[i].hash[0] == first; i++ {
			out = append(out, byte(k))
			out = append(out, list[i].hash[:]...)
			out = binary.BigEndian.AppendUint64(out, list[i].until)
		}
	}
	if len(out) == 0 {
		return b.Delete([]byte{first})
	}
	return b.Put([]byte{first}, out)
}

var errPart = errors.New("does not read as revocations")

// decode reads a part.
func decode(key, value []byte) ([]policy.Revocation, error) {
	if len(key) != 1 || len(value)%entryBytes != 0 {
		return nil, errPart
	}
	var out []policy.Revocation
	for ; len(value) > 0; value = value[entryBytes:] {
		r := policy.Revocation{Kind: policy.RevocationKind(value[0]), Hash: [16]byte(value[1:17]), Until: binary.BigEndian.Uint64(value[17:])}
		if r.Kind == 0 || r.Kind >= kinds || r.Hash[0] != key[0] {
			return nil, errPart
		}
		if n := len(out); n > 0 && out[n-1].Kind == r.Kind && bytes.Compare(out[n-1].Hash[:], r.Hash[:]) >= 0 || n > 0 && out[n-1].Kind > r.Kind {
			return nil, errPart
		}
		out = append(out, r)
	}
	return out, nil
}
