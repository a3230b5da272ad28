package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
)

// A Found says in which state a file was found.
type Found int

// The states of a file at start.
const (
	AsItLay     Found = iota // sound
	Made                     // absent, on a device that never had it
	TurnedBack               // damaged; one transaction older than it was
	Replaced                 // damaged or missing; a fresh file, the old one set aside
	Newer                    // of a newer program; left under another name, a fresh file
	Unavailable              // cannot be used or made; reads as empty
)

var foundWords = [...]string{
	"sound", "made", "turned back by one transaction", "replaced by a fresh file",
	"of a newer program, a fresh file beside it", "not usable",
}

// String says it in words.
func (f Found) String() string {
	if f < 0 || int(f) >= len(foundWords) {
		return fmt.Sprintf("found %d", int(f))
	}
	return foundWords[f]
}

// Whole reports whether nothing that was on disk is missing. Where it is false, windows
// that are open start closed.
func (f Found) Whole() bool { return f == AsItLay || f == Made }

// A FileReport says what was found of one file.
type FileReport struct {
	Name   string
	Found  Found
	Detail string // why it is not as it lay, in words; may be empty
	Aside  string // the name the damaged file has now; empty: none was kept
}

// String returns one line, as "state.db: replaced by a fresh file: damaged: both meta pages (kept as state.db.bad)".
func (r FileReport) String() string {
	s := r.Name + ": " + r.Found.String()
	if r.Detail != "" {
		s += ": " + r.Detail
	}
	if r.Aside != "" {
		s += " (kept as " + r.Aside + ")"
	}
	return s
}

// openFile opens one file of the directory in a process that must not die of it. aside
// says that the file is the suspect of a crash loop; marked is the generation below which
// an older state is of no use.
func (d *Dir) openFile(ctx context.Context, name string, o Options, aside bool, marked uint64) (*DB, FileReport, error) {
	path := filepath.Join(d.path, name)
	r := FileReport{Name: name}
	if d.mode != Normal {
		o.Access = ReadOnly
	}
	_, err := os.Lstat(path)
	absent := errors.Is(err, os.ErrNotExist)
	if err != nil && !absent {
		return nil, r, fail(name, err)
	}
	if aside && !absent && o.Access == ReadWrite {
		return d.replace(path, o, r, Replaced, fmt.Errorf("%d starts in a row without a minute of health", d.before))
	}
	bad := d.check.run(ctx, path)
	switch {
	case ctx.Err() != nil:
		return nil, r, ctx.Err()
	case errors.Is(bad, errMetaLost):
		r.Found, r.Detail = TurnedBack, reason(bad)
	case errors.Is(bad, ErrCorrupt):
		return d.mend(ctx, path, o, r, marked, bad)
	case bad != nil:
		return nil, r, refusal.New(refusal.Store, "%w", bad).WithHint("look at the owner and the mode of %s", path)
	case absent:
		r.Found = Made
	}
	db, err := d.use(path, o)
	var newer *NewerError
	switch {
	case err == nil && absent && o.Access == ReadOnly:
		r.Found = Unavailable
	case err == nil && r.Found == TurnedBack && o.Access == ReadWrite:
		err = db.Update(rewriteMeta)
		if err != nil {
			return d.without(path, o, r, errors.Join(err, db.Close()))
		}
	case errors.As(err, &newer):
		return d.replace(path, o, r, Newer, newer)
	case errors.Is(err, ErrCorrupt):
		return d.replace(path, o, r, Replaced, err)
	case err != nil:
		return d.without(path, o, r, err)
	}
	return db, r, nil
}

// use opens the file with the check that Reopen needs.
func (d *Dir) use(path string, o Options) (*DB, error) {
	db, err := Open(path, o)
	if err != nil {
		return nil, err
	}
	db.check = d.check
	return db, nil
}

// rewriteMeta makes a commit of no other content: it writes the meta page that is damaged.
func rewriteMeta(t *Tx) error {
	n, err := t.Generation()
	if err != nil {
		return err
	}
	return t.SetGeneration(n)
}

