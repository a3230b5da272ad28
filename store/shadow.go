package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
)

// ShadowBytes is the most a shadow holds.
const ShadowBytes = 64 << 10

// A shadow file is magic, generation, length, content and a CRC-32C over all before it.
const (
	shadowMagic = "TIDESHD1"
	shadowHead  = len(shadowMagic) + 8 + 4
)

// ErrNoShadow says that no whole shadow is there.
var ErrNoShadow = errors.New("no whole shadow")

type shadows struct {
	dir  string
	gen  uint64
	data []byte
}

func loadShadows(dir string) shadows {
	s := shadows{dir: dir}
	for i := range 2 {
		b, err := os.ReadFile(s.name(uint64(i)))
		if err != nil {
			continue // absent, or unreadable: the other one counts
		}
		if gen, data, ok := decodeShadow(b); ok && gen > s.gen {
			s.gen, s.data = gen, data
		}
	}
	return s
}

func (s *shadows) name(gen uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("shadow.%d", gen%2))
}

func encodeShadow(gen uint64, data []byte) []byte {
	b := make([]byte, 0, shadowHead+len(data)+sumBytes)
	b = append(b, shadowMagic...)
	b = binary.BigEndian.AppendUint64(b, gen)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data))) //nolint:gosec // at most ShadowBytes
	b = append(b, data...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeShadow(b []byte) (gen uint64, data []byte, ok bool) {
	if len(b) < shadowHead+sumBytes || len(b) > shadowHead+ShadowBytes+sumBytes || string(b[:len(shadowMagic)]) != shadowMagic {
		return 0, nil, false
	}
	body := b[:len(b)-sumBytes]
	if binary.BigEndian.Uint32(b[len(body):]) != crc32.Checksum(body, castagnoli) {
		return 0, nil, false
	}
	gen = binary.BigEndian.Uint64(b[len(shadowMagic):])
	if gen == 0 || int(binary.BigEndian.Uint32(b[len(shadowMagic)+8:])) != len(body)-shadowHead {
		return 0, nil, false
	}
	return gen, body[shadowHead:], true
}

// Shadow returns a copy of the newest whole shadow: an export of what only state.db has,
// from which a fresh one is begun. The error is [ErrNoShadow] when there is none.
func (d *Dir) Shadow() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shadow.gen == 0 {
		return nil, ErrNoShadow
	}
	return append([]byte{}, d.shadow.data...), nil
}

// PutShadow writes data, at most [ShadowBytes], over the older of the two shadows. After a
// power cut the newer one of before, or this one, is whole.
func (d *Dir) PutShadow(data []byte) error {
	if len(data) > ShadowBytes {
		return refusal.New(refusal.Limit, "shadow of %d bytes: at most %d", len(data), ShadowBytes)
	}
	if d.mode != Normal {
		return refusal.New(refusal.StoreRO, "%s", d.mode)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	gen := d.shadow.gen + 1
	if err := durable.WriteFile(d.shadow.name(gen), encodeShadow(gen, data), 0o600); err != nil {
		return fail("shadow", err)
	}
	d.shadow.gen, d.shadow.data = gen, append([]byte{}, data...)
	return nil
}
