package admin

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"tidegate/policy/auth"
	"time"

	"golang.org/x/sync/semaphore"
)

func TestAccountsOutliveARestart(t *testing.T) {
	name := filepath.Join(t.TempDir(), AccountsFile)
	mem := semaphore.NewWeighted(auth.MaxLogin)
	a, err := OpenAccounts(name, mem)
	if err != nil || a.Any() {
		t.Fatalf("%v, %v", a.Any(), err)
	}
	ctx, now := context.Background(), time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	for _, bad := range [][3]string{{"Eva", "admin", "long enough"}, {"eva", "root", "long enough"}, {"eva", "admin", "short"}, {"", "admin", "long enough"}, {"../x", "admin", "long enough"}} {
		if err := a.Set(ctx, bad[0], Level(bad[1]), bad[2], now); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if err := a.Set(ctx, "eva", Operator, "long enough", now); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	b, err := OpenAccounts(name, mem)
	if err != nil {
		t.Fatal(err)
	}
	x, right, err := b.Login(ctx, "eva", "long enough")
	if !right || err != nil || x.Level != Operator || len(x.Hash) != 0 {
		t.Errorf("got %+v, %v, %v", x, right, err)
	}
	for _, wrong := range [][2]string{{"eva", "long enougH"}, {"eva", ""}, {"bob", "long enough"}, {"bob", ""}} {
		if _, right, err := b.Login(ctx, wrong[0], wrong[1]); right || err != nil {
			t.Errorf("%q: %v, %v", wrong, right, err)
		}
	}
	if err := b.Remove("eva"); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove("eva"); err == nil {
		t.Error("removed twice")
	}
}

func TestNoMemoryForALoginIsSaid(t *testing.T) {
	mem := semaphore.NewWeighted(auth.MaxLogin)
	a, err := OpenAccounts(filepath.Join(t.TempDir(), AccountsFile), mem)
	if err != nil {
		t.Fatal(err)
	}
	if err := mem.Acquire(context.Background(), auth.MaxLogin); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := a.Login(ctx, "eva", "x"); err != errBusy {
		t.Errorf("got %v", err)
	}
}

func FuzzAccountsFile(f *testing.F) {
	f.Add(`{"format":1,"accounts":[]}`)
	f.Add(`{"format":1,"accounts":[{"name":"eva","role":"admin","salt":"AAAAAAAAAAA=","argon2id":"","passes":1,"kib":4294967295,"lanes":1}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		name := filepath.Join(t.TempDir(), "a")
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := OpenAccounts(name, semaphore.NewWeighted(auth.MaxLogin))
		if err != nil && a.Any() {
			t.Error("accounts out of a file that was refused")
		}
		for _, x := range a.list {
			if int64(x.KiB)<<10 > auth.MaxLogin {
				t.Errorf("%d KiB", x.KiB)
			}
		}
	})
}

func TestGuardIsPerAddressAndBounded(t *testing.T) {
	var g guard
	now := time.Now()
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for range freeTries {
		if d, _ := g.wait(a, now); d != 0 {
			t.Fatalf("throttled early: %v", d)
		}
	}
	if d, _ := g.wait(a, now); d != time.Second {
		t.Errorf("sixth try: wait %v", d)
	}
	if d, _ := g.wait(b, now); d != 0 {
		t.Errorf("another address waits %v", d)
	}
	if d, _ := g.wait(a, now.Add(time.Second)); d != 0 {
		t.Errorf("after the wait: %v", d)
	}
	if d, _ := g.wait(a, now.Add(time.Second)); d != 2*time.Second {
		t.Errorf("the wait does not double: %v", d)
	}
	for range freeTries { // all of a /64 count together
		g.wait(netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 2)), now)
	}
	if d, _ := g.wait(netip.MustParseAddr("2001:db8::ffff"), now); d == 0 {
		t.Error("a /64 has free tries for each of its addresses")
	}
	g.succeeded(a)
	if d, _ := g.wait(a, now); d != 0 {
		t.Errorf("after the right password: %v", d)
	}
	for i := range 3 * maxRanges {
		g.wait(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if len(g.ranges) > maxRanges {
		t.Errorf("%d ranges are remembered", len(g.ranges))
	}
	if d, _ := g.wait(netip.MustParseAddr("198.51.100.7"), now); d == 0 {
		t.Error("a flood from many addresses is not slowed down")
	}
	if d, _ := g.wait(netip.MustParseAddr("198.51.100.7"), now.Add(forget+time.Second)); d != 0 {
		t.Errorf("nothing is ever forgotten: %v", d)
	}
}

func TestSessionsEnd(t *testing.T) {
	var s sessions
	now := time.Now()
	token, _ := s.begin(Account{Name: "eva"}, now)
	if _, ok := s.find(token, now.Add(sessionIdle)); !ok {
		t.Error("ended early")
	}
	if _, ok := s.find(token, now.Add(2*sessionIdle+time.Second)); ok {
		t.Error("outlived its idle time")
	}
	token, _ = s.begin(Account{Name: "eva"}, now)
	for at := now; at.Before(now.Add(sessionLife)); at = at.Add(sessionIdle) {
		s.find(token, at)
	}
	if _, ok := s.find(token, now.Add(sessionLife+time.Second)); ok {
		t.Error("outlived its life")
	}
	first, _ := s.begin(Account{Name: "eva"}, now)
	for i := range maxSessions {
		s.begin(Account{Name: "eva"}, now.Add(time.Duration(i+1)*time.Millisecond))
	}
	if _, ok := s.find(first, now); ok || len(s.open) > maxSessions {
		t.Errorf("%d sessions, the oldest still there: %v", len(s.open), ok)
	}
	if _, ok := s.find("", now); ok {
		t.Error("an empty cookie has a session")
	}
}

func TestQuantile(t *testing.T) {
	b := make([]uint64, 17)
	if quantile(b, 0.5) != 0 {
		t.Error("no calls")
	}
	b[2] = 10 // 1 ms to 2.5 ms
	if got := quantile(b, 0.5); got < 0.00174 || got > 0.00176 {
		t.Errorf("got %v", got)
	}
	b[16] = 1000
	if got := quantile(b, 0.99); got != 60 {
		t.Errorf("beyond the last bound: got %v", got)
	}
}
