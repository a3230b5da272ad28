package cache

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// crowd lets n callers join for r and returns a channel with what each heard, once all wait or are back.
func crowd(ctx context.Context, c *Cache, r *Request, n int) chan bool {
	out := make(chan bool, n)
	for range n {
		go func() {
			f, waited := c.Join(ctx, r)
			f.End()
			out <- waited
		}()
	}
	synctest.Wait()
	return out
}

// heard returns how many of those who are back had waited.
func heard(out chan bool) (back, waited int) {
	for {
		select {
		case w := <-out:
			back++
			if w {
				waited++
			}
		default:
			return back, waited
		}
	}
}

func TestOneOfManyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := New(1<<20), get("/x", 0)
		lead, waited := c.Join(t.Context(), r)
		if lead == nil || waited {
			t.Fatalf("the first: %v, %v", lead, waited)
		}
		out := crowd(t.Context(), c, r, 50)
		if back, _ := heard(out); back != 0 {
			t.Fatalf("%d did not wait", back)
		}
		if other, _ := c.Join(t.Context(), get("/y", 0)); other == nil {
			t.Error("another URI waits too")
		}
		somebody := get("/x", 0)
		somebody.Who = "another app"
		if other, _ := c.Join(t.Context(), somebody); other == nil {
			t.Error("another application waits for an answer that may not be its own")
		}
		if f, waited := c.Join(t.Context(), get("/x", 0, "Cache-Control: no-cache")); f != nil || waited {
			t.Errorf("who wants the backend's answer: %v, %v", f, waited)
		}
		store(c, r, 200, "body")
		lead.End()
		lead.End() // twice does no harm
		synctest.Wait()
		if back, w := heard(out); back != 50 || w != 50 {
			t.Errorf("%d are back, %d waited", back, w)
		}
		if _, use := c.Lookup(r); use != Hit {
			t.Errorf("then: use %d", use)
		}
		// Who looked before the answer was stored and joins after it does not ask again.
		if f, waited := c.Join(t.Context(), r); f != nil || !waited {
			t.Errorf("who comes between: %v, %v", f, waited)
		}
		if n := c.Stats().Collapsed; n != 50 {
			t.Errorf("counted %d", n)
		}
	})
}

func TestWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := New(1<<20), get("/x", 0)
		lead, _ := c.Join(t.Context(), r)
		// As many as fit wait; the others go at once.
		out := crowd(t.Context(), c, r, maxFollowers+10)
		if back, waited := heard(out); back != 10 || waited != 0 {
			t.Errorf("%d are back, %d waited; want 10 that did not", back, waited)
		}
		// A caller that leaves is back.
		ctx, leave := context.WithCancel(t.Context())
		c2, other := New(1<<20), get("/z", 0)
		lead2, _ := c2.Join(t.Context(), other)
		gone := crowd(ctx, c2, other, 1)
		leave()
		synctest.Wait()
		if back, _ := heard(gone); back != 1 {
			t.Error("a caller that left still waits")
		}
		lead2.End()
		lead.End()
		synctest.Wait()
		// A backend that does not answer is asked by the others.
		c3, slow := New(1<<20), get("/slow", 0)
		lead3, _ := c3.Join(t.Context(), slow)
		began3, late := time.Now(), crowd(t.Context(), c3, slow, 3)
		time.Sleep(headWait)
		synctest.Wait()
		if back, _ := heard(late); back != 3 || time.Since(began3) != headWait {
			t.Errorf("no answer: %d are back after %v, want 3 after %v", back, time.Since(began3), headWait)
		}
		lead3.End()
	})
	synctest.Test(t, func(t *testing.T) {
		// Once an answer has begun it must end soon: whoever leads may read slowly.
		c, r := New(1<<20), get("/x", 0)
		lead, _ := c.Join(t.Context(), r)
		out := crowd(t.Context(), c, r, maxFollowers)
		began := time.Now()
		lead.Storing()
		synctest.Wait()
		if back, _ := heard(out); back != 0 {
			t.Errorf("%d did not wait for the body", back)
		}
		time.Sleep(bodyWait)
		synctest.Wait()
		if back, _ := heard(out); back != maxFollowers || time.Since(began) != bodyWait {
			t.Errorf("%d are back after %v", back, time.Since(began))
		}
		lead.End()
	})
}

func TestNobodyWaitsForWhatIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := New(1<<20), get("/x", 0)
		lead, _ := c.Join(t.Context(), r)
		out := crowd(t.Context(), c, r, 5)
		lead.Lone(0)
		synctest.Wait()
		if back, waited := heard(out); back != 5 || waited != 5 {
			t.Errorf("%d are back, %d waited", back, waited)
		}
		for range 3 {
			if f, waited := c.Join(t.Context(), get("/x", loneFor-1)); f != nil || waited {
				t.Errorf("a moment later: %v, %v", f, waited)
			}
		}
		if f, _ := c.Join(t.Context(), get("/x", loneFor)); f == nil {
			t.Error("it is remembered for ever")
		} else {
			f.End()
		}
		for i := range 3 * maxLone { // what is remembered is bounded
			f, _ := c.Join(t.Context(), get(fmt.Sprint("/", i), loneFor))
			f.Lone(loneFor)
		}
		if len(c.lone) > maxLone || len(c.flights) != 0 {
			t.Errorf("%d remembered, %d flights", len(c.lone), len(c.flights))
		}
	})
}
