// Package bundle reads signed bundles (.tide files).
//
// It answers one question: is this file whole, and does its content match its manifest?
// [Read] takes the metadata into memory and allocates nothing that a length merely
// announces; [ParseManifest] checks every rule of the manifest; [Head.Chunks] streams the
// content once, comparing each chunk before anybody sees it; [Reader] gives the files of a
// stored bundle, unpacked and compared.
//
// Signatures are judged by package trust, and whether a bundle is meant for a device, is
// newer or still valid by package intake. Nothing here writes a file; package
// bundle/write makes bundles.
package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
	"tidegate/sync/trust"
)

// The files of a system bundle.
const (
	SystemRoot   = "system/root"   // squashfs
	SystemKernel = "system/kernel" // gzipped
	SystemAbout  = "system/about"  // lines NAME=VALUE: BOARD, VERSION, STATE
)

// Word is the word in the magic of a bundle.
const Word = "tide-bundle"

// Limits of the format, in bytes unless said otherwise.
const (
	MaxMetaset  = 2 << 20   // the item that holds all metadata
	MaxManifest = 1 << 20   // the payload that is signed
	MaxRoots    = 32        // roots in one file
	MaxFiles    = 4096      // files in one bundle
	MaxPath     = 200       // length of the path of a file
	ChunkBytes  = 1 << 20   // every chunk of a file but the last
	MaxContent  = 256 << 20 // all chunks together, and all files unpacked
	MaxSealed   = 64 << 10  // one sealed file
	MaxWindow   = 1 << 20   // window of a zstd frame
)

// A Digest is a SHA-256. The digest of a bundle is that of its manifest payload: a
// signature added later does not change it.
type Digest = trust.Digest

// ParseDigest reads 64 hex digits.
func ParseDigest(s string) (Digest, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(Digest{}) {
		return Digest{}, refusal.New(refusal.Format, "%q is not a digest of 64 hex digits", s)
	}
	return Digest(b), nil
}

// A Head is the part of a bundle before its content. Its slices share memory.
type Head struct {
	Roots    [][]byte // COSE_Sign with their tag, as they came
	Manifest []byte   // COSE_Sign with its tag, as it came
	Bytes    []byte   // everything before the first chunk: magic and metaset

	stream *canon.Reader // stands at the first chunk; nil when there is no content to read
}

// Read reads the magic and the metaset of a bundle: at most 2 MiB, refused before it is
// allocated. No signature has been checked when it returns. The source is read forward
// only and no byte beyond the metaset is taken; [Head.Chunks] goes on from there.
//
// Refusals are E_FORMAT, E_FORMAT_VERSION, E_LIMIT, E_TRUNCATED and E_CBOR_CANON, and
// E_MEDIA_GONE, E_MEDIA_IO or a word of the source's own when it cannot be read.
func Read(r io.Reader) (*Head, error) {
	s := canon.NewReader(&steadyReader{src: r})
	if err := s.Magic(Word); err != nil {
		return nil, err
	}
	b, err := s.Bytes(MaxMetaset)
	if err != nil {
		return nil, refuseAt("metaset", err)
	}
	all := canon.AppendBytes(canon.Magic(Word), b)
	h, err := splitMetaset(all[len(all)-len(b):])
	if err != nil {
		return nil, refuseAt("metaset", err)
	}
	h.Bytes = all
	h.stream = s
	return h, nil
}

// ParseHead reads a head that is complete in b, as received piece by piece, and from which
// no content can be streamed. Bytes after it are E_TRAILING.
func ParseHead(b []byte) (*Head, error) {
	r := bytes.NewReader(b)
	h, err := Read(r)
	if err != nil {
		return nil, err
	}
	if r.Len() > 0 {
		return nil, refusal.New(refusal.Trailing, "%d more bytes after the metaset", r.Len())
	}
	h.stream = nil
	return h, nil
}

// splitMetaset cuts the metaset into its envelopes.
func splitMetaset(b []byte) (*Head, error) {
	if err := canon.CheckMetaset(b, canon.Within(MaxMetaset)); err != nil {
		return nil, err
	}
	// CheckMetaset has shown the shape, so none of the reads below can miss.
	c := canon.Walk(b)
	c.Array()
	h := new(Head)
	roots, _ := c.Array()
	if roots > MaxRoots {
		return nil, refusal.New(refusal.Limit, "%d roots, at most %d are allowed", roots, MaxRoots)
	}
	for range roots {
		root, _ := c.Raw()
		if len(root) > trust.MaxRoot {
			return nil, refusal.New(refusal.Limit, "root of %d bytes, at most %d are allowed", len(root), trust.MaxRoot)
		}
		h.Roots = append(h.Roots, root)
	}
	for _, name := range []string{"head", "revokes"} {
		if err := wantNone(&c, name); err != nil {
			return nil, err
		}
	}
	h.Manifest, _ = c.Raw()
	if err := wantNone(&c, "approvals"); err != nil {
		return nil, err
	}
	return h, nil
}

func wantNone(c *canon.Cursor, name string) error {
	if n, _ := c.Array(); n > 0 {
		return refusal.New(refusal.FormatVersion, "the metaset carries %s, which this program does not know", name).
			WithHint("update this program")
	}
	return nil
}

// Chunks reads the content that follows the head, once, and calls sink for each chunk of m
// in order, with its number from 0 and its bytes, which have been compared with the
// manifest and are valid until sink returns. It wants the file to end after the last.
//
// A chunk of another length than the manifest says is E_FORMAT, other content E_DIGEST,
// an early end E_TRUNCATED, a byte more E_TRAILING; an error of sink ends the run and is
// returned as it is. One buffer of 1 MiB is held.
func (h *Head) Chunks(m *Manifest, sink func(i int, data []byte) error) error {
	if h.stream == nil {
		return refusal.New(refusal.Truncated, "the file ends before its content")
	}
	var buf []byte
	for i, c := range m.Chunks() {
		n, err := h.stream.ByteStringHead()
		if err == io.EOF {
			return refusal.New(refusal.Truncated, "ends at byte %d, before chunk %d of %d", h.stream.Offset(), i, len(m.Chunks()))
		}
		if err != nil {
			return refuseAt(chunkName(i), err)
		}
		if n != c.Size {
			return refusal.New(refusal.Format, "chunk %d has %d bytes, the manifest says %d", i, n, c.Size)
		}
		if buf == nil {
			buf = make([]byte, largest(m.Chunks()))
		}
		data := buf[:n]
		if _, err := io.ReadFull(h.stream, data); err != nil {
			return refuseAt(chunkName(i), err)
		}
		if err := c.Compare(i, data); err != nil {
			return err
		}
		if err := sink(i, data); err != nil {
			return err
		}
	}
	return h.stream.End()
}

func largest(chunks []Chunk) uint64 {
	var n uint64
	for _, c := range chunks {
		n = max(n, c.Size)
	}
	return n
}

// Compare returns nil when data is chunk i, which c describes, else E_DIGEST.
func (c Chunk) Compare(i int, data []byte) error {
	if uint64(len(data)) != c.Size || sha256.Sum256(data) != c.Digest {
		return refusal.New(refusal.Digest, "chunk %d is not what the manifest says", i)
	}
	return nil
}
