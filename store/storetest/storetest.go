// Package storetest makes commits of a [store.DB] go wrong, so that every package that
// keeps state can show what it does then. It has the three ways a write goes wrong on an
// honest disk: it does not happen, it happens and the answer is lost, and the power goes
// while it runs.
package storetest

import (
	"bytes"
	"errors"
	"os"
	"sync"
)

// ErrInjected is in every error that this package causes.
var ErrInjected = errors.New("injected fault")

// A Fate is what becomes of one commit.
type Fate int

// The fates.
const (
	Commits   Fate = iota // as it should
	Fails                 // nothing reaches the disk, the caller gets an error
	Persists              // all of it reaches the disk, the caller gets an error
	TornEven              // every second changed sector reaches the disk, the meta page does not
	TornOdd               // the other ones do
	TornPages             // all pages reach the disk, the meta page does not
)

// Fates are the ways to go wrong.
var Fates = []Fate{Fails, Persists, TornEven, TornOdd, TornPages}

var names = map[Fate]string{Commits: "commits", Fails: "fails", Persists: "persists", TornEven: "torn-even", TornOdd: "torn-odd", TornPages: "torn-pages"}

// String returns a name for a subtest.
func (f Fate) String() string { return names[f] }

// Faults gives commits their fate. The zero value lets all succeed. Its Commit goes into
// store.Options; it is safe to call from several goroutines.
type Faults struct {
	mu   sync.Mutex
	n    int
	at   int
	fate Fate
}

// At makes the n-th commit from now, counted from 1, meet fate. The ones before and after
// succeed.
func (f *Faults) At(n int, fate Fate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n, f.at, f.fate = 0, n, fate
}

// Commits returns the number of commits since At.
func (f *Faults) Commits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// Commit is the hook for store.Options.
func (f *Faults) Commit(path string, commit func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	if f.n != f.at {
		return commit()
	}
	switch f.fate {
	case Fails:
		return ErrInjected
	case Persists:
		return errors.Join(commit(), ErrInjected)
	case TornEven, TornOdd, TornPages:
		return errors.Join(tear(path, f.fate, commit), ErrInjected)
	}
	return commit()
}

const (
	sector = 512
	metas  = 2 * 4096 // the meta pages, written after all others are synced
)

// tear leaves on disk what a power cut before the first sync of a commit can leave: some of the
// changed sectors outside the meta pages.
func tear(path string, fate Fate, commit func() error) error {
	before, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := commit(); err != nil {
		return err
	}
	after, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	old := func(at int) []byte { // a sector of the file as it was; one that it did not have is zero
		b := make([]byte, min(sector, len(after)-at))
		if at < len(before) {
			copy(b, before[at:])
		}
		return b
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	changed := 0
	for at := 0; at < len(after); at += sector {
		was := old(at)
		if bytes.Equal(was, after[at:at+len(was)]) {
			continue
		}
		changed++
		lost := at < metas || fate == TornEven && changed%2 == 1 || fate == TornOdd && changed%2 == 0
		if !lost {
			continue
		}
		if _, err := f.WriteAt(was, int64(at)); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}
