package envelope

import (
	"bytes"
	"io"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
)

// MaxFileMessages is the largest number of messages in a file; of the kinds only
// roots come in files of more than one.
const MaxFileMessages = 32

// MaxRoot is the largest root, in bytes of its message.
const MaxRoot = 16 << 10

// FileWord returns the word in the magic of a file that holds messages of the kind.
func (k Kind) FileWord() string { return "tide-" + string(k) }

// File returns a file of messages: the magic, then each as a byte string.
func File(kind Kind, messages ...[]byte) []byte {
	b := canon.Magic(kind.FileWord())
	for _, m := range messages {
		b = canon.AppendBytes(b, m)
	}
	return b
}

// ReadFile reads a file of messages of the given kind, 1 to 32 roots or exactly one
// of another kind, and returns their bytes, neither parsed nor verified.
func ReadFile(kind Kind, src io.Reader) ([][]byte, error) {
	r := canon.NewReader(src)
	if err := r.Magic(kind.FileWord()); err != nil {
		return nil, err
	}
	most, longest := 1, uint64(MaxMessage)
	if kind == Root {
		most, longest = MaxFileMessages, MaxRoot
	}
	var all [][]byte
	for {
		n, err := r.ByteStringHead()
		switch {
		case err == io.EOF && len(all) == 0:
			return nil, refusal.New(refusal.Truncated, "ends at byte %d, before the first %s", r.Offset(), kind)
		case err == io.EOF:
			return all, nil
		case err != nil:
			return nil, err
		case len(all) == most && kind == Root:
			return nil, refusal.New(refusal.Limit, "more than %d roots in a file", most)
		case len(all) == most:
			return nil, refusal.New(refusal.Trailing, "more bytes after the %s, at byte %d", kind, r.Offset())
		case n > longest:
			return nil, refusal.New(refusal.Limit, "%s of %d bytes, at most %d are allowed", kind, n, longest)
		}
		var b bytes.Buffer
		if _, err := io.Copy(&b, r); err != nil {
			return nil, err
		}
		all = append(all, b.Bytes())
	}
}
