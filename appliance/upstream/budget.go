package upstream

import "sync/atomic"

// A budget bounds retries to a tenth of the calls, so that a struggling backend is not
// pushed over by its own clients. It starts with room for ten.
type budget struct{ tenths atomic.Int64 }

const (
	retryCost = 10
	budgetCap = 100 * retryCost
)

func newBudget() *budget {
	b := &budget{}
	b.tenths.Store(10 * retryCost)
	return b
}

// deposit counts one call.
func (b *budget) deposit() {
	if b.tenths.Load() < budgetCap {
		b.tenths.Add(1)
	}
}

// withdraw reports whether one retry is within the budget, and takes it.
func (b *budget) withdraw() bool {
	for {
		n := b.tenths.Load()
		if n < retryCost {
			return false
		}
		if b.tenths.CompareAndSwap(n, n-retryCost) {
			return true
		}
	}
}
