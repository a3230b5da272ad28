package intake

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/platform/identity"
	"tidegate/policy/refusal"
	"tidegate/store/audit"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/bundle/write"
	"tidegate/sync/seal"
	"tidegate/sync/trust"
)

const secretValue = "correct horse battery staple"

// keep returns the keys of a device, made for this test.
func keep(t testing.TB) *identity.Identity {
	t.Helper()
	i, err := identity.Load(filepath.Join(t.TempDir(), "identity"), identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func sealKeys(all ...*identity.Identity) (keys []trust.SealKey) {
	for _, i := range all {
		for _, k := range i.SealingKeys() {
			keys = append(keys, trust.SealKey{KEM: uint64(k.KEM), Public: k.Public})
		}
	}
	return keys
}

func secret(to ...trust.SealKey) func(*write.Spec) {
	return func(s *write.Spec) {
		s.Secrets = map[string][]byte{"endpoints/orders/password": []byte(secretValue)}
		s.To = to
	}
}

func TestSecretsReachTheEditionAndNothingElse(t *testing.T) {
	w := bareWorld(t)
	device := keep(t)
	w.ident = device
	w.start()
	w.install()
	var logged bytes.Buffer
	w.desk.log = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	file := w.bundle(1, secret(sealKeys(keep(t), device)...))
	r := w.put(file)
	if got := string(w.gate.secrets["endpoints/orders/password"]); got != secretValue || len(w.gate.secrets) != 1 {
		t.Errorf("secrets %q", w.gate.secrets)
	}
	// K4: no copy of the secret anywhere.
	entries, err := audit.Tail(w.store.State(), 100)
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{
		"file": string(file), "log": logged.String(), "audit": fmt.Sprintf("%+v", entries),
		"report": fmt.Sprintf("%+v", r), "status": fmt.Sprintf("%+v", w.desk.Status()), "disk": everything(t, w.dir),
	} {
		if strings.Contains(text, secretValue) {
			t.Errorf("the secret is in the %s", where)
		}
	}
	w.restart()
	w.wantServes(1)
	if got := string(w.gate.secrets["endpoints/orders/password"]); got != secretValue {
		t.Errorf("after a restart: %q", got)
	}
}

func everything(t testing.TB, dir string) string {
	t.Helper()
	var all strings.Builder
	if err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func TestK1SealedForAnotherDevice(t *testing.T) {
	w := bareWorld(t)
	w.ident = keep(t)
	w.start()
	w.install()
	w.confirm(w.bundle(1, nil))
	w.refuse(candidate(w.bundle(2, secret(sealKeys(keep(t))...))), refusal.SecretRecipient, 0)
	w.wantServes(1)
	w.ident = nil
	w.restart()
	w.refuse(candidate(w.bundle(3, secret(sealKeys(keep(t))...))), refusal.SecretRecipient, 0)
}

func TestAGroupKeyIsAllowedAndSaid(t *testing.T) {
	w := bareWorld(t)
	group := keep(t)
	w.ident, w.groups = keep(t), []seal.Opener{group}
	w.start()
	w.install()
	r := w.put(w.bundle(1, secret(sealKeys(group)...)))
	if !has(r.Warnings, refusal.WarnKeyGroup) || string(w.gate.secrets["endpoints/orders/password"]) != secretValue {
		t.Errorf("warnings %v", r.Warnings)
	}
}

// The sealed part of one bundle is of no use in another: neither the whole of it under
// another number, nor the file under another path.
func TestSealedPartsDoNotOpenElsewhere(t *testing.T) {
	w := bareWorld(t)
	device := keep(t)
	w.ident = device
	w.start()
	w.install()
	file := w.bundle(1, secret(sealKeys(device)...))
	payload := bundletest.Payload(t, file)
	w.refuseAll(map[string]hostile{
		"another seq": {forgeLike(t, file, bundletest.Edit(t, payload, func(m bundletest.Map) { m[uint64(4)] = uint64(2) })), refusal.SecretAuth, ""},
		"another name": {forgeLike(t, file, bundletest.Edit(t, payload, func(m bundletest.Map) {
			m[uint64(4)], m[uint64(13)] = uint64(3), "other"
		})), refusal.SecretAuth, ""},
		"another path": {forgeLike(t, file, bundletest.Edit(t, payload, func(m bundletest.Map) {
			m[uint64(14)] = "x"
			m[uint64(4)] = uint64(1)
			for _, f := range m[uint64(16)].([]any) {
				if f.(map[any]any)[uint64(1)] == seal.SecretsPath {
					f.(map[any]any)[uint64(1)] = "secretz.cbor"
				}
			}
		})), refusal.SecretAuth, "secretz.cbor"},
	})
	w.put(w.bundle(9, secret(sealKeys(device)...)))
}

func TestK3ManyRecipients(t *testing.T) {
	w := bareWorld(t)
	device := keep(t)
	w.ident = device
	w.start()
	w.install()
	var keys []trust.SealKey
	for range 500 {
		k, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, trust.SealKey{KEM: seal.X25519, Public: k.PublicKey().Bytes()})
	}
	keys = append(append(keys, sealKeys(device)...), keys[:5]...) // a key named twice counts once
	file := w.bundle(1, secret(keys...))
	if _, m := bundletest.Open(t, file); len(m.Recipients) != 501 {
		t.Errorf("%d recipients", len(m.Recipients))
	}
	w.put(file)
	if string(w.gate.secrets["endpoints/orders/password"]) != secretValue {
		t.Error("the device could not open it")
	}

	// A thousand hybrid keys do not fit a manifest.
	s := w.fleet.Spec(2)
	hybrid, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := hpke.Seal(hybrid.PublicKey(), hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), nil, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	m := s.Manifest
	m.Type = "manifest"
	for i := range 1000 {
		r := bundle.Recipient{KEM: seal.Hybrid, KDF: 1, AEAD: 3, Sealed: wrapped}
		r.KeyID[0], r.KeyID[1] = byte(i>>8), byte(i)
		m.Recipients = append(m.Recipients, r)
	}
	if _, err := bundle.EncodeManifest(&m); !refusal.Is(err, refusal.Limit) {
		t.Errorf("1,000 hybrid recipients: %v", err)
	}
}
