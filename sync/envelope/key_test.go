package envelope

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/canon"
)

// TestThumbprint shows the rule of RFC 9679 on its published example, an EC2 key, and
// then that ours is the same rule for an Ed25519 key.
func TestThumbprint(t *testing.T) {
	x := unhex(t, "65eda5a12577c2bae829437fe338701a10aaa375e1bb5b5de108de439c08551d")
	y := unhex(t, "1e52ed75701163f7f9e40ddf9f341b3dc9ba860af7e0ca7ca7e9eecd0084d19c")
	got := sha256.Sum256(coseKey(t, map[int]any{1: 2, -1: 1, -2: x, -3: y}))
	if want := "496bd8afadf307e5b08c64b0421bf9dc01528a344a43bda88fadd1669da253ec"; hex.EncodeToString(got[:]) != want {
		t.Errorf("RFC 9679 §6: got %x, want %s", got, want)
	}
	pub := signer(1).Public()
	want := KeyID(sha256.Sum256(coseKey(t, map[int]any{1: 1, -1: 6, -2: pub[:]})))
	if pub.ID() != want {
		t.Errorf("got %s, want %s", pub.ID(), want)
	}
}

func coseKey(t *testing.T, m map[int]any) []byte {
	t.Helper()
	b, err := canon.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestValid(t *testing.T) {
	for n := range 200 {
		if err := signer(n).Public().Valid(); err != nil {
			t.Errorf("key %d: %v", n, err)
		}
	}
	for _, v := range []struct{ name, hex, reason string }{
		// The y of the eight points of small order, with both signs of x.
		{"order 1", "0100000000000000000000000000000000000000000000000000000000000000", "small order"},
		{"order 2", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "small order"},
		{"order 4", "0000000000000000000000000000000000000000000000000000000000000000", "small order"},
		{"order 4, other sign", "0000000000000000000000000000000000000000000000000000000000000080", "small order"},
		{"order 8", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "small order"},
		{"order 8, other sign", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85", "small order"},
		{"order 8, other y", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", "small order"},
		{"order 8, other y and sign", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa", "small order"},
		{"order 1, sign set", "0100000000000000000000000000000000000000000000000000000000000080", "small order"},
		{"order 2, sign set", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "small order"},
		// y = p and above.
		{"y is p", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "not below"},
		{"y is p + 1", "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "not below"},
		{"y is 2^255 - 1", "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "not below"},
		{"y is 2", "0200000000000000000000000000000000000000000000000000000000000000", "not a point"},
		{"y is 2, sign set", "0200000000000000000000000000000000000000000000000000000000000080", "not a point"},
		{"y is 7", "0700000000000000000000000000000000000000000000000000000000000000", "not a point"},
		{"RFC 8032 test 1", "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", ""},
		{"RFC 8032 test 2", "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", ""},
		{"base point", "5866666666666666666666666666666666666666666666666666666666666666", ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			err := PublicKey(unhex(t, v.hex)).Valid()
			switch {
			case v.reason == "" && err != nil:
				t.Errorf("got %v, want it valid", err)
			case v.reason != "" && (err == nil || !strings.Contains(err.Error(), v.reason)):
				t.Errorf("got %v, want: %s", err, v.reason)
			}
		})
	}
}

func TestNewKeys(t *testing.T) {
	var many []PublicKey
	for n := range 17 {
		many = append(many, signer(n).Public())
	}
	for _, v := range []struct {
		name      string
		threshold int
		keys      []PublicKey
		reason    string
	}{
		{"1 of 1", 1, many[:1], ""},
		{"16 of 16", 16, many[:16], ""},
		{"17 keys", 1, many, "17 keys, at most 16"},
		{"B7 twice", 1, []PublicKey{many[0], many[1], many[0]}, "twice"},
		{"B8 threshold 0", 0, many[:2], "threshold 0"},
		{"B8 threshold -1", -1, many[:2], "threshold -1"},
		{"B8 threshold above keys", 3, many[:2], "threshold 3 with 2"},
		{"no keys", 1, nil, "threshold 1 with 0"},
		{"small order", 1, []PublicKey{{1}}, "small order"},
	} {
		t.Run(v.name, func(t *testing.T) {
			_, err := NewKeys("release", v.threshold, v.keys...)
			if v.reason == "" {
				wantRefusal(t, err, "", "")
				return
			}
			wantRefusal(t, err, refusal.Root, v.reason)
		})
	}
}
