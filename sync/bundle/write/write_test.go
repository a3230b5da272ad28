package write_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/bundle/write"
	"tidegate/sync/envelope"
	"tidegate/sync/seal"
	"tidegate/sync/trust"
)

func want(t *testing.T, err error, word refusal.Word) {
	t.Helper()
	if !refusal.Is(err, word) {
		got, _ := refusal.Of(err)
		t.Fatalf("word %q (%v), want %q", got, err, word)
	}
}

func state(t *testing.T, f *bundletest.Fleet) trust.State {
	t.Helper()
	s, _, err := trust.Pin(f.RootFile(1), bundletest.Issued)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheSameInputGivesTheSameBytes(t *testing.T) {
	f := bundletest.New(t, "a")
	spec := func() write.Spec {
		s := f.Spec(1)
		s.Manifest.Selectors = []trust.Selector{trust.DevicesWith("b", "a"), trust.EveryDevice()}
		s.Manifest.Hardware = []string{"linux-riscv64", "linux-arm", "linux-arm64", "linux-arm"}
		return s
	}
	a := bundletest.Build(t, spec(), 10, 11)
	s := spec()
	s.Files[0], s.Files[1] = s.Files[1], s.Files[0]
	s.Manifest.Selectors[0], s.Manifest.Selectors[1] = s.Manifest.Selectors[1], s.Manifest.Selectors[0]
	if b := bundletest.Build(t, s, 10, 11); !bytes.Equal(a, b) {
		t.Error("another order of the input gives other bytes")
	}
	// The bytes of a released version are frozen: another compressor or another encoding
	// shows here.
	_, m := bundletest.Open(t, bundletest.Build(t, f.Spec(1), 10))
	const frozen = "22dd089bc5d7db032357f9131c904881deace802ad4b44b68901363ccabd7616"
	if got := m.Digest().String(); got != frozen {
		t.Errorf("digest of the frozen spec is %s, want %s", got, frozen)
	}
}

func TestNothingIsBuiltUnsigned(t *testing.T) {
	f := bundletest.New(t, "a")
	var b bytes.Buffer
	_, err := write.Build(&b, f.Spec(1))
	want(t, err, refusal.SigNone)
	if b.Len() != 0 {
		t.Errorf("%d bytes were written", b.Len())
	}
}

func TestEveryFaultOfASpecIsARefusal(t *testing.T) {
	f := bundletest.New(t, "a")
	for name, c := range map[string]struct {
		change func(*write.Spec)
		word   refusal.Word
	}{
		"no selector":    {func(s *write.Spec) { s.Manifest.Selectors = nil }, refusal.Format},
		"seq 0":          {func(s *write.Spec) { s.Manifest.Seq = 0 }, refusal.Format},
		"path":           {func(s *write.Spec) { s.Files = append(s.Files, write.Bytes("../x", nil)) }, refusal.Format},
		"path twice":     {func(s *write.Spec) { s.Files = append(s.Files, s.Files[0]) }, refusal.Format},
		"nobody to open": {func(s *write.Spec) { s.Secrets = map[string][]byte{"a": {1}} }, refusal.SecretRecipient},
		"sealing key": {func(s *write.Spec) {
			s.Secrets, s.To = map[string][]byte{"a": {1}}, []trust.SealKey{{KEM: seal.X25519, Public: []byte{1}}}
		}, refusal.Key},
		"large secret": {func(s *write.Spec) {
			s.Secrets, s.To = map[string][]byte{"a": make([]byte, 64<<10)}, []trust.SealKey{{KEM: seal.X25519, Public: bytes.Repeat([]byte{9}, 32)}}
		}, refusal.Limit},
		"huge file": {func(s *write.Spec) {
			s.Files = append(s.Files, write.File{Path: "zz", Open: func() (io.ReadCloser, error) { return io.NopCloser(zeros{}), nil }})
		}, refusal.Limit},
	} {
		t.Run(name, func(t *testing.T) {
			s := f.Spec(1)
			c.change(&s)
			_, err := write.Prepare(s)
			want(t, err, c.word)
		})
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestAFileThatChangesWhileItIsBuiltIsFound(t *testing.T) {
	f := bundletest.New(t, "a")
	for name, second := range map[string]string{"other": "bbbb", "longer": "aaaab", "shorter": "aaa", "gone": ""} {
		for first := 1; first <= 2; first++ { // measured; measured and laid out
			s := f.Spec(1)
			opened := 0
			s.Files = []write.File{{Path: "a", Open: func() (io.ReadCloser, error) {
				if opened++; opened <= first {
					return io.NopCloser(strings.NewReader("aaaa")), nil
				}
				return io.NopCloser(strings.NewReader(second)), nil
			}}}
			_, err := write.Build(io.Discard, s, bundletest.Signers(10)...)
			if !refusal.Is(err, refusal.Digest) {
				t.Errorf("%s, after %d: %v", name, first, err)
			}
		}
	}
}

func TestASecondSignerOnAnotherMachine(t *testing.T) {
	f := bundletest.New(t, "a")
	one := bundletest.Build(t, f.Spec(1), 10)
	_, _, err := write.Verify(t.Context(), bytes.NewReader(one), state(t, f))
	want(t, err, refusal.SigThreshold)
	info, err := write.ReadInfo(bytes.NewReader(one))
	if err != nil || len(info.Signers) != 1 || info.Signers[0] != bundletest.Key(10).Public().ID() || info.Bytes != int64(len(one)) {
		t.Fatalf("info %+v, %v", info, err)
	}

	var two, three bytes.Buffer
	if d, err := write.Sign(&two, bytes.NewReader(one), info.Digest, bundletest.Key(11)); err != nil || d != info.Digest {
		t.Fatalf("sign: %v", err)
	}
	// K7: the file that is signed is another than the one that was looked at.
	other := bundletest.Build(t, f.Spec(2), 10)
	var none bytes.Buffer
	_, err = write.Sign(&none, bytes.NewReader(other), info.Digest, bundletest.Key(11))
	want(t, err, refusal.Digest)
	if none.Len() != 0 {
		t.Error("something was written")
	}
	m, _, err := write.Verify(t.Context(), bytes.NewReader(two.Bytes()), state(t, f))
	if err != nil || m.Digest() != info.Digest {
		t.Fatalf("verify: %v", err)
	}

	// The same with a key that never comes near: bytes out, signature in.
	pub := bundletest.Key(12).Public()
	tbs, d, err := write.TBS(bytes.NewReader(one), pub)
	if err != nil || d != info.Digest {
		t.Fatal(err)
	}
	sig, err := bundletest.Key(12).Sign(tbs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := write.Add(&three, bytes.NewReader(one), d, pub, sig); err != nil {
		t.Fatal(err)
	}
	if _, _, err := write.Verify(t.Context(), bytes.NewReader(three.Bytes()), state(t, f)); err != nil {
		t.Error(err)
	}
	sig[3] ^= 1
	if _, err := write.Add(io.Discard, bytes.NewReader(one), d, pub, sig); err == nil {
		t.Error("a wrong signature was added")
	}
}

func TestVerifyFindsWhatADeviceWouldFind(t *testing.T) {
	f := bundletest.New(t, "a")
	s := state(t, f)
	f.Rotate(t, nil)
	good := f.Bundle(t, 1, func(s *write.Spec) { s.Roots = f.Roots[1:] })
	if _, _, err := write.Verify(t.Context(), bytes.NewReader(good), s); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(good)*8; i += 61 {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		if _, _, err := write.Verify(t.Context(), bytes.NewReader(b), s); err == nil {
			t.Fatalf("bit %d of byte %d makes no difference", i%8, i/8)
		}
	}
	_, _, err := write.Verify(t.Context(), bytes.NewReader(append(bytes.Clone(good), 0)), s)
	want(t, err, refusal.Trailing)
	_, _, err = write.Verify(t.Context(), bytes.NewReader(good[:len(good)-1]), s)
	want(t, err, refusal.Truncated)
}

func TestLikeRebuildsTheBytesOfAnotherSigner(t *testing.T) {
	f := bundletest.New(t, "a")
	device := bytes.Repeat([]byte{9}, 32)
	spec := f.Spec(4)
	spec.Secrets = map[string][]byte{"db": []byte("s")}
	spec.To = []trust.SealKey{{KEM: seal.X25519, Public: device}}
	first := bundletest.Build(t, spec, 10)
	if again := bundletest.Build(t, spec, 10); bytes.Equal(first, again) {
		t.Error("two content keys are the same")
	}
	like, err := write.ReadLike(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	second := f.Spec(99)
	second.Manifest.Version = spec.Manifest.Version
	second.Files = spec.Files
	second.Like = like
	if got := bundletest.Build(t, second, 10); !bytes.Equal(got, first) {
		t.Error("the second build has other bytes")
	}
	second.Manifest.Name = "other"
	_, err = write.Prepare(second)
	want(t, err, refusal.Format)
}

func TestK9ExtractStaysInItsFolder(t *testing.T) {
	f := bundletest.New(t, "a")
	file := f.Bundle(t, 1, func(s *write.Spec) { s.Files = append(s.Files, write.Bytes("..a/b", []byte("x"))) })
	dir := filepath.Join(t.TempDir(), "out")
	if err := write.Extract(bytes.NewReader(file), dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "schemas", "common.json"))
	if err != nil || len(got) != 18000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	want(t, write.Extract(bytes.NewReader(file), dir), refusal.Store) // nothing is overwritten

	// A folder of the bundle's is a link out of the target.
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "schemas")); err != nil {
		t.Fatal(err)
	}
	want(t, write.Extract(bytes.NewReader(file), dir), refusal.Store)
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside lie %v, %v", left, err)
	}
	// Content that is not what was signed does not stay.
	bad := bytes.Clone(file)
	bad[len(bad)-2] ^= 1
	dir = filepath.Join(t.TempDir(), "bad")
	if err := write.Extract(bytes.NewReader(bad), dir); err == nil {
		t.Error("damaged content was extracted")
	}
	if _, err := os.Stat(filepath.Join(dir, "schemas", "common.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("damaged content stays: %v", err)
	}
}

func TestCompareNamesWhatASignerIsAboutToSign(t *testing.T) {
	f := bundletest.New(t, "a")
	_, a := bundletest.Open(t, f.Bundle(t, 1, nil))
	_, b := bundletest.Open(t, f.Bundle(t, 2, func(s *write.Spec) {
		s.Files = append(s.Files[:1], write.Bytes("new", []byte("n")))
		s.Manifest.Least = &[3]uint64{1, 0, 0}
		s.Manifest.Probes = []bundle.Probe{{Method: "GET", Target: "/", Status: []uint64{200}, TimeoutMS: 1}}
		s.Manifest.Selectors = []trust.Selector{trust.DevicesWith("x")}
	}))
	c := bundle.Compare(a, b)
	if strings.Join(c.Added, " ") != "new" || strings.Join(c.Removed, " ") != "schemas/common.json" || strings.Join(c.Changed, " ") != "policy.cbor" {
		t.Errorf("files %+v", c)
	}
	if got := strings.Join(c.Fields, ", "); got != "version, selectors, probes, least version of tidegate" {
		t.Errorf("fields %q", got)
	}
	if c := bundle.Compare(a, a); !c.None() || c.StoredBytes != 0 {
		t.Errorf("against itself %+v", c)
	}
	if c := bundle.Compare(nil, a); len(c.Added) != 2 {
		t.Errorf("against nothing %+v", c)
	}
}

func TestFilesOfOtherKindsAreNotBundles(t *testing.T) {
	f := bundletest.New(t, "a")
	_, err := write.ReadInfo(bytes.NewReader(f.RootFile(1)))
	want(t, err, refusal.Format)
	if _, err := envelope.ReadFile(envelope.Root, bytes.NewReader(f.Bundle(t, 1, nil))); !refusal.Is(err, refusal.Format) {
		t.Errorf("a bundle as a root: %v", err)
	}
}

func BenchmarkBuild(b *testing.B) {
	f := bundletest.New(b, "a")
	s := f.Spec(1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := write.Build(io.Discard, s, bundletest.Signers(10, 11)...); err != nil {
			b.Fatal(err)
		}
	}
}
