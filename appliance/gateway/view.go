package gateway

import (
	"tidegate/appliance/cache"
	"tidegate/appliance/upstream"
	"tidegate/policy/auth"
)

// Backends returns the targets of the active edition as they are now; nil without one.
func (g *Gateway) Backends() []upstream.View {
	e := g.acquire()
	if e == nil {
		return nil
	}
	defer e.release()
	return e.pool.View()
}

// Answers returns the counts of the response cache.
func (g *Gateway) Answers() cache.Stats { return g.cache.Stats() }

// Tokens returns how many verified tokens are remembered, and how many there may be.
func (g *Gateway) Tokens() (held, most int) {
	e := g.acquire()
	if e == nil {
		return 0, g.o.Tokens
	}
	defer e.release()
	if j := e.judge.Load(); j != nil {
		if c, ok := j.tokens.(*auth.Tokens); ok {
			held = c.Len()
		}
	}
	return held, g.o.Tokens
}

// Authenticated returns how many calls were authenticated by a remembered token, and how
// many by checking one.
func (s *Stats) Authenticated() (remembered, checked uint64) {
	return s.remembered.Load(), s.checked.Load()
}
