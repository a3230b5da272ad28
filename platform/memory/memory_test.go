package memory_test

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"tidegate/platform/memory"
)

// files makes a file system out of "name: content" lines.
func files(list ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for _, f := range list {
		name, content, _ := strings.Cut(f, ": ")
		m[name] = &fstest.MapFile{Data: []byte(content + "\n")}
	}
	return m
}

const (
	mib     = 1 << 20
	machine = "proc/meminfo: MemTotal:        1048576 kB\nMemFree: 5 kB"
)

func TestLimits(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		want  memory.Limits
	}{
		"nothing":      {nil, memory.Limits{}},
		"only machine": {[]string{machine}, memory.Limits{Bytes: 1024 * mib, Source: "the size of the machine"}},
		"version 2": {[]string{
			machine, "proc/self/cgroup: 0::/system.slice/tidegate.service",
			"sys/fs/cgroup/system.slice/tidegate.service/memory.max: 268435456", "sys/fs/cgroup/system.slice/memory.max: max",
			"sys/fs/cgroup/system.slice/tidegate.service/cpu.max: 20000 100000",
		}, memory.Limits{Bytes: 256 * mib, Explicit: true, CPUs: 0.2, Source: "control group /system.slice/tidegate.service"}},
		"version 2, the parent is tighter": {[]string{
			machine, "proc/self/cgroup: 0::/a/b",
			"sys/fs/cgroup/a/b/memory.max: 268435456", "sys/fs/cgroup/a/memory.max: 134217728", "sys/fs/cgroup/a/cpu.max: 50000 100000", "sys/fs/cgroup/a/b/cpu.max: max 100000",
		}, memory.Limits{Bytes: 128 * mib, Explicit: true, CPUs: 0.5, Source: "control group /a/b"}},
		"version 2, in a container": {[]string{
			machine, "proc/self/cgroup: 0::/", "sys/fs/cgroup/memory.max: 268435456",
		}, memory.Limits{Bytes: 256 * mib, Explicit: true, Source: "control group /"}},
		"version 1": {[]string{
			machine, "proc/self/cgroup: 5:memory:/x\n4:cpu,cpuacct:/x\n1:name=systemd:/x",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes: 268435456", "sys/fs/cgroup/memory/memory.limit_in_bytes: 9223372036854771712",
			"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us: 20000", "sys/fs/cgroup/cpu/x/cpu.cfs_period_us: 100000", "sys/fs/cgroup/cpu/cpu.cfs_quota_us: -1",
		}, memory.Limits{Bytes: 256 * mib, Explicit: true, CPUs: 0.2, Source: "control group /x"}},
		"version 1, path not shown in the container": {[]string{
			machine, "proc/self/cgroup: 5:memory:/docker/abc", "sys/fs/cgroup/memory/memory.limit_in_bytes: 268435456",
		}, memory.Limits{Bytes: 256 * mib, Explicit: true, Source: "control group /docker/abc"}},
		"above the machine": {[]string{
			machine, "proc/self/cgroup: 0::/a", "sys/fs/cgroup/a/memory.max: 4294967296",
		}, memory.Limits{Bytes: 1024 * mib, Source: "the size of the machine"}},
		"junk": {[]string{
			"proc/meminfo: MemTotal: lots", "proc/self/cgroup: x\n0::\n0::relative", "sys/fs/cgroup/memory.max: -5",
		}, memory.Limits{}},
	} {
		if got := memory.Read(files(c.files...)); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestThisSystemCanBeRead(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	root := os.DirFS("/")
	if l := memory.Read(root); l.Bytes < 16*mib {
		t.Errorf("%+v", l)
	}
	if n := memory.Resident(root); n < mib {
		t.Errorf("resident %d", n)
	}
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		l          memory.Limits
		soft, work int64
	}{
		{memory.Limits{Bytes: 256 * mib, Explicit: true}, 192 * mib, 144 * mib},
		{memory.Limits{Bytes: 64 * mib, Explicit: true}, 48 * mib, 12 * mib},
		{memory.Limits{Bytes: 1000 * mib}, 400 * mib, 352 * mib},
		{memory.Limits{}, 192 * mib, 144 * mib},
	} {
		b := memory.Plan(c.l)
		if b.Soft != c.soft || b.Work != c.work || b.Work > b.Soft || !strings.Contains(b.String(), "MiB") {
			t.Errorf("%+v: got soft %d, work %d MiB, want %d, %d", c.l, b.Soft/mib, b.Work/mib, c.soft/mib, c.work/mib)
		}
	}
}

func TestApply(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	t.Setenv("GOMEMLIMIT", "")
	memory.Plan(memory.Limits{Bytes: 256 * mib, Explicit: true}).Apply()
	if got := debug.SetMemoryLimit(-1); got != 192*mib {
		t.Errorf("soft limit %d", got)
	}
	t.Setenv("GOMEMLIMIT", "100MiB")
	debug.SetMemoryLimit(100 * mib) // as the runtime does at start
	if b := memory.Plan(memory.Limits{Bytes: 256 * mib, Explicit: true}).Apply(); b.Soft != 100*mib || debug.SetMemoryLimit(-1) != 100*mib {
		t.Errorf("with GOMEMLIMIT: %+v", b)
	}
}

func TestPoolNeverGivesMoreThanItHas(t *testing.T) {
	p := memory.NewPool(100)
	if p.Acquire(101) || p.Acquire(math.MaxInt64) || !p.Acquire(60) || p.Acquire(41) || !p.Acquire(40) || p.Acquire(1) || !p.Acquire(0) || !p.Acquire(-5) {
		t.Errorf("%+v", p.Stats())
	}
	p.Release(60)
	p.Release(-5)
	if s := p.Stats(); s.Used != 40 || s.Peak != 100 || s.Shed != 4 {
		t.Errorf("%+v", s)
	}
	p.Release(40)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a release too many went unseen")
			}
		}()
		p.Release(1)
	}()
}

func TestPoolTogether(t *testing.T) {
	p := memory.NewPool(1000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 2000 {
				if n := int64(i % 300); p.Acquire(n) {
					if used := p.Stats().Used; used > 1000 {
						t.Errorf("%d of 1000 are used", used)
					}
					p.Release(n)
				}
			}
		})
	}
	wg.Wait()
	if s := p.Stats(); s.Used != 0 || s.Peak > 1000 {
		t.Errorf("%+v", s)
	}
}

func BenchmarkPool(b *testing.B) {
	p := memory.NewPool(1 << 30)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if p.Acquire(4096) {
				p.Release(4096)
			}
		}
	})
}
