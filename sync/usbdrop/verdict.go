package usbdrop

import (
	"fmt"
	"log/slog"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"tidegate/sync/intake"
	"tidegate/sync/trust"
	"unicode"
)

// A Stage says how far a stick has come.
type Stage int

// The stages. All but Working and Waiting mean that the stick can be pulled.
const (
	Working  Stage = iota
	Waiting        // for its turn: another bundle is being taken in or on trial
	Accepted       // what was on it for this device is in force, or there was nothing to take
	OnTrial        // its bundle serves, and waits for confirmation
	Refused        // with a word
)

// String returns the stage in one word.
func (s Stage) String() string {
	words := [...]string{"working", "waiting", "accepted", "trial", "refused"}
	if s < 0 || int(s) >= len(words) {
		return "unknown"
	}
	return words[s]
}

// A Verdict is what a person who put a stick in is told.
type Verdict struct {
	Volume   string // where it is mounted
	Stage    Stage
	Word     refusal.Word // of the best file that was refused, if none was taken
	Detail   string       // one line
	Hint     string
	Items    []Item         // every file that was looked at
	Warnings trust.Warnings // W_TOO_MANY, and those of the files
	Wrote    []string       // files that were written to the stick
	Failed   error          // why not all was written; nil if all was, or nothing was asked for
}

// An Item is one file of a stick and what became of it.
type Item struct {
	File   string        // its name, harmless to print
	Skip   string        // why it was not looked into
	Report intake.Report // if it was
	Acked  bool          // it was an ack, and was taken
}

// bundle reports whether the file is a bundle whose manifest was believed.
func (i *Item) bundle() bool {
	return i.Report.Kind == envelope.Manifest && i.Report.Digest != (trust.Digest{})
}

// text says in one line what became of a file.
func (i *Item) text() string {
	r := &i.Report
	switch {
	case i.Skip != "":
		return "passed over: " + i.Skip
	case i.Acked:
		return "acknowledgement taken"
	case r.Word != "":
		return string(r.Word) + ": " + r.Detail
	case r.Kind == envelope.Time && !r.Already:
		return "time taken: the floor of the clock has risen"
	}
	text := r.Phase.String()
	if r.Already {
		text = "already so"
	}
	if i.bundle() && r.Product == trust.SystemProduct {
		return fmt.Sprintf("system %s (bundle %d): %s", r.Label, r.Seq, text)
	}
	if i.bundle() {
		text = fmt.Sprintf("bundle %d: %s", r.Seq, text)
	}
	return text
}

func (v *Verdict) add(i Item) { v.Items = append(v.Items, i) }

// taken returns the file of a kind that was taken, nil if none was.
func (v *Verdict) taken(k envelope.Kind) *Item {
	for n := range v.Items {
		if i := &v.Items[n]; i.Skip == "" && !i.Acked && i.Report.Word == "" && i.Report.Kind == k {
			return i
		}
	}
	return nil
}

// Restarts reports whether the machine starts anew for what was taken.
func (v *Verdict) Restarts() bool {
	i := v.taken(envelope.Manifest)
	return v.Stage == OnTrial && i != nil && i.Report.Product == trust.SystemProduct
}

// Lines says what became of the stick, a line for each file and one for the whole.
func (v *Verdict) Lines() []string {
	var all []string
	for n := range v.Items {
		i := &v.Items[n]
		all = append(all, i.File+": "+i.text())
	}
	text := v.Stage.String() + ": " + v.Detail
	if v.Word != "" {
		text = string(v.Word) + ": " + v.Detail
	}
	if v.Hint != "" {
		text += " (" + v.Hint + ")"
	}
	if v.Failed != nil {
		text += "; " + v.Failed.Error()
	}
	if len(v.Wrote) > 0 {
		text += fmt.Sprintf("; %d files written to the stick", len(v.Wrote))
	}
	return append(all, shown(text))
}

// decide sums up the files. A file that was refused does not count where another of its kind
// was taken, as on a stick with the enrolments of many devices, nor where a bundle was.
func (v *Verdict) decide() {
	bundle := v.taken(envelope.Manifest)
	var best *Item
	for n := range v.Items {
		i := &v.Items[n]
		v.Warnings = append(v.Warnings, i.Report.Warnings...)
		switch {
		case i.Report.Word == refusal.Busy:
			v.Stage, v.Word, v.Detail, v.Hint = Waiting, refusal.Busy, i.Report.Detail, "leave the stick in: its turn comes"
			return
		case i.Report.Word == "" || bundle != nil || v.taken(i.Report.Kind) != nil:
		case best == nil || further(&i.Report, &best.Report):
			best = i
		}
	}
	other := v.taken(envelope.Device)
	for _, k := range []envelope.Kind{envelope.Root, envelope.Time} {
		if other == nil {
			other = v.taken(k)
		}
	}
	switch {
	case bundle != nil && bundle.Report.Phase == intake.OnTrial:
		v.Stage, v.Detail = OnTrial, bundle.text()
		if v.Restarts() {
			v.Hint = "the machine starts anew with it"
		} else if bundle.Report.ByHand {
			v.Hint = "confirm it: tidegate confirm"
		}
	case bundle != nil:
		v.Stage, v.Detail = Accepted, bundle.text()
	case best != nil:
		v.Stage, v.Word, v.Detail, v.Hint = Refused, best.Report.Word, best.Report.Detail, best.Report.Hint
	case other != nil:
		v.Stage, v.Detail = Accepted, other.File+": "+other.text()
	default:
		v.Stage, v.Detail = Accepted, "nothing for this device is on the stick"
	}
}

// further reports whether a came further than b before it was refused.
func further(a, b *intake.Report) bool {
	depth := func(r *intake.Report) int {
		switch {
		case r.Digest != (trust.Digest{}):
			return 2
		case r.Kind != "":
			return 1
		}
		return 0
	}
	if x, y := depth(a), depth(b); x != y {
		return x > y
	}
	if a.Epoch != b.Epoch || a.Seq != b.Seq {
		return a.Epoch > b.Epoch || a.Epoch == b.Epoch && a.Seq > b.Seq
	}
	return a.Word.Exit() > b.Word.Exit() // the codes follow the order of the steps
}

func (v *Verdict) level() slog.Level {
	if v.Stage == Refused || v.Failed != nil {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// maxShown is the longest name of a file that is shown, in bytes.
const maxShown = 100

// shown makes a name from a stick harmless to print.
func shown(name string) string {
	s := strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, name)
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "…"
}
