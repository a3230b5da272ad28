package main

import (
	"testing"
	"time"
)

func TestBucketsAreOrderedAndNarrow(t *testing.T) {
	last := -1
	for v := uint64(0); v < 1<<40; v += 1 + v/100 {
		i := bucket(v)
		if i < last || least(i) > v || least(i+1) <= v {
			t.Fatalf("%d is in bucket %d of [%d, %d), after %d", v, i, least(i), least(i+1), last)
		}
		if width := least(i+1) - least(i); v > 64 && float64(width) > 0.016*float64(v) {
			t.Fatalf("the bucket of %d is %d wide", v, width)
		}
		last = i
	}
}

func TestSharesOfAHistogram(t *testing.T) {
	var h hist
	for i := 1; i <= 1000; i++ {
		h.add(time.Duration(i) * time.Microsecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Microsecond, 0.99: 990 * time.Microsecond, 1: 1000 * time.Microsecond} {
		if got := h.at(q); got < want*98/100 || got > want*102/100 {
			t.Errorf("%v: got %v, want about %v", q, got, want)
		}
	}
}
