package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
)

// Names in the folder of the keys, and of credentials.
const (
	reportFile        = "report.key"
	sealingFile       = "sealing.key"
	idFile            = "id" // the public name, written last: from then on a missing key is lost
	reportCredential  = "tidegate.report.key"
	sealingCredential = "tidegate.sealing.key"

	reportType  = "TIDEGATE REPORT KEY"
	sealingType = "TIDEGATE SEALING KEY"
	kemHeader   = "KEM"
	maxKeyFile  = 16 << 10
)

// Load returns the identity kept in the folder dir, and makes one at first start. The error
// is E_KEY, with the file and the reason, when a key is lost, open to others, of another user,
// not a key, or does not fit the id; serving can go on without an identity.
func Load(dir string, o Options) (*Identity, error) {
	if o.Credentials != "" {
		i, err := fromCredentials(o.Credentials)
		if !errors.Is(err, errAbsent) {
			return i, err
		}
	}
	known, err := ReadID(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return firstStart(dir, o)
	}
	if err != nil {
		return nil, err
	}
	report, err := readReport(filepath.Join(dir, reportFile), own)
	if err != nil {
		return nil, lost(filepath.Join(dir, reportFile), err)
	}
	sealing, err := readSealing(filepath.Join(dir, sealingFile), own)
	if err != nil {
		return nil, lost(filepath.Join(dir, sealingFile), err)
	}
	i := &Identity{report: report, sealing: sealing, where: "file: protects against other users, not against theft of the card"}
	if i.ID() != known {
		return nil, errKey(filepath.Join(dir, reportFile), "is the key of device %s, and this is device %s", i.ID(), known).
			WithHint("put the right key back, or reset the device and enroll it again")
	}
	return i, nil
}

// ReadID returns the name of the device from its public file, for a device whose keys
// cannot be used. The error is [fs.ErrNotExist] before the first start.
func ReadID(dir string) (ID, error) {
	path := filepath.Join(dir, idFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return ID{}, err
	}
	id, err := ParseID(strings.TrimSpace(string(b)))
	if err != nil {
		return ID{}, errKey(path, "%w", err)
	}
	return id, nil
}

func lost(path string, err error) error {
	if errors.Is(err, errAbsent) {
		return errKey(path, "lost: this device had a key, and a new one would make it another device").
			WithHint("put the file back from a copy, or reset the device and enroll it again")
	}
	return err
}

// firstStart makes what is missing. A power cut between the files is repaired by the next
// start: without the id file, what is there is kept and the rest is made.
func firstStart(dir string, o Options) (*Identity, error) {
	report, sealing, err := generate(o)
	if err != nil {
		return nil, refusal.New(refusal.Key, "make keys: %w", err)
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, errKey(dir, "%w", err)
	}
	if have, err := readReport(filepath.Join(dir, reportFile), own); err == nil {
		report = have
	} else if !errors.Is(err, errAbsent) {
		return nil, err
	} else if err := writeKey(filepath.Join(dir, reportFile), &pem.Block{Type: reportType, Bytes: report.Seed()}); err != nil {
		return nil, err
	}
	switch _, err := readSealing(filepath.Join(dir, sealingFile), own); {
	case err == nil: // an earlier start has come this far
	case !errors.Is(err, errAbsent):
		return nil, err
	default:
		if err := writeSealing(filepath.Join(dir, sealingFile), sealing); err != nil {
			return nil, err
		}
	}
	id := IDOf(report.Public().(ed25519.PublicKey))
	if err := durable.WriteFile(filepath.Join(dir, idFile), []byte(id.String()+"\n"), 0o644); err != nil {
		return nil, errKey(filepath.Join(dir, idFile), "%w", err)
	}
	return Load(dir, Options{})
}

func writeSealing(path string, k hpke.PrivateKey) error {
	b, err := k.Bytes()
	if err != nil {
		return errKey(path, "%w", err)
	}
	return writeKey(path, &pem.Block{
		Type: sealingType, Bytes: b,
		Headers: map[string]string{kemHeader: fmt.Sprintf("%#04x", k.KEM().ID())},
	})
}

func writeKey(path string, b *pem.Block) error {
	if err := durable.Create(path, pem.EncodeToMemory(b), 0o600); err != nil {
		return errKey(path, "%w", err)
	}
	return nil
}

// fromCredentials reads keys that the service manager hands over. Their folder belongs to it and is
// closed to others, whatever the modes in it say.
func fromCredentials(dir string) (*Identity, error) {
	report, err := readReport(filepath.Join(dir, reportCredential), trusted)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, sealingCredential)
	sealing, err := readSealing(path, trusted)
	if errors.Is(err, errAbsent) {
		return nil, errKey(path, "missing, though %s is there", reportCredential).
			WithHint("give the service both credentials, or none")
	}
	if err != nil {
		return nil, err
	}
	return &Identity{report: report, sealing: sealing, where: "credentials of the service manager"}, nil
}

// An access rule looks at the open file of a key.
type access func(path string, info fs.FileInfo) error

func trusted(string, fs.FileInfo) error { return nil }

// own wants a file that only this user can read.
func own(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return errKey(path, "mode %04o lets others read or write it", mode).WithHint("chmod 600 %s", path)
	}
	if uid, ok := owner(info); ok && uid != os.Geteuid() {
		return errKey(path, "belongs to user %d, and this program runs as %d", uid, os.Geteuid()).WithHint("chown %d %s", os.Geteuid(), path)
	}
	return nil
}

// read returns the one PEM block of a key file. The checks are made on the file that is read.
func read(path, kind string, allowed access) (*pem.Block, error) {
	f, err := openKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errAbsent
	}
	if err != nil {
		return nil, errKey(path, "%w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, errKey(path, "%w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, errKey(path, "is not a regular file")
	}
	if err := allowed(path, info); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, errKey(path, "%w", err)
	}
	block, err := parse(b, kind)
	if err != nil {
		return nil, errKey(path, "%w", err)
	}
	return block, nil
}

func parse(b []byte, kind string) (*pem.Block, error) {
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("more than %d bytes: not a key", maxKeyFile)
	}
	block, rest := pem.Decode(b)
	switch {
	case block == nil:
		return nil, errors.New("not a key file")
	case block.Type != kind:
		return nil, fmt.Errorf("holds a %q, not a %q", block.Type, kind)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("bytes after the key")
	}
	return block, nil
}

func readReport(path string, allowed access) (ed25519.PrivateKey, error) {
	block, err := read(path, reportType, allowed)
	if err != nil {
		return nil, err
	}
	if len(block.Bytes) != ed25519.SeedSize {
		return nil, errKey(path, "%d bytes, want %d", len(block.Bytes), ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(block.Bytes), nil
}

func readSealing(path string, allowed access) (hpke.PrivateKey, error) {
	block, err := read(path, sealingType, allowed)
	if err != nil {
		return nil, err
	}
	k, err := sealingFrom(block)
	if err != nil {
		return nil, errKey(path, "%w", err)
	}
	return k, nil
}

func sealingFrom(block *pem.Block) (hpke.PrivateKey, error) {
	number, err := strconv.ParseUint(block.Headers[kemHeader], 0, 16)
	if err != nil {
		return nil, fmt.Errorf("KEM: %w", err)
	}
	kem, err := sealingKEM(uint16(number))
	if err != nil {
		return nil, err
	}
	return kem.NewPrivateKey(block.Bytes)
}
