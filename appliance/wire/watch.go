package wire

import (
	"net/http"
	"time"
)

// The phase word of a connection holds the phase above the tick of its deadline.
const (
	phaseShift = 56
	tickMask   = 1<<phaseShift - 1
)

// mark returns the phase word for a phase that should last at most n ticks from now.
func (s *Server) mark(phase uint64, n int64) uint64 {
	return phase<<phaseShift | uint64(s.state.tick.Load()+n+1)&tickMask
}

// enter notes a new phase. A store is all that a deadline costs on the way of a call: no
// timer is touched. Only wake and the watch move a connection out of idleness.
func (c *conn) enter(phase uint64, n int64) { c.phase.Store(c.srv.mark(phase, n)) }

// watch looks at all connections once a period until the server stops. It is the only
// clock of the server half: it ends phases that last too long, sees clients that left while
// their call is worked on, and keeps the Date.
func (s *Server) watch() {
	st := &s.state
	t := time.NewTicker(st.period)
	defer t.Stop()
	var late []*conn
	for {
		select {
		case <-st.stopped:
			return
		case now := <-t.C:
			st.setDate(now)
			tick := uint64(st.tick.Add(1))
			late = late[:0]
			st.mu.Lock()
			for c := st.conns.next; c != &st.conns; c = c.next {
				if p := c.phase.Load(); p&tickMask <= tick && p>>phaseShift < phaseTunnel {
					late = append(late, c)
				}
			}
			st.mu.Unlock()
			for i, c := range late {
				s.judge(c, c.phase.Load(), tick)
				late[i] = nil
			}
		}
	}
}

// judge acts on a connection whose phase p has lasted too long.
func (s *Server) judge(c *conn, p, tick uint64) {
	if p&tickMask > tick {
		return
	}
	switch p >> phaseShift {
	case phaseIdle, phaseNew:
		if c.phase.CompareAndSwap(p, phaseDead<<phaseShift) {
			c.nc.Close()
		}
	case phaseHead, phaseBody:
		_ = c.nc.SetReadDeadline(past)
	case phaseWrite:
		_ = c.nc.SetWriteDeadline(past)
		c.life.end()
	case phaseWork:
		// The socket is asked only when a call takes its time.
		if c.phase.CompareAndSwap(p, s.mark(phaseWork, s.state.goneTicks)) && c.sock.gone() {
			c.life.end()
		}
	}
}

var past = time.Unix(1, 0)

// setDate renders the Date field anew when the second has changed.
func (st *serverState) setDate(now time.Time) {
	if u := now.Unix(); st.dateAt.Swap(u) != u {
		d := "Date: " + now.UTC().Format(http.TimeFormat) + "\r\n"
		st.date.Store(&d)
	}
}

// ticks converts a limit; at least one.
func (st *serverState) ticks(d time.Duration) int64 { return max(int64((d+st.period-1)/st.period), 1) }

// setPeriod chooses how often the watch looks: eight times within the shortest limit, at
// most twice a second.
func (st *serverState) setPeriod() {
	l := &st.limits
	st.period = min(4*time.Second, l.HeaderTime, l.IdleTime, l.BodyStall, l.WriteStall) / 8
	st.period = max(st.period, 2*time.Millisecond)
	st.headTicks, st.idleTicks = st.ticks(l.HeaderTime), st.ticks(l.IdleTime)
	st.stallTicks, st.writeTicks = st.ticks(l.BodyStall), st.ticks(l.WriteStall)
	st.goneTicks = st.ticks(time.Second)
}
