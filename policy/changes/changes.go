// Package changes says what one policy set changes against another, in the words of the people
// who run a device: which operations come and go, which limits move, whose keys are new. It
// compares meaning, not bytes: the order of a project's files does not matter to it. It shows
// no secret: of a key it names the owner and the beginning of its hash.
package changes

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"tidegate/policy"
)

// How something changes.
type How string

// The ways in which something changes.
const (
	Added   How = "added"
	Removed How = "removed"
	Changed How = "changed"
)

// A Change is one thing that another set brings, takes away or alters.
type Change struct {
	What   string   `json:"what"` // kind of thing: "API", "operation", "resource plan", "API key", …
	Name   string   `json:"name"`
	How    How      `json:"change"`
	Detail []string `json:"detail,omitempty"` // of Added: what it is; of Changed: what of it changes
}

// String returns the change in one line: "~ operation GET /meters/1.0/status: plan 5PerMin → 10PerMin".
func (c Change) String() string {
	mark := map[How]string{Added: "+", Removed: "-", Changed: "~"}[c.How]
	s := mark + " " + c.What
	if c.Name != "" {
		s += " " + c.Name
	}
	if len(c.Detail) > 0 {
		s += ": " + strings.Join(c.Detail, ", ")
	}
	return s
}

// Between returns what to changes against from, in the order in which people ask: settings, APIs
// with their operations, backends, plans, callers. A nil set is empty. Both must be valid
// ([policy.Set.Validate]); neither is changed, nor kept.
func Between(from, to *policy.Set) []Change {
	if from == nil {
		from = new(policy.Set)
	}
	if to == nil {
		to = new(policy.Set)
	}
	d := &differ{from: from, to: to, out: []Change{}}
	d.settings()
	d.apis()
	d.backends()
	d.plans()
	d.callers()
	return d.out
}

// A differ collects changes.
type differ struct {
	from, to *policy.Set
	out      []Change
}

// A fact is one thing that is said of an object. A text or a list of texts is shown as it was and
// as it will be; of any other value only that it changes.
type fact struct {
	name   string
	value  any
	fields string // of rest, with spaces, that it tells something of; those that it tells all of need not be there
}

// A view is an object as it is compared.
type view struct {
	key     string // what makes it the same object in both sets
	name    string
	summary []string // what is told when it comes
	facts   []fact
	rest    any // a struct: all of it but what does not matter
}

// each compares the objects of one kind: those that come or change in the order of the new set,
// then those that go.
func (d *differ) each(what string, from, to []view) {
	enumerate(from)
	enumerate(to)
	old := make(map[string]*view, len(from))
	for i := range from {
		old[from[i].key] = &from[i]
	}
	for i := range to {
		v := &to[i]
		was, known := old[v.key]
		if !known {
			d.add(what, v.name, Added, v.summary)
			continue
		}
		delete(old, v.key)
		if detail := differences(was, v); len(detail) > 0 {
			d.add(what, v.name, Changed, detail)
		}
	}
	for i := range from {
		if was, gone := old[from[i].key]; gone && was == &from[i] {
			d.add(what, was.name, Removed, nil)
		}
	}
}

// enumerate tells those of one key apart by their order: nobody forbids to block an address twice.
func enumerate(all []view) {
	seen := make(map[string]int, len(all))
	for i := range all {
		k := all[i].key
		if n := seen[k]; n > 0 {
			all[i].key += "\x00" + strconv.Itoa(n)
		}
		seen[k]++
	}
}

func (d *differ) add(what, name string, how How, detail []string) {
	d.out = append(d.out, Change{What: what, Name: name, How: how, Detail: detail})
}

// differences tells in what two views of one object differ. That something differs is never
// left out: what no fact tells is called other settings.
func differences(from, to *view) []string {
	var out, told []string
	for i, f := range to.facts {
		if was := from.facts[i].value; !reflect.DeepEqual(was, f.value) {
			out = append(out, difference(f.name, was, f.value))
			told = append(told, strings.Fields(f.fields)...)
		}
	}
	if !reflect.DeepEqual(without(from.rest, told), without(to.rest, told)) {
		out = append(out, "other settings")
	}
	return out
}

// without returns a copy of a struct without some of its fields.
func without(rest any, fields []string) any {
	if rest == nil {
		return nil
	}
	v := reflect.New(reflect.TypeOf(rest)).Elem()
	v.Set(reflect.ValueOf(rest))
	for _, f := range fields {
		v.FieldByName(f).SetZero()
	}
	return v.Interface()
}

func difference(name string, from, to any) string {
	switch to := to.(type) {
	case string:
		return name + " " + orNone(from.(string)) + " → " + orNone(to)
	case []string:
		was := from.([]string)
		var parts []string
		for _, s := range to {
			if !slices.Contains(was, s) {
				parts = append(parts, "+"+s)
			}
		}
		for _, s := range was {
			if !slices.Contains(to, s) {
				parts = append(parts, "-"+s)
			}
		}
		if len(parts) == 0 {
			return name + " in another order"
		}
		return name + " " + strings.Join(parts, " ")
	}
	return name
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// list is a list of texts that is never nil, so that none and empty are one.
func list(s []string) []string { return append([]string{}, s...) }

// given returns "name text" for each text that is not empty.
func given(pairs ...string) []string {
	var out []string
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			out = append(out, strings.TrimSpace(pairs[i]+" "+pairs[i+1]))
		}
	}
	return out
}
