package bundletest

import (
	"bytes"
	"testing"
	"tidegate/sync/bundle"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"

	"github.com/fxamacker/cbor/v2"
)

func forge(roots [][]byte, manifest []byte, chunks [][]byte) []byte {
	m := canon.AppendArray(nil, 5)
	m = canon.AppendArray(m, len(roots))
	for _, r := range roots {
		m = append(m, r...)
	}
	m = canon.AppendArray(canon.AppendArray(m, 0), 0)
	m = append(m, manifest...)
	m = canon.AppendArray(m, 0)
	b := canon.AppendBytes(canon.Magic(bundle.Word), m)
	for _, c := range chunks {
		b = canon.AppendBytes(b, c)
	}
	return b
}

// Payload returns the payload of the manifest of a bundle.
func Payload(t testing.TB, file []byte) []byte {
	t.Helper()
	h, _ := Open(t, file)
	m, err := envelope.Parse(h.Manifest, envelope.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	return m.Payload
}

// Open returns head and manifest of a bundle.
func Open(t testing.TB, file []byte) (*bundle.Head, *bundle.Manifest) {
	t.Helper()
	h, err := bundle.Read(newReader(file))
	if err != nil {
		t.Fatal(err)
	}
	msg, err := envelope.Parse(h.Manifest, envelope.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := bundle.ParseManifest(msg.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return h, m
}

// Chunks returns the stored chunks of a bundle.
func Chunks(t testing.TB, file []byte) [][]byte {
	t.Helper()
	h, m := Open(t, file)
	var chunks [][]byte
	if err := h.Chunks(m, func(_ int, data []byte) error {
		chunks = append(chunks, append([]byte(nil), data...))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return chunks
}

// Map is the payload of a manifest as a map, to be bent.
type Map map[any]any

// Edit decodes a payload, lets edit change it, and encodes it again in canonical form.
func Edit(t testing.TB, payload []byte, edit func(Map)) []byte {
	t.Helper()
	var m Map
	if err := cbor.Unmarshal(payload, &m); err != nil {
		t.Fatal(err)
	}
	edit(m)
	return Encode(t, m)
}

// Encode returns the core deterministic encoding of v, whatever it is.
func Encode(t testing.TB, v any) []byte {
	t.Helper()
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := enc.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Resign returns the bundle with another payload of its manifest, signed by release keys 10
// and 11.
func Resign(t testing.TB, file, payload []byte) []byte {
	t.Helper()
	h, _ := Open(t, file)
	env, err := envelope.Sign(envelope.Manifest, payload, Signers(10, 11)...)
	if err != nil {
		t.Fatal(err)
	}
	return forge(h.Roots, env, Chunks(t, file))
}

func newReader(b []byte) *bytes.Reader { return bytes.NewReader(b) }