// mend does what can be done for a damaged file: state.db may have a sound state one
// transaction before; else it makes a fresh file.
func (d *Dir) mend(ctx context.Context, path string, o Options, r FileReport, marked uint64, bad error) (*DB, FileReport, error) {
	if o.Access == ReadOnly {
		return d.without(path, o, r, bad)
	}
	if r.Name == StateFile {
		if turned := path + ".turned"; d.turned(ctx, path, turned, o, marked) {
			r.Found, r.Detail, r.Aside = TurnedBack, reason(bad), d.keep(path)
			err := durable.Rename(turned, path)
			if err == nil {
				var db *DB
				if db, err = d.use(path, o); err == nil {
					return db, r, nil
				}
			}
			bad = errors.Join(bad, err)
		}
	}
	return d.replace(path, o, r, Replaced, bad)
}

// turned makes a sound copy at to of the state before the last transaction, and reports
// whether there is one that is not behind the generation marked.
func (d *Dir) turned(ctx context.Context, from, to string, o Options, marked uint64) bool {
	ok := func() bool {
		info, err := os.Stat(from)
		if err != nil || !d.fits(info.Size()) {
			return false
		}
		if ok, err := turnBack(from, to); !ok || err != nil {
			return false
		}
		if !errors.Is(d.check.run(ctx, to), errMetaLost) {
			return false
		}
		db, err := Open(to, o)
		if err != nil {
			return false
		}
		var n uint64
		err = db.Update(func(t *Tx) error {
			if n, err = t.Generation(); err != nil {
				return err
			}
			return rewriteMeta(t)
		})
		return errors.Join(err, db.Close()) == nil && n >= marked
	}()
	if !ok {
		_ = durable.Remove(to) //nolint:errcheck // swept at the next start
	}
	return ok
}

// replace sets the file aside and makes a fresh one.
func (d *Dir) replace(path string, o Options, r FileReport, found Found, why error) (*DB, FileReport, error) {
	if o.Access == ReadOnly {
		return d.without(path, o, r, why)
	}
	r.Found, r.Detail = found, reason(why)
	var newer *NewerError
	if errors.As(why, &newer) {
		r.Aside = fmt.Sprintf("%s.v%d", r.Name, newer.Schema)
		if err := durable.Rename(path, filepath.Join(d.path, r.Aside)); err != nil {
			r.Aside = ""
			return d.without(path, o, r, errors.Join(why, err))
		}
	} else {
		r.Aside = d.keep(path)
		if err := durable.Remove(path); err != nil {
			return d.without(path, o, r, errors.Join(why, err))
		}
	}
	db, err := d.use(path, o)
	if err != nil {
		return d.without(path, o, r, errors.Join(why, err))
	}
	return db, r, nil
}

// keep gives the file at path a second name that ends in .bad, in place of the one kept
// before, if a fresh file fits beside it. It returns that name, or "".
func (d *Dir) keep(path string) string {
	bad := path + ".bad"
	info, err := os.Stat(path)
	if err != nil || durable.Remove(bad) != nil || !d.fits(info.Size()) {
		return ""
	}
	if os.Link(path, bad) != nil || durable.SyncDir(d.path) != nil {
		return ""
	}
	return filepath.Base(bad)
}

// without goes on with no file: it reads as empty and refuses writes.
func (d *Dir) without(path string, o Options, r FileReport, why error) (*DB, FileReport, error) {
	r.Found, r.Detail = Unavailable, reason(why)
	return newEmpty(path, o), r, nil
}

// reason returns err in one line, without the name of the file that the report has.
func reason(err error) string {
	line, more, found := strings.Cut(err.Error(), "\n")
	if found {
		line += "; " + strings.ReplaceAll(more, "\n", "; ")
	}
	for _, name := range []string{StateFile, EventsFile} {
		line = strings.TrimPrefix(line, name+": ")
	}
	return line
}

// Room returns how many bytes may be written to the data directory so that the reserve of
// 2 percent, and at least 32 MiB, of its file system stays free. It is negative when the
// reserve is in use.
func (d *Dir) Room() (int64, error) {
	s, err := durable.SpaceAt(d.path)
	if err != nil {
		return 0, fail("free space", err)
	}
	return s.Free - max(s.Total/50, 32<<20), nil
}

func (d *Dir) fits(size int64) bool {
	room, err := d.Room()
	return err == nil && room >= size
}
