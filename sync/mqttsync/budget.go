package mqttsync

import (
	"errors"
	"sync"
	"tidegate/sync/canon"
)

// errBudget says that the bytes of the day are spent.
var errBudget = errors.New("mqtt.bytes_per_day is spent")

const budgetKey = "budget"

// A budget counts the bytes of a day. Where there is a cap, bytes are reserved on disk before
// they are used: a power cut can lose reserved bytes, and never gives any twice.
type budget struct {
	memory Memory
	limit  int64 // 0: none
	today  func() int64

	mu       sync.Mutex
	day      int64
	used     int64
	reserved int64
}

type wireBudget struct {
	_    struct{} `cbor:",toarray"`
	Day  int64
	Used int64
}

func newBudget(m Memory, limit int64, today func() int64) (*budget, error) {
	b := &budget{memory: m, limit: limit, today: today}
	v, err := m.Load(budgetKey)
	if err != nil {
		return nil, err
	}
	if v != nil {
		var w wireBudget
		if err := canon.Unmarshal(v, &w, canon.Within(64)); err != nil {
			return nil, err
		}
		b.day, b.used, b.reserved = w.Day, w.Used, w.Used
	}
	return b, nil
}

// Spend implements pipe.Meter.
func (b *budget) Spend(n int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn()
	if b.limit > 0 && b.used+int64(n) > b.reserved {
		step := max(b.limit/64, 64<<10, int64(n))
		next := min(b.limit, b.used+step)
		if b.used+int64(n) > next {
			return errBudget
		}
		if err := b.save(next); err != nil {
			return err
		}
		b.reserved = next
	}
	b.used += int64(n)
	return nil
}

// turn begins a new day. Days never go back.
func (b *budget) turn() {
	if d := b.today(); d > b.day {
		b.day, b.used, b.reserved = d, 0, 0
	}
}

func (b *budget) save(used int64) error {
	v, err := canon.Marshal(wireBudget{Day: b.day, Used: used})
	if err != nil {
		return err
	}
	return b.memory.Save(budgetKey, v)
}

// empty reports whether nothing more may be sent today.
func (b *budget) empty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn()
	return b.limit > 0 && b.limit-b.used < 1<<10
}

func (b *budget) spent() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn()
	return b.used
}

// close gives back what was reserved and not used.
func (b *budget) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limit == 0 || b.used == b.reserved {
		return nil
	}
	return b.save(b.used)
}
