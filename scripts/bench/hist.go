package main

import (
	"math/bits"
	"time"
)

// A hist counts durations in buckets of equal relative width: 64 to each power of two, so
// that what it returns is at most 1.6 % off. Its size is fixed and adding to it allocates nothing.
type hist struct {
	n     uint64
	most  time.Duration
	count [64 * 64]uint32
}

const histBits = 6

func (h *hist) add(d time.Duration) {
	h.n++
	h.most = max(h.most, d)
	h.count[bucket(uint64(max(d, 0)))]++
}

// bucket returns the bucket of v: its leading 7 bits and their place.
func bucket(v uint64) int {
	shift := bits.Len64(v) - histBits - 1
	if shift <= 0 {
		return int(v)
	}
	return shift<<histBits + int(v>>shift)
}

// least returns the least value of a bucket.
func least(i int) uint64 {
	shift := i>>histBits - 1
	if shift <= 0 {
		return uint64(i)
	}
	return (uint64(i)&(1<<histBits-1) | 1<<histBits) << shift
}

// at returns the duration below which a share q of all lies.
func (h *hist) at(q float64) time.Duration {
	want := uint64(q * float64(h.n))
	var seen uint64
	for i, c := range h.count {
		if seen += uint64(c); seen > want {
			return min(time.Duration(least(i+1)-1), h.most)
		}
	}
	return h.most
}
