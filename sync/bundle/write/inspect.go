package write

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
)

// An Info is what a bundle says about itself. Nobody has vouched for it.
type Info struct {
	Manifest *bundle.Manifest
	Digest   bundle.Digest
	Bytes    int64            // of the whole file, by the manifest
	Signers  []envelope.KeyID // keys that the signatures name
	Roots    []uint64         // versions of the roots that travel along
}

// ReadInfo reads the head of a bundle. No key is needed, and none is believed: what it
// returns has to be shown as unverified.
func ReadInfo(r io.Reader) (*Info, error) {
	h, m, err := readHead(r)
	if err != nil {
		return nil, err
	}
	msg, err := envelope.Parse(h.Manifest, envelope.Manifest)
	if err != nil {
		return nil, err
	}
	i := &Info{Manifest: m, Digest: m.Digest(), Bytes: m.Size(int64(len(h.Bytes))), Signers: msg.Named()}
	for _, env := range h.Roots {
		msg, err := envelope.Parse(env, envelope.Root)
		if err != nil {
			return nil, err
		}
		root, err := trust.ParseRoot(msg.Payload)
		if err != nil {
			return nil, err
		}
		i.Roots = append(i.Roots, root.Version)
	}
	return i, nil
}

// open reads head and manifest of a file and gives its chunks.
func open(file io.ReaderAt) (*bundle.Head, *bundle.Manifest, bundle.Source, error) {
	h, m, err := readHead(io.NewSectionReader(file, 0, 1<<40))
	if err != nil {
		return nil, nil, nil, err
	}
	return h, m, bundle.NewFileSource(file, m, int64(len(h.Bytes))), nil
}

// Verify does what a device does before it asks whether a bundle is meant for it: the form,
// the roots on from state, the signatures, each chunk, the end of the file, and each file
// unpacked. The state is not changed. It reads the file from its start, once, and then
// its chunks again.
func Verify(ctx context.Context, file io.ReaderAt, state trust.State) (*bundle.Manifest, trust.Warnings, error) {
	h, err := bundle.Read(io.NewSectionReader(file, 0, 1<<40))
	if err != nil {
		return nil, nil, err
	}
	state, warnings, err := state.AddRoots(h.Roots, state.Floor().Unix, func(trust.State) error { return nil })
	if err != nil {
		return nil, warnings, err
	}
	payload, more, err := state.Verify(trust.RoleRelease, envelope.Manifest, h.Manifest)
	warnings = append(warnings, more...)
	if err != nil {
		return nil, warnings, err
	}
	m, err := bundle.ParseManifest(payload)
	if err != nil {
		return nil, warnings, err
	}
	if err := h.Chunks(m, func(int, []byte) error { return ctx.Err() }); err != nil {
		return m, warnings, err
	}
	r := bundle.NewReader(m, bundle.NewFileSource(file, m, int64(len(h.Bytes))))
	return m, warnings, errors.Join(r.Verify(ctx), r.Close())
}

// Extract writes the files of a bundle below dir, and only there; a file that exists is not
// touched but an error. Sealed files are written sealed. Nothing is verified but digests.
func Extract(file io.ReaderAt, dir string) (err error) {
	_, m, src, err := open(file)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	r := bundle.NewReader(m, src)
	defer r.Close() //nolint:errcheck // only memory
	for _, f := range m.Files {
		if err := extract(root, r, f.Path); err != nil {
			return err
		}
	}
	return nil
}

func extract(root *os.Root, r *bundle.Reader, name string) error {
	in, err := r.Open(name)
	if err != nil {
		return err
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return refusal.New(refusal.Store, "path %q: %w", name, err)
	}
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return refusal.New(refusal.Store, "path %q: %w", name, err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, root.Remove(name)) // what was not compared to its end does not stay
	}
	return nil
}
