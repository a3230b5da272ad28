package intake

import "time"

// The error guard of a trial.
const (
	errorsBefore = 10 * time.Minute // looked at before the swap
	guardWindow  = 30 * time.Second
	guardAnswers = 20
	guardMargin  = 0.25
)

// A sample is the two counters of answers at one moment.
type sample struct {
	at          time.Duration // boot time
	all, failed uint64
}

// samples are the counters of the last ten minutes, oldest first.
type samples struct{ list []sample }

func (s *samples) add(at time.Duration, all, failed uint64) {
	s.list = append(s.list, sample{at, all, failed})
	for len(s.list) > 1 && at-s.list[1].at >= errorsBefore {
		s.list = s.list[1:]
	}
}

// restart forgets what was before, at the swap.
func (s *samples) restart(at time.Duration, all, failed uint64) {
	s.list = []sample{{at, all, failed}}
}

// since returns the answers, and those that failed, between the newest sample that is at
// least d old, or the oldest of all, and the newest.
func (s *samples) since(now, d time.Duration) (all, failed uint64) {
	if len(s.list) == 0 {
		return 0, 0
	}
	from := s.list[0]
	for _, x := range s.list {
		if now-x.at >= d {
			from = x
		}
	}
	to := s.list[len(s.list)-1]
	return to.all - from.all, to.failed - from.failed
}

// share returns the share of failed answers in the last d, 0 without answers.
func (s *samples) share(now, d time.Duration) float64 {
	all, failed := s.since(now, d)
	if all == 0 {
		return 0
	}
	return float64(failed) / float64(all)
}

// recent returns the answers in the window of the guard and the share of failed ones.
func (s *samples) recent(now time.Duration) (count uint64, share float64) {
	count, _ = s.since(now, guardWindow)
	return count, s.share(now, guardWindow)
}
