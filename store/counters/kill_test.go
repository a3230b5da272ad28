package counters

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/throttle"
	"tidegate/store"
	"time"
)

// The kill loop: a child process admits calls on a real file and says so on a pipe; the
// parent kills it with SIGKILL again and again and counts what it saw. Simulated time
// runs sixty times as fast, so that windows turn every second.

const (
	childFile  = "TIDEGATE_TEST_COUNTERS_FILE"
	childStart = "TIDEGATE_TEST_COUNTERS_START"
	childSpeed = "TIDEGATE_TEST_COUNTERS_SPEED"
	killsEnv   = "TIDEGATE_TEST_KILLS"
	childLimit = 100
	childHour  = 100_000
	childKeys  = 20
	childOpen  = "open" // the child's first line
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childFile); path != "" {
		if err := admitForever(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func childRules() (minute, hour *throttle.Rule, err error) {
	minute, err = throttle.Compile(throttle.Rule{Name: "minute", Level: policy.LevelSubscription, Limit: childLimit, Window: throttle.Window{Length: time.Minute}})
	if err != nil {
		return nil, nil, err
	}
	hour, err = throttle.Compile(throttle.Rule{Name: "hour", Level: policy.LevelApplication, Limit: childHour, Window: throttle.Window{Length: time.Hour}})
	return minute, hour, err
}

// admitForever is the child.
func admitForever(path string) error {
	start, err := strconv.ParseInt(os.Getenv(childStart), 10, 64)
	if err != nil {
		return err
	}
	speed, err := strconv.Atoi(os.Getenv(childSpeed))
	if err != nil {
		return err
	}
	minute, hour, err := childRules()
	if err != nil {
		return err
	}
	db, err := store.Open(path, store.Options{MaxBytes: 4 << 20, Schema: 1})
	if err != nil {
		return err
	}
	now := func() throttle.Instant { return at(time.Duration(speed) * time.Since(time.Unix(0, start))) }
	l, err := Open(In(db), now(), Options{})
	if err != nil {
		return err
	}
	if _, err := fmt.Println(childOpen); err != nil {
		return err
	}
	ctx := context.Background()
	failed := make(chan error, 5)
	go func() { failed <- l.Run(ctx) }()
	for i := range 4 {
		go func() { failed <- admitAs(ctx, l, now, minute, hour, i) }()
	}
	return <-failed
}

func admitAs(ctx context.Context, l *Ledger, now func() throttle.Instant, minute, hour *throttle.Rule, seed int) error {
	rng := rand.New(rand.NewPCG(uint64(seed), uint64(os.Getpid())))
	for {
		sub := "sub" + strconv.Itoa(rng.IntN(childKeys))
		n := now()
		v, err := l.Take(ctx, n, []throttle.Claim{
			{Rule: minute, Key: key(sub), N: 1}, {Rule: hour, Key: throttle.KeyOf(policy.LevelApplication, "app"), N: 1},
		})
		switch {
		case errors.Is(err, throttle.ErrStalled):
			continue
		case err != nil:
			return err
		case !v.Admitted():
			if v.Denied == 0 {
				time.Sleep(200 * time.Microsecond)
			}
			continue
		}
		sec := n.Lower.Unix()
		// One write per admission: what the parent reads was visible outside.
		if _, err := fmt.Printf("%s %d %d\n", sub, minute.Window.At(sec).Start, hour.Window.At(sec).Start); err != nil {
			return err
		}
	}
}

// killLoop runs the child until it has been killed so many times or enough says so, and
// returns what was admitted per key and window. path gives the file of each life; the kill comes a
// moment after so many admissions of it were seen, or when it has nothing left to admit.
func killLoop(t *testing.T, kills, speed, admissions int, path func(life int) string, enough func(map[string]int) bool) map[string]int {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start := strconv.FormatInt(time.Now().UnixNano(), 10)
	seen := map[string]int{}
	rng := rand.New(rand.NewPCG(11, 12))
	for life := range kills {
		cmd := exec.Command(exe, "-test.run=^$")
		cmd.Env = append(os.Environ(), childFile+"="+path(life), childStart+"="+start, childSpeed+"="+strconv.Itoa(speed))
		var complaint strings.Builder
		cmd.Stderr = &complaint
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		die := func() { _ = cmd.Process.Kill() }
		idle := time.AfterFunc(2*time.Minute, die) // it does not even open its file
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); {
			f := strings.Fields(lines.Text())
			if len(f) == 1 && f[0] == childOpen {
				idle.Reset(300 * time.Millisecond) // everything is used up
			}
			if len(f) != 3 {
				continue // cut off by the kill
			}
			if n++; n == admissions {
				time.AfterFunc(time.Duration(5+rng.IntN(40))*time.Millisecond, die)
			}
			if n < admissions {
				idle.Reset(300 * time.Millisecond)
			}
			seen[f[0]+" minute "+f[1]]++
			seen["hour "+f[2]]++
		}
		_ = cmd.Wait() // killed: always an error
		idle.Stop()
		if complaint.Len() > 0 {
			t.Fatalf("life %d: %s", life, complaint.String())
		}
		if enough(seen) {
			break
		}
	}
	return seen
}

func TestSIGKILLNeverOverAdmits(t *testing.T) {
	kills := 40
	if testing.Short() {
		kills = 10
	}
	if n, err := strconv.Atoi(os.Getenv(killsEnv)); err == nil {
		kills = n
	}
	file := filepath.Join(t.TempDir(), "state.db")
	seen := killLoop(t, kills, 60, 1, func(int) string { return file }, func(map[string]int) bool { return false })
	total, windows, most := 0, 0, 0
	for id, n := range seen {
		limit := childLimit
		if strings.HasPrefix(id, "hour ") {
			limit = childHour
			total += n
		} else {
			windows++
			most = max(most, n)
		}
		if n > limit {
			t.Errorf("%s: %d admitted of %d", id, n, limit)
		}
	}
	if total == 0 {
		t.Error("nothing was admitted")
	}
	t.Logf("%d kills: %d admitted in %d windows of a minute, at most %d of %d in one; none over", kills, total, windows, most, childLimit)
}

// TestKillLoopHasTeeth: a ledger that forgets its file at each start over-admits, and the
// loop sees it.
func TestKillLoopHasTeeth(t *testing.T) {
	dir := t.TempDir()
	over := func(seen map[string]int) bool {
		for id, n := range seen {
			if !strings.HasPrefix(id, "hour ") && n > childLimit {
				return true
			}
		}
		return false
	}
	// Time runs as it is: all lives share a window or two.
	seen := killLoop(t, 200, 1, 60, func(life int) string { return filepath.Join(dir, strconv.Itoa(life)+".db") }, over)
	if !over(seen) {
		t.Errorf("no window was over-admitted by a ledger without memory: the loop proves nothing; saw %v", seen)
	}
}
