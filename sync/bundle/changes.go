package bundle

import (
	"slices"
	"tidegate/sync/canon"
)

// Changes say how one bundle differs from another, by what is signed about them.
type Changes struct {
	Added, Removed, Changed []string // paths of files; sealed ones count as changed when their bytes differ
	Fields                  []string // of the manifest, in words
	StoredBytes             uint64   // of the chunks that the older one does not have
}

// None reports whether there is no difference.
func (c *Changes) None() bool {
	return len(c.Added)+len(c.Removed)+len(c.Changed)+len(c.Fields) == 0
}

// Compare returns how to differs from from; from may be nil.
func Compare(from, to *Manifest) *Changes {
	if from == nil {
		from = new(Manifest)
	}
	c := new(Changes)
	for _, f := range to.Files {
		switch old, ok := from.File(f.Path); {
		case !ok:
			c.Added = append(c.Added, f.Path)
		case old.Digest != f.Digest || (old.Codec == Sealed) != (f.Codec == Sealed):
			c.Changed = append(c.Changed, f.Path)
		}
	}
	for _, f := range from.Files {
		if _, ok := to.File(f.Path); !ok {
			c.Removed = append(c.Removed, f.Path)
		}
	}
	for _, chunk := range to.chunks {
		if _, ok := from.first[chunk.Digest]; !ok {
			c.StoredBytes += chunk.Size
		}
	}
	c.Fields = compareFields(from, to)
	return c
}

func compareFields(from, to *Manifest) []string {
	var fields []string
	for _, f := range []struct {
		name     string
		from, to any
	}{
		{"product", from.Product, to.Product},
		{"channel", from.Channel, to.Channel},
		{"name", from.Name, to.Name},
		{"version", from.Version, to.Version},
		{"hardware", from.Hardware, to.Hardware},
		{"selectors", from.Selectors, to.Selectors},
		{"expires", from.Expires, to.Expires},
		{"probes", from.Probes, to.Probes},
		{"least version of tidegate", from.Least, to.Least},
		{"activation", from.Activation, to.Activation},
		{"recipients of secrets", keyIDs(from.Recipients), keyIDs(to.Recipients)},
	} {
		a, errA := canon.Marshal(f.from)
		b, errB := canon.Marshal(f.to)
		if errA != nil || errB != nil || !slices.Equal(a, b) {
			// A pointer that is nil has no encoding in the profile.
			if errA == nil || errB == nil {
				fields = append(fields, f.name)
			}
		}
	}
	return fields
}

func keyIDs(all []Recipient) []Digest {
	ids := make([]Digest, len(all))
	for i, r := range all {
		ids[i] = r.KeyID
	}
	return ids
}
