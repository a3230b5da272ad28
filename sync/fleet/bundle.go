package fleet

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
)

// A Published object can be fetched piece by piece.
type Published struct {
	Kind     message.Object
	Digest   trust.Digest
	Manifest *bundle.Manifest // of a bundle
	head     []byte           // part 0
	chunks   []bundle.Chunk
	at       []int64 // of the chunks in file
	file     io.ReaderAt
	close    func() error
	address  string // on a web server; "": none
}

// OpenBundle verifies a bundle file as a device would, without asking whom it is for, and
// keeps it open. That of a system is refused with E_TARGET: devices listen for the product of
// their APIs, so nobody would hear of it.
func OpenBundle(name string, root trust.State) (*Published, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	p, err := openBundle(f, root)
	if err != nil {
		return nil, refusal.About(name, err)
	}
	return p, nil
}

func openBundle(f *os.File, root trust.State) (p *Published, err error) {
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	h, err := bundle.Read(f)
	if err != nil {
		return nil, err
	}
	if root, _, err = root.AddRoots(h.Roots, 0, func(trust.State) error { return nil }); err != nil {
		return nil, err
	}
	payload, _, err := root.Verify(trust.RoleRelease, envelope.Manifest, h.Manifest)
	if err != nil {
		return nil, err
	}
	m, err := bundle.ParseManifest(payload)
	if err != nil {
		return nil, err
	}
	if m.Product == trust.SystemProduct {
		return nil, refusal.New(refusal.Target, "it holds a system, and systems do not go over the link").
			WithHint("bring it to the device: by stick, with tidegate apply, or on its page")
	}
	if err := root.Allowed(m.Offer().Line()); err != nil {
		return nil, err
	}
	if err := h.Chunks(m, func(int, []byte) error { return nil }); err != nil {
		return nil, err
	}
	return &Published{
		Kind: message.BundleObject, Digest: m.Digest(), Manifest: m, head: h.Bytes, chunks: m.Chunks(),
		at: m.Offsets(int64(len(h.Bytes))), file: f, close: f.Close,
	}, nil
}

// fileObject is a small file that is fetched whole.
func fileObject(kind message.Object, b []byte) *Published {
	return &Published{Kind: kind, Digest: sha256.Sum256(b), head: b, close: func() error { return nil }}
}

// Close closes the file.
func (p *Published) Close() error { return p.close() }

// offer is what is announced of p.
func (p *Published) offer(epoch, seq uint64) *message.Offer {
	o := &message.Offer{Object: p.Kind, Epoch: epoch, Seq: seq, Digest: p.Digest, Head: uint64(len(p.head))}
	for _, c := range p.chunks {
		o.Total += c.Size
	}
	return o
}

// read returns piece n, of size bytes, of a part; io.EOF beyond its end.
func (p *Published) read(part, size, n uint64) (data []byte, offset uint64, err error) {
	length, src := uint64(len(p.head)), io.ReaderAt(bytes.NewReader(p.head))
	if part > 0 {
		if part > uint64(len(p.chunks)) {
			return nil, 0, io.EOF
		}
		c := p.chunks[part-1]
		length, src = c.Size, io.NewSectionReader(p.file, p.at[part-1], int64(c.Size)) //nolint:gosec // at most 1 MiB
	}
	offset = size * n
	if offset >= length {
		return nil, 0, io.EOF
	}
	data = make([]byte, min(size, length-offset))
	if _, err := src.ReadAt(data, int64(offset)); err != nil && err != io.EOF { //nolint:gosec // below length
		return nil, 0, err
	}
	return data, offset, nil
}
