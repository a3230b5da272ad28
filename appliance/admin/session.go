package admin

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"
)

// Bounds of sessions. They live in memory: a restart ends them all.
const (
	sessionIdle = 30 * time.Minute
	sessionLife = 12 * time.Hour
	maxSessions = 64 // beyond it the one unused for longest ends
)

// A session is somebody who has signed in.
type session struct {
	account Account
	csrf    string // what changes must carry in a header
	began   time.Time
	used    time.Time
}

// sessions are kept by the hash of their cookie: what memory shows opens nothing.
type sessions struct {
	mu   sync.Mutex
	open map[[32]byte]*session
}

// begin opens a session and returns its cookie value.
func (s *sessions) begin(x Account, now time.Time) (token string, _ session) {
	token = random()
	n := &session{account: x, csrf: random(), began: now, used: now}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[[32]byte]*session{}
	}
	var oldest [32]byte
	var at time.Time
	for k, o := range s.open {
		if o.over(now) {
			delete(s.open, k)
		} else if at.IsZero() || o.used.Before(at) {
			oldest, at = k, o.used
		}
	}
	if len(s.open) >= maxSessions {
		delete(s.open, oldest)
	}
	s.open[sha256.Sum256([]byte(token))] = n
	return token, *n
}

func (s *session) over(now time.Time) bool {
	return now.Sub(s.used) > sessionIdle || now.Sub(s.began) > sessionLife
}

// find returns the session of a cookie and notes that it was used.
func (s *sessions) find(token string, now time.Time) (session, bool) {
	key := sha256.Sum256([]byte(token))
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.open[key]
	if o == nil {
		return session{}, false
	}
	if o.over(now) {
		delete(s.open, key)
		return session{}, false
	}
	o.used = now
	return *o, true
}

// end closes a session.
func (s *sessions) end(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, sha256.Sum256([]byte(token)))
}

func random() string {
	b := make([]byte, 32)
	rand.Read(b) //nolint:errcheck // ends the process rather than fail
	return base64.RawURLEncoding.EncodeToString(b)
}
