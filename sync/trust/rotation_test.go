package trust

import (
	"strconv"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
)

// rotations are the tables of TUF's conformance suite (test_updater_key_rotations.py,
// MIT) in short: keys/threshold:signers of each version, ✗ where it is refused. For
// the root the first version is the pin.
var rotations = []struct{ id, name, steps string }{
	{"R1", "1-of-1 rotation", "1/1:1 → 2/1:2,1 → 2/1:2"},
	{"R2", "same, unused signatures", "1/1:3,1,4 → 2/1:3,2,1,4 → 2/1:3,2,4"},
	{"R3", "3-of-5, changing signers", "01234/3:0,2,4 → 01234/3:0,4,1 → 01234/3:0,1,3 → 01234/3:0,1,3"},
	{"R4", "3-of-5, one key rotated", "01234/3:0,2,4 → 01345/3:0,4,1"},
	{"R5", "same, with a step between", "01234/3:0,2,4 → 01345/3:0,2,4,5 → 01345/3:0,4,5"},
	{"R6", "all keys rotated, with a step", "01234/3:0,2,4 → 56789/3:0,2,4,5,6,7 → 56789/3:5,6,7"},
	{"R7", "threshold 1 to 2 of 3", "123/1:1 → 123/2:1,2"},
	{"R8", "threshold 2 to 1 of 3", "123/2:1,2 → 123/1:1,2 → 123/1:1"},
	{"R9", "1-of-1 to 2-of-2", "1/1:1 → 12/2:1,2"},
	{"R10", "not by the old key", "1/1:1 → 2/1:2,3,4 ✗"},
	{"R11", "not by the new key", "1/1:1 → 2/1:1,3,4 ✗"},
	{"R12", "only 2 new keys", "01234/3:0,2,4 → 01345/3:0,2,4 ✗"},
	{"R13", "only 2 old keys", "01234/3:0,2,4 → 01345/3:0,4,5 ✗"},
	{"R14", "raised threshold not reached", "123/1:1 → 123/2:2 ✗"},
	{"R15", "old threshold not reached", "123/2:1,2 → 123/1:1 ✗"},
}

// step reads "keys/threshold:signers" and whether ✗ stands behind it.
func step(t *testing.T, s string) (role Role, by []int, refused bool) {
	t.Helper()
	s, refused = strings.CutSuffix(strings.TrimSpace(s), " ✗")
	def, signed, ok := strings.Cut(s, ":")
	names, threshold, ok2 := strings.Cut(def, "/")
	if !ok || !ok2 {
		t.Fatalf("step %q", s)
	}
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var in []int
	for _, c := range names {
		in = append(in, number(string(c)))
	}
	for _, c := range strings.Split(signed, ",") {
		by = append(by, number(c))
	}
	return keys(number(threshold), in...), by, refused
}

// TestC1ToC15RootRotation runs R1 to R15, cases C1 to C15.
func TestC1ToC15RootRotation(t *testing.T) {
	for _, v := range rotations {
		t.Run(v.id+" "+v.name, func(t *testing.T) {
			var s State
			for i, text := range strings.Split(v.steps, "→") {
				role, by, refused := step(t, text)
				r := root(uint64(i + 1)).with(func(r *Root) { r.Roles[RoleRoot] = role })
				if i == 0 {
					s = pinned(t, r, by...)
					continue
				}
				before := record(t, s)
				next, _, err := s.AddRoot(seal(t, r, by...))
				if refused {
					wantRefusal(t, err, refusal.RootChain, "keys")
					if record(t, next) != before {
						t.Errorf("refused root %d changed the state", i+1)
					}
					continue
				}
				wantRefusal(t, err, "", "")
				if got := next.Root().Version; got != uint64(i+1) {
					t.Errorf("at root %d, want %d", got, i+1)
				}
				s = next
			}
		})
	}
}

// TestReleaseRotation runs N1 to N10 for the release role, and for the other roles
// that sign.
func TestReleaseRotation(t *testing.T) {
	for _, role := range []RoleNumber{RoleRelease, RoleTime, RoleCollector} {
		for _, v := range []struct{ id, step string }{
			{"N1", "2/1:2"},
			{"N2", "1/1:3,1,4"},
			{"N3", "2/1:1,3,4 ✗"},
			{"N4", "01345/3:0,2,4 ✗"},
			{"N5", "01345/3:0,4 ✗"},
			{"N6", "01234/3:0,2,4"},
			{"N7", "01234/3:0,4,1"},
			{"N8", "01234/3:0,1,3"},
			{"N9", "01234/3:1,2,3"},
			{"N10", "01234/3:2,3,4"},
		} {
			t.Run(role.String()+" "+v.id, func(t *testing.T) {
				def, by, refused := step(t, v.step)
				s := pinned(t, root(1).with(func(r *Root) { r.Roles[role] = def }), 0)
				payload := object(t, Common{Type: "manifest", Domain: domain, Seq: 1})
				got, _, err := s.Verify(role, envelope.Manifest, sign(t, envelope.Manifest, payload, by...))
				if refused {
					wantRefusal(t, err, refusal.SigThreshold, "keys")
					return
				}
				wantRefusal(t, err, "", "")
				if string(got) != string(payload) {
					t.Errorf("got payload %x, want %x", got, payload)
				}
			})
		}
	}
}
