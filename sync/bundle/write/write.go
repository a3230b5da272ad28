// Package write makes bundles, on the workstation: it lays out and compresses files, seals
// secrets, encodes the manifest and lets signers sign it. The same input gives the same
// bytes before signing, on any machine.
//
// It also shows and takes apart what package bundle reads: [Info], [Verify], [Extract]. A
// device does not link this package.
package write

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"tidegate/sync/seal"
	"tidegate/sync/trust"
)

// WarnManifest is the size of a manifest, in bytes, above which [Draft.Warnings] says
// something: it travels before anything else and is held in memory.
const WarnManifest = 256 << 10

// A Spec is what a bundle is built from.
type Spec struct {
	// Manifest holds what is signed about the bundle. Files, Total and Recipients are set
	// by [Prepare], and so is Type; sets may be in any order.
	Manifest bundle.Manifest

	Files   []File
	Secrets map[string][]byte // path of a secret → value; sealed for To
	To      []trust.SealKey   // who can open the secrets
	Roots   [][]byte          // roots that a device may lack, oldest first
	Like    *Like             // take number, time and sealed part from another build
}

// A File is one file of the content. Open is called twice and must give the same bytes.
type File struct {
	Path string
	Open func() (io.ReadCloser, error)
}

// Bytes returns a file that holds b.
func Bytes(path string, b []byte) File {
	return File{Path: path, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

// A Draft is a bundle before its signatures.
type Draft struct {
	Payload  []byte // what is signed
	Warnings []string

	m      *bundle.Manifest
	spec   Spec
	sealed map[string][]byte
	packer *packer
}

// Manifest returns what is signed.
func (d *Draft) Manifest() *bundle.Manifest { return d.m }

// Prepare lays a bundle out: it reads every file once, seals the secrets and encodes the
// manifest.
func Prepare(s Spec) (*Draft, error) {
	m := s.Manifest
	m.Type = string(envelope.Manifest)
	m.Hardware = bundle.SortSet(slices.Clone(m.Hardware))
	m.Selectors = bundle.SortSet(slices.Clone(m.Selectors))
	m.Files, m.Recipients, m.Total = nil, nil, 0
	d := &Draft{spec: s, packer: newPacker()}
	if err := d.seal(&m); err != nil {
		return nil, err
	}
	files := slices.Clone(s.Files)
	for path, b := range d.sealed {
		files = append(files, Bytes(path, b))
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	d.spec.Files = files
	distinct := make(map[bundle.Digest]bool)
	for _, f := range files {
		_, sealed := d.sealed[f.Path]
		entry, err := d.packer.layOut(f, sealed)
		if err != nil {
			return nil, err
		}
		for _, c := range entry.Chunks {
			if !distinct[c.Digest] {
				distinct[c.Digest] = true
				m.Total += c.Size
			}
		}
		m.Files = append(m.Files, entry)
	}
	payload, err := bundle.EncodeManifest(&m)
	if err != nil {
		return nil, err
	}
	if d.m, err = bundle.ParseManifest(payload); err != nil {
		return nil, err
	}
	d.Payload = payload
	if len(payload) > WarnManifest {
		d.Warnings = append(d.Warnings, fmt.Sprintf("the manifest has %d KiB: fewer files or fewer recipients make it smaller", len(payload)>>10))
	}
	return d, nil
}

// seal sets the sealed files and their recipients.
func (d *Draft) seal(m *bundle.Manifest) error {
	if l := d.spec.Like; l != nil {
		m.Seq, m.Issued = l.seq, l.issued
		if len(l.sealed) > 0 && l.binding != seal.Bind(m) {
			return refusal.New(refusal.Format, "the other build is of another bundle: its secrets would not open in this one")
		}
		m.Recipients, d.sealed = l.recipients, l.sealed
		return nil
	}
	if len(d.spec.Secrets) == 0 {
		return nil
	}
	plain, err := seal.Encode(d.spec.Secrets)
	if err != nil {
		return err
	}
	m.Recipients, d.sealed, err = seal.Files(map[string][]byte{seal.SecretsPath: plain}, seal.Bind(m), d.spec.To)
	return err
}

// A Like is what a second signer's build takes from the first one.
type Like struct {
	seq, issued uint64
	binding     seal.Binding
	recipients  []bundle.Recipient
	sealed      map[string][]byte
}

// Issued returns the time of the other build, in seconds since 1970: what is counted from it,
// such as an expiry, has to be counted from the same moment.
func (l *Like) Issued() uint64 { return l.issued }

// ReadLike reads what is needed from another build of the same project.
func ReadLike(file io.ReaderAt) (*Like, error) {
	_, m, src, err := open(file)
	if err != nil {
		return nil, err
	}
	l := &Like{seq: m.Seq, issued: m.Issued, binding: seal.Bind(m), recipients: m.Recipients}
	r := bundle.NewReader(m, src)
	for _, f := range m.Files {
		if f.Codec != bundle.Sealed {
			continue
		}
		b, err := r.ReadFile(f.Path, bundle.MaxSealed)
		if err != nil {
			return nil, err
		}
		if l.sealed == nil {
			l.sealed = make(map[string][]byte)
		}
		l.sealed[f.Path] = b
	}
	return l, nil
}

// Build writes a bundle to w, signed by each of signers, of which there is at least one.
func Build(w io.Writer, s Spec, signers ...envelope.Signer) (*Draft, error) {
	d, err := Prepare(s)
	if err != nil {
		return nil, err
	}
	env, err := envelope.Sign(envelope.Manifest, d.Payload, signers...)
	if err != nil {
		return nil, err
	}
	return d, d.Write(w, env)
}

// Write writes the bundle under the signed manifest env, whose payload must be that of the
// draft. A file that changed since [Prepare] is an error.
func (d *Draft) Write(w io.Writer, env []byte) error {
	m, err := envelope.Parse(env, envelope.Manifest)
	if err != nil {
		return err
	}
	if !bytes.Equal(m.Payload, d.Payload) {
		return refusal.New(refusal.Digest, "what was signed is not this bundle")
	}
	if err := writeHead(w, d.spec.Roots, env); err != nil {
		return err
	}
	next := 0
	for i, f := range d.spec.Files {
		entry := &d.m.Files[i]
		k := 0
		err := d.packer.store(f, entry.Codec, *entry, func(data []byte, digest bundle.Digest) error {
			if k >= len(entry.Chunks) || entry.Chunks[k].Digest != digest {
				return changed(f)
			}
			k++
			if at, _ := d.m.Place(digest); at != next {
				return nil // it is in the file already
			}
			next++
			return writeItem(w, data)
		})
		if err == nil && k != len(entry.Chunks) {
			err = changed(f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeHead writes magic and metaset.
func writeHead(w io.Writer, roots [][]byte, manifest []byte) error {
	b := canon.AppendArray(nil, 5)
	b = canon.AppendArray(b, len(roots))
	for _, r := range roots {
		b = append(b, r...)
	}
	b = canon.AppendArray(canon.AppendArray(b, 0), 0)
	b = append(b, manifest...)
	b = canon.AppendArray(b, 0)
	head := canon.AppendBytes(canon.Magic(bundle.Word), b)
	if _, err := bundle.ParseHead(head); err != nil {
		return err
	}
	_, err := w.Write(head)
	return err
}

func writeItem(w io.Writer, data []byte) error {
	if _, err := w.Write(canon.AppendBytesHead(nil, uint64(len(data)))); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// Sign copies a bundle from r to w with another signature on it. Its content is compared on
// the way; its signatures are not judged. The digest is returned. If expect is not zero and
// the bundle has another digest, nothing is signed.
func Sign(w io.Writer, r io.Reader, expect bundle.Digest, s envelope.Signer) (bundle.Digest, error) {
	return resign(w, r, expect, func(env []byte) ([]byte, error) {
		return envelope.AddSigner(env, envelope.Manifest, s)
	})
}

// Add is [Sign] for a signature that was made elsewhere over [TBS].
func Add(w io.Writer, r io.Reader, expect bundle.Digest, pub envelope.PublicKey, sig []byte) (bundle.Digest, error) {
	return resign(w, r, expect, func(env []byte) ([]byte, error) {
		return envelope.Add(env, envelope.Manifest, pub, sig)
	})
}

func resign(w io.Writer, r io.Reader, expect bundle.Digest, sign func([]byte) ([]byte, error)) (bundle.Digest, error) {
	h, m, err := readHead(r)
	if err != nil {
		return bundle.Digest{}, err
	}
	digest := m.Digest()
	if expect != (bundle.Digest{}) && digest != expect {
		return digest, refusal.New(refusal.Digest, "the bundle has digest %s, expected is %s", digest, expect).
			WithHint("look at what changed: tidectl bundle diff")
	}
	env, err := sign(h.Manifest)
	if err != nil {
		return digest, err
	}
	if err := writeHead(w, h.Roots, env); err != nil {
		return digest, err
	}
	return digest, h.Chunks(m, func(_ int, data []byte) error { return writeItem(w, data) })
}

// TBS returns the bytes that the owner of pub has to sign for the bundle in r, and the
// digest of the bundle.
func TBS(r io.Reader, pub envelope.PublicKey) ([]byte, bundle.Digest, error) {
	h, m, err := readHead(r)
	if err != nil {
		return nil, bundle.Digest{}, err
	}
	msg, err := envelope.Parse(h.Manifest, envelope.Manifest)
	if err != nil {
		return nil, bundle.Digest{}, err
	}
	return envelope.TBS(envelope.Manifest, msg.Payload, pub), m.Digest(), nil
}

// readHead reads head and manifest without verifying a signature.
func readHead(r io.Reader) (*bundle.Head, *bundle.Manifest, error) {
	h, err := bundle.Read(r)
	if err != nil {
		return nil, nil, err
	}
	msg, err := envelope.Parse(h.Manifest, envelope.Manifest)
	if err != nil {
		return nil, nil, err
	}
	m, err := bundle.ParseManifest(msg.Payload)
	return h, m, err
}
