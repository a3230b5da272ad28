package bundle

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/trust"
)

// Bounds of the small things of a manifest.
const (
	maxVersion   = 64     // bytes
	maxNames     = 1024   // hardware classes, selectors, labels of one selector
	maxProbes    = 16     //
	maxTarget    = 1024   // bytes of the target of a probe
	maxTimeoutMS = 10_000 // one round of probes
	maxWindow    = 7 * 24 * 3600
	maxAttempts  = 9
	maxWrapped   = 4 << 10 // bytes of a sealed content key
)

// check enforces what the grammar alone cannot say, and sets what is derived.
func (m *Manifest) check() error {
	if m.Type != "manifest" {
		return refusal.New(refusal.Format, "type: payload is a %q, want a manifest", m.Type)
	}
	if m.Seq == 0 {
		return badField(4, "seq is 0")
	}
	for _, f := range []struct {
		field int
		name  string
	}{{10, m.Product}, {22, m.Channel}, {13, m.Name}} {
		if !trust.ValidName(f.name) {
			return badField(f.field, "%q is not a name (a-z, 0-9, dot, underscore, hyphen; 1 to 64)", f.name)
		}
	}
	if len(m.Version) > maxVersion || strings.ContainsFunc(m.Version, isControl) {
		return badField(14, "version is longer than %d bytes or has control characters", maxVersion)
	}
	if m.Base != nil {
		return refusal.New(refusal.FormatVersion, "the bundle is an overlay, which this program does not know").
			WithHint("update this program")
	}
	for _, check := range []func() error{
		m.checkTargets, m.checkFiles, m.checkRecipients, m.checkProbes, m.checkActivation,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func badField(n int, format string, args ...any) error {
	return refusal.New(refusal.Format, "field %d: %s", n, fmt.Sprintf(format, args...))
}

func notNameRune(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-'
}

// ValidPath reports whether s can be the path of a file: segments of [a-z0-9._-], none of
// them "." or "..", joined by slashes; at most 200 bytes.
func ValidPath(s string) bool {
	if len(s) > MaxPath {
		return false
	}
	for seg := range strings.SplitSeq(s, "/") {
		if seg == "" || seg == "." || seg == ".." || strings.ContainsFunc(seg, notNameRune) {
			return false
		}
	}
	return true
}

func (m *Manifest) checkTargets() error {
	if err := checkNames(11, m.Hardware); err != nil {
		return err
	}
	if len(m.Selectors) == 0 || len(m.Selectors) > maxNames {
		return badField(12, "%d selectors, want 1 to %d", len(m.Selectors), maxNames)
	}
	for i, s := range m.Selectors {
		if i > 0 && compareEncoded(m.Selectors[i-1], s) >= 0 {
			return badField(12, "selectors do not ascend, or one stands twice")
		}
	}
	return nil
}

// checkNames wants a set of names that is not empty.
func checkNames(field int, names []string) error {
	if len(names) == 0 || len(names) > maxNames {
		return badField(field, "%d names, want 1 to %d", len(names), maxNames)
	}
	for i, n := range names {
		if !trust.ValidName(n) {
			return badField(field, "%q is not a name", n)
		}
		if i > 0 && compareEncoded(names[i-1], n) >= 0 {
			return badField(field, "names do not ascend, or one stands twice")
		}
	}
	return nil
}

// compareEncoded orders two values as the elements of a set: by their encoded bytes. What
// cannot be encoded was not decoded either, so the errors cannot occur.
func compareEncoded(a, b any) int {
	x, _ := canon.Marshal(a) //nolint:errcheck // see above
	y, _ := canon.Marshal(b) //nolint:errcheck // see above
	return bytes.Compare(x, y)
}

// SortSet sorts the elements of a set as the format wants them and drops doubles.
func SortSet[T any](set []T) []T {
	slices.SortFunc(set, func(a, b T) int { return compareEncoded(a, b) })
	return slices.CompactFunc(set, func(a, b T) bool { return compareEncoded(a, b) == 0 })
}

// checkFiles checks the files and lays out the distinct chunks.
func (m *Manifest) checkFiles() error {
	if len(m.Files) > MaxFiles {
		return refusal.New(refusal.Limit, "%d files, at most %d are allowed", len(m.Files), MaxFiles)
	}
	m.chunks, m.first = nil, make(map[Digest]int)
	var stored, plain uint64
	for i := range m.Files {
		f := &m.Files[i]
		if !ValidPath(f.Path) {
			return refusal.New(refusal.Format, "path %q is not allowed", f.Path)
		}
		if i > 0 && m.Files[i-1].Path >= f.Path {
			return refusal.New(refusal.Format, "path %q does not ascend, or stands twice", f.Path)
		}
		if err := f.check(); err != nil {
			return err
		}
		// Each size is at most MaxContent here, so the sums cannot wrap.
		if plain += f.Size; plain > MaxContent {
			return refusal.New(refusal.Limit, "files of more than %d bytes unpacked", MaxContent)
		}
		for _, c := range f.Chunks {
			if at, ok := m.first[c.Digest]; ok {
				if m.chunks[at].Size != c.Size {
					return refusal.New(refusal.Format, "path %q: a chunk has two lengths", f.Path)
				}
				continue
			}
			m.first[c.Digest] = len(m.chunks)
			m.chunks = append(m.chunks, c)
			if stored += c.Size; stored > MaxContent {
				return refusal.New(refusal.Limit, "chunks of more than %d bytes", MaxContent)
			}
		}
	}
	if stored != m.Total {
		return refusal.New(refusal.Limit, "total is %d, the chunks sum up to %d", m.Total, stored)
	}
	return nil
}

func (f *File) check() error {
	bad := func(format string, args ...any) error {
		return refusal.New(refusal.Format, "path %q: %s", f.Path, fmt.Sprintf(format, args...))
	}
	if f.Size > MaxContent {
		return refusal.New(refusal.Limit, "path %q: %d bytes, at most %d are allowed", f.Path, f.Size, MaxContent)
	}
	var stored uint64
	for i, c := range f.Chunks {
		last := i == len(f.Chunks)-1
		if c.Size == 0 || c.Size > ChunkBytes || !last && c.Size != ChunkBytes {
			return bad("chunk %d has %d bytes", i, c.Size)
		}
		stored += c.Size // at most MaxManifest/36 chunks of 1 MiB
	}
	switch f.Codec {
	case Raw, Sealed:
		if stored != f.Size {
			return bad("size is %d, its chunks have %d bytes", f.Size, stored)
		}
	case Zstd:
		if stored == 0 || f.Size == 0 {
			return bad("an empty file is not compressed")
		}
	default:
		return bad("%s is unknown", f.Codec)
	}
	if f.Codec == Sealed {
		if f.Size > MaxSealed {
			return refusal.New(refusal.Limit, "path %q: sealed file of %d bytes, at most %d are allowed", f.Path, f.Size, MaxSealed)
		}
		if f.Size == 0 {
			return bad("a sealed file is empty")
		}
	}
	return nil
}

func (m *Manifest) checkRecipients() error {
	sealed := slices.ContainsFunc(m.Files, func(f File) bool { return f.Codec == Sealed })
	if sealed != (len(m.Recipients) > 0) {
		return badField(18, "recipients and sealed files need each other")
	}
	for i, r := range m.Recipients {
		if len(r.Sealed) == 0 || len(r.Sealed) > maxWrapped {
			return badField(18, "recipient %d: %d bytes of sealed key", i, len(r.Sealed))
		}
		if i > 0 && compareEncoded(m.Recipients[i-1], r) >= 0 {
			return badField(18, "recipients do not ascend, or one stands twice")
		}
	}
	return nil
}

func (m *Manifest) checkProbes() error {
	if len(m.Probes) > maxProbes {
		return badField(19, "%d probes, at most %d are allowed", len(m.Probes), maxProbes)
	}
	for i, p := range m.Probes {
		switch {
		case p.Method != "GET" && p.Method != "HEAD" && p.Method != "OPTIONS" && p.Method != "POST":
			return badField(19, "probe %d: method %q is not GET, HEAD, OPTIONS or POST", i, p.Method)
		case !strings.HasPrefix(p.Target, "/") || len(p.Target) > maxTarget || strings.ContainsFunc(p.Target, notTargetRune):
			return badField(19, "probe %d: target %q is not a path of visible ASCII", i, p.Target)
		case len(p.Status) == 0 || len(p.Status) > 32:
			return badField(19, "probe %d: %d statuses, want 1 to 32", i, len(p.Status))
		case slices.ContainsFunc(p.Status, func(s uint64) bool { return s < 100 || s > 599 }):
			return badField(19, "probe %d: a status outside 100 to 599", i)
		case p.TimeoutMS == 0 || p.TimeoutMS > maxTimeoutMS:
			return badField(19, "probe %d: timeout of %d ms, want 1 to %d", i, p.TimeoutMS, maxTimeoutMS)
		}
	}
	return nil
}

// notTargetRune keeps spaces and line ends, which would make a second request, out of a target.
func notTargetRune(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }

func (m *Manifest) checkActivation() error {
	a := m.Activation
	if a == nil {
		return nil
	}
	switch {
	case a.Mode != Automatic && a.Mode != ByHand:
		return badField(21, "mode %d is unknown", a.Mode)
	case a.Window == 0 || a.Window > maxWindow:
		return badField(21, "window of %d s, want 1 to %d", a.Window, maxWindow)
	case a.Attempts == 0 || a.Attempts > maxAttempts:
		return badField(21, "%d attempts, want 1 to %d", a.Attempts, maxAttempts)
	}
	return nil
}
