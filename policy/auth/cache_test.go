package auth

import (
	"context"
	"encoding/binary"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func key(n uint64) (k [32]byte) {
	binary.LittleEndian.PutUint64(k[:8], n)
	return k
}

func TestTheCacheStaysWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 100).Draw(t, "entries")
		c := NewCache(n)
		per := (n + shards - 1) / shards
		for range rapid.IntRange(1, 400).Draw(t, "puts") {
			k := key(rapid.Uint64Range(0, 300).Draw(t, "key"))
			v := &Verified{size: rapid.IntRange(0, 3*entryBytes).Draw(t, "size")}
			c.Put(k, v)
			if got, ok := c.Get(k); ok && got != v && v.size <= per*entryBytes {
				t.Fatal("Get does not return what was put last")
			}
		}
		for i := range c.shards {
			s := &c.shards[i]
			bytes := 0
			for at, e := range s.ring {
				bytes += e.v.size
				if s.entries[e.key] != at {
					t.Fatal("the index and the ring disagree")
				}
			}
			if len(s.ring) != len(s.entries) || len(s.ring) > s.max || bytes != s.bytes || bytes > s.max*entryBytes {
				t.Fatalf("%d of %d entries, %d bytes, counted %d", len(s.ring), s.max, bytes, s.bytes)
			}
		}
	})
}

func TestWhatIsUsedStays(t *testing.T) {
	c := NewCache(4 * shards)
	hot := &Verified{}
	c.Put(key(0), hot)
	for i := range uint64(1000) {
		if _, ok := c.Get(key(0)); !ok {
			t.Fatalf("the entry in use was dropped after %d others", i)
		}
		c.Put(key((i+1)*shards), &Verified{}) // the same shard
	}
	if c.Len() != 4 {
		t.Errorf("%d entries; want 4", c.Len())
	}
}

func TestTheCacheIsForManyGoroutines(t *testing.T) {
	c := NewCache(64)
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			for i := range uint64(2000) {
				c.Put(key(i*7+g), &Verified{size: int(i)})
				c.Get(key(i * 3))
			}
		})
	}
	wg.Wait()
	if n := c.Len(); n == 0 || n > 64 {
		t.Errorf("%d entries", n)
	}
}

func FuzzParseToken(f *testing.F) {
	g := &Guard{parser: newParser()}
	issuers := map[string]*issuer{}
	for _, s := range []string{"", ".", "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJSUzI1NiJ9.bnVsbA.AA==", "eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJpIn0.AAAA",
		"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOjF9.AA", strings.Repeat("A", MaxToken+1)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// Nobody holds a key, so nothing may ever be accepted.
		if v, err := g.parse(s, issuers, false); err == nil || v != nil {
			t.Fatalf("accepted: %+v", v)
		}
		if g.isJWT(s) && strings.Count(s, ".") != 2 {
			t.Fatal("taken for a JWT without three parts")
		}
	})
}

func FuzzReadObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1,"a":2}`, `{"exp":1e400}`, `{"a":[{"b":null}]}`, "{\"\xff\":1}", `{"a":1}{}`, `[`, `{"scope":["a",1,{"x":true}]}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, err := readObject([]byte(s))
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, m := range o {
			if seen[m.name] {
				t.Fatalf("%q appears twice", m.name)
			}
			seen[m.name] = true
			if at, ok, err := o.date(m.name); err == nil && ok && (at > 1<<53 || at < -1<<53) {
				t.Fatalf("time %d", at)
			}
			o.texts(m.name)
		}
		if n := o.claims(nil); n == nil {
			t.Fatal("no claims")
		}
	})
}

func FuzzParseLogin(f *testing.F) {
	for _, s := range []string{"", "Og==", "YTpi", "YTpi\n", "YTpj==", "====", "YQ==", "w6k6cw=="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, password, ok := parseLogin(s)
		if !ok {
			return
		}
		if strings.IndexByte(name, ':') >= 0 {
			t.Fatalf("a colon in the name %q", name)
		}
		if len(name)+1+len(password) > len(s) {
			t.Fatal("longer than its text")
		}
	})
}

func FuzzParseSecret(f *testing.F) {
	for _, s := range []string{"", "$argon2id$v=19$m=64,t=1,p=1$MDEyMzQ1Njc$MDEyMzQ1NjcwMTIzNDU2Nw", "$argon2id$v=19$m=,t=,p=$$", "$2a$04$", "@sha1:{}", "@sha256:zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseSecret(s)
		if err != nil || h.kind == hashBcrypt || h.kind == hashArgon && h.time > 1 {
			return
		}
		if h.memory > maxArgonMemory {
			t.Fatalf("%d KiB", h.memory)
		}
		if ok, err := h.fits(context.Background(), lender{}, []byte("x")); err != nil || ok && len(h.sum) < 16 {
			t.Fatalf("%v %v", ok, err)
		}
	})
}

type lender struct{}

func (lender) Acquire(context.Context, int64) error { return nil }
func (lender) Release(int64)                        {}

func FuzzCertificateHeader(f *testing.F) {
	for _, s := range []string{"", "%", "-----BEGIN CERTIFICATE-----", "MIIB", "%2D%2D%2D%2D%2DBEGIN"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := parseCertificateHeader(s); err == nil && len(c.Raw) == 0 {
			t.Fatal("a certificate of nothing")
		}
	})
}
