package bundle_test

import (
	"bytes"
	"io"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/bundle/write"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
)

// coded fails unless err is nil or a refusal that is an error.
func coded(t *testing.T, err error) {
	t.Helper()
	if w, ok := refusal.Of(err); err != nil && (!ok || w.Exit() < 10) {
		t.Fatalf("an error without a word: %v", err)
	}
}

// Whatever the metaset is, Read refuses it with a word or gives parts that are the input's
// own bytes.
func FuzzMetaset(f *testing.F) {
	fleet := bundletest.New(f, "a")
	fleet.Rotate(f, nil)
	h, _ := bundletest.Open(f, fleet.Bundle(f, 1, func(s *write.Spec) { s.Roots = fleet.Roots }))
	f.Add(h.Bytes[len(canon.Magic(bundle.Word))+3:])
	f.Add([]byte{0x85, 0x80, 0x80, 0x80, 0xd8, 98, 0x84, 0x40, 0xa0, 0x40, 0x80, 0x80})
	f.Add([]byte{0x85, 0x80, 0x81, 0xf6, 0x80, 0xf6, 0x80})
	f.Fuzz(func(t *testing.T, metaset []byte) {
		file := canon.AppendBytes(canon.Magic(bundle.Word), metaset)
		h, err := bundle.Read(bytes.NewReader(file))
		coded(t, err)
		if err != nil {
			return
		}
		if !bytes.Equal(h.Bytes, file) {
			t.Fatal("the head is not what was read")
		}
		if again := bundletest.Forge(h.Roots, h.Manifest); !bytes.Equal(again, file) {
			t.Fatal("the parts do not make the metaset again")
		}
		_, err = envelope.Parse(h.Manifest, envelope.Manifest)
		coded(t, err)
	})
}

// A manifest that is accepted keeps the rules and has one encoding.
func FuzzManifest(f *testing.F) {
	fleet := bundletest.New(f, "a")
	f.Add(bundletest.Payload(f, fleet.Bundle(f, 1, nil)))
	f.Add(bundletest.Payload(f, fleet.Bundle(f, 2, func(s *write.Spec) {
		s.Manifest.Selectors = []trust.Selector{trust.DevicesWith("a", "b"), trust.OneDevice(trust.DeviceID{1})}
		s.Manifest.Probes = []bundle.Probe{{Method: "GET", Target: "/health", Status: []uint64{200}, TimeoutMS: 500}}
		s.Manifest.Activation = &bundle.Activation{Mode: bundle.ByHand, Window: 60, Attempts: 2}
		s.Manifest.Least = &[3]uint64{1, 2, 3}
		s.Manifest.Expires = bundletest.Issued * 2
		s.Manifest.Extensions = map[uint64][]byte{7: {1}}
	})))
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, err := bundle.ParseManifest(payload)
		coded(t, err)
		if err != nil {
			return
		}
		again, err := bundle.EncodeManifest(m)
		if err != nil || !bytes.Equal(again, payload) {
			t.Fatalf("encodes to other bytes, %v", err)
		}
		var total uint64
		for _, c := range m.Chunks() {
			if c.Size == 0 || c.Size > bundle.ChunkBytes {
				t.Fatalf("chunk of %d bytes", c.Size)
			}
			total += c.Size
		}
		if total != m.Total || total > bundle.MaxContent {
			t.Fatalf("total %d, chunks %d", m.Total, total)
		}
		for _, file := range m.Files {
			if !bundle.ValidPath(file.Path) {
				t.Fatalf("path %q", file.Path)
			}
			if got, ok := m.File(file.Path); !ok || got.Digest != file.Digest {
				t.Fatalf("path %q is not found", file.Path)
			}
		}
	})
}

// slowReader gives the bytes in the portions that script says; 0xff is an error.
type slowReader struct {
	b      []byte
	script []byte
	step   int
}

func (r *slowReader) Read(p []byte) (int, error) {
	n := len(p)
	if len(r.script) > 0 {
		s := r.script[r.step%len(r.script)]
		r.step++
		if s == 0xff {
			return 0, io.ErrClosedPipe
		}
		n = min(n, int(s))
	}
	n = copy(p[:n], r.b)
	r.b = r.b[n:]
	if n == 0 && len(r.b) == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Whatever comes behind the head and however it comes: each chunk that is handed on is what
// the manifest says, and the run ends well only for the whole bundle.
func FuzzChunks(f *testing.F) {
	fleet := bundletest.New(f, "a")
	file := fleet.Bundle(f, 1, nil)
	h, m := bundletest.Open(f, file)
	content := file[len(h.Bytes):]
	f.Add(content, []byte{})
	f.Add(content, []byte{1})
	f.Add(content, []byte{3, 0, 200, 0xff})
	f.Add(content[:len(content)-1], []byte{7})
	f.Add(append(bytes.Clone(content), 0), []byte{255, 254})
	chunks := bundletest.Chunks(f, file)
	f.Fuzz(func(t *testing.T, tail, script []byte) {
		h, err := bundle.Read(io.MultiReader(bytes.NewReader(h.Bytes), &slowReader{b: tail, script: script}))
		if err != nil {
			t.Fatal(err)
		}
		next := 0
		err = h.Chunks(m, func(i int, data []byte) error {
			if i != next || !bytes.Equal(data, chunks[i]) {
				t.Fatalf("chunk %d (want %d) is not what was signed", i, next)
			}
			next++
			return nil
		})
		coded(t, err)
		if err == nil && !bytes.Equal(tail, content) {
			t.Fatal("accepted another content")
		}
	})
}

// No stored bytes make unpacking panic, hang or give what was not signed.
func FuzzFrame(f *testing.F) {
	plain := bytes.Repeat([]byte("tide "), 100)
	good := frame(f, plain)
	f.Add(good)
	f.Add(append(bytes.Clone(good), good...))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 1 << 5, 200, 0xf3, 0, 0, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > bundle.ChunkBytes {
			return
		}
		got, err := pack(t, bundle.Zstd, uint64(len(plain)), plain, b).ReadFile("a", 1<<20)
		coded(t, err)
		if err == nil && !bytes.Equal(got, plain) {
			t.Fatalf("unpacks to %q", got)
		}
	})
}
