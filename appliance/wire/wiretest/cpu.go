package wiretest

import (
	"syscall"
	"testing"
	"time"
)

// CPU reports the processor time of the whole process per operation, from its call to that of what
// it returns: on a busy machine it says more than the wall clock. The peers on loopback are in it.
func CPU(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	from := used()
	return func() { b.ReportMetric(float64(used()-from)/float64(b.N), "cpu-ns/op") }
}
