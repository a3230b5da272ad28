package message_test

import (
	"bytes"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/trust"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var id = trust.DeviceIDOf(mqttsynctest.Key("device").Public())

// unsigned is one of each unsigned message.
func unsigned() []any {
	k := message.Token{1, 2, 3}
	return []any{
		&message.Will{Boot: [16]byte{1}, Nonce: k},
		&message.Hello{Token: k},
		&message.Hello{Token: k, Product: "gate", Channel: "stable", Bundle: &message.Bundle{Seq: 4, Trial: []byte{}}, Root: 2, Enrol: 1},
		&message.Get{Token: k, Part: 3, Size: 16 << 10, Pieces: []uint64{0, 1, 5}},
		&message.TimeRequest{Nonce: message.Nonce{9}},
		&message.Announcement{Token: &k},
		&message.Announcement{Offer: &message.Offer{Epoch: 1, Seq: 2, Head: 3, Total: 4}, Spread: 60, URL: "https://example.com/x.tide"},
		&message.Piece{Token: k, Part: 1, Offset: 16384, Data: []byte("data")},
	}
}

func TestUnsignedMessagesComeBack(t *testing.T) {
	for _, m := range unsigned() {
		b, err := message.Encode(m)
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		got, err := message.Decode(b)
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		again, err := message.Encode(got)
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%T comes back as %x, want %x (%v)", m, again, b, err)
		}
	}
}

func TestWhatIsOutOfRangeIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		m    any
		want refusal.Word
	}{
		{"no piece asked for", &message.Get{Size: 4096, Pieces: []uint64{}}, refusal.Limit},
		{"nine pieces asked for", &message.Get{Size: 4096, Pieces: make([]uint64, 9)}, refusal.Limit},
		{"pieces of a byte", &message.Get{Size: 1, Pieces: []uint64{0}}, refusal.Limit},
		{"a piece at the end of the world", &message.Get{Size: 4096, Pieces: []uint64{1 << 60}}, refusal.Limit},
		{"an object of 2 TiB", &message.Announcement{Offer: &message.Offer{Head: 1 << 41}}, refusal.Limit},
		{"an empty object", &message.Announcement{Offer: &message.Offer{}}, refusal.Limit},
		{"an unknown object", &message.Announcement{Offer: &message.Offer{Object: 9, Head: 1}}, refusal.FormatVersion},
		{"a spread of a year", &message.Announcement{Offer: &message.Offer{Head: 1}, Spread: 1 << 25}, refusal.Limit},
		{"a piece that is too large", &message.Piece{Data: make([]byte, message.MaxPiece+1)}, refusal.Limit},
	} {
		b, err := message.Encode(tc.m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := message.Decode(b); !refusal.Is(err, tc.want) {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.want)
		}
	}
}

func TestTopics(t *testing.T) {
	f := message.Fleet("acme")
	for _, p := range []message.Part{
		message.StatusPart, message.BatchPart, message.RequestPart, message.ReportPart, message.AnnouncePart,
		message.PiecePart, message.AckPart, message.TimePart, message.CommandPart,
	} {
		topic := f.Device(id, p)
		gotID, gotPart, ok := f.Split(topic)
		if !ok || gotID != id || gotPart != p {
			t.Errorf("%s is %s %s %v", topic, gotID, gotPart, ok)
		}
		if strings.Count(topic, "/") > 7 || len(topic) > 180 {
			t.Errorf("%s has more slashes or bytes than every broker takes", topic)
		}
	}
	for _, bad := range []string{
		"", "tidegate/v1/acme/d/", "tidegate/v1/other/d/" + id.String() + "/st", "tidegate/v1/acme/d/" + id.String() + "/up",
		"tidegate/v1/acme/d/" + strings.ToUpper(id.String()) + "/st", "tidegate/v1/acme/d/" + id.String() + "/up/an/x", "$SYS/broker",
	} {
		if _, _, ok := f.Split(bad); ok {
			t.Errorf("%q is taken for a device's topic", bad)
		}
	}
	if got := f.Channel("my.product", "a_b"); got != "tidegate/v1/acme/c/my-product/a-b/mf" {
		t.Error(got)
	}
	for _, bad := range []message.Fleet{"", "Acme", "a/b", "a+", message.Fleet(strings.Repeat("a", 33))} {
		if bad.Check() == nil {
			t.Errorf("fleet %q is accepted", bad)
		}
	}
}

func TestSignedMessagesFitTheirLimits(t *testing.T) {
	f, err := mqttsynctest.NewFleet()
	if err != nil {
		t.Fatal(err)
	}
	a := &message.Ack{Device: id, Marks: []message.Mark{}}
	for i := range 8 {
		a.Marks = append(a.Marks, message.Mark{Epoch: message.Epoch{byte(i)}, UpTo: 1 << 40, Also: []uint64{1 << 41, 1<<41 + 1}})
	}
	s := f.Signer(trust.RoleCollector)
	b, err := s.Ack(a, mqttsynctest.Issued)
	if err != nil {
		t.Fatal(err)
	}
	got, err := message.OpenAck(b, f.State, id, 0, message.RefusePlainAcks)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(a, got, cmpopts.IgnoreUnexported(message.Ack{}, message.Mark{})); d != "" {
		t.Errorf("ack comes back changed (-want +got):\n%s", d)
	}
	c := &message.Command{Device: id, Order: message.SendStatus, Token: message.NewToken()}
	ts := f.Signer(trust.RoleTime)
	if b, err = ts.Command(c, mqttsynctest.Issued, mqttsynctest.Issued+60); err != nil {
		t.Fatal(err)
	}
	for floor, want := range map[uint64]refusal.Word{mqttsynctest.Issued: "", mqttsynctest.Issued + 61: refusal.Expired} {
		_, err := message.OpenCommand(b, f.State, id, floor)
		if word, _ := refusal.Of(err); word != want {
			t.Errorf("command at %d: %v, want %q", floor, err, want)
		}
	}
	if b, err = ts.Command(c, mqttsynctest.Issued, mqttsynctest.Issued+8*86400); err != nil {
		t.Fatal(err)
	}
	if _, err := message.OpenCommand(b, f.State, id, 0); !refusal.Is(err, refusal.Format) {
		t.Errorf("a command that lives for eight days: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range unsigned() {
		b, err := message.Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := message.Decode(b)
		if err != nil {
			return
		}
		again, err := message.Encode(m)
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%x decodes to %T, which encodes to %x (%v)", b, m, again, err)
		}
	})
}

func FuzzSigned(f *testing.F) {
	fl, err := mqttsynctest.NewFleet()
	if err != nil {
		f.Fatal(err)
	}
	s := fl.Signer(trust.RoleCollector)
	b, err := s.Ack(&message.Ack{Device: id, Marks: []message.Mark{}}, mqttsynctest.Issued)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xd8, 0x62, 0x84})
	f.Fuzz(func(t *testing.T, c []byte) {
		// Signatures that do not count may stand beside one that does.
		if a, err := message.OpenAck(c, fl.State, id, 0, message.AcceptPlainAcks); err == nil && (a.Device != id || len(a.Marks) > 0) {
			t.Errorf("%x is accepted as %+v", c, a)
		}
		if _, err := message.OpenTime(c, fl.State, id, 0); err == nil {
			t.Errorf("%x is a time", c)
		}
		if _, err := message.OpenCommand(c, fl.State, id, 0); err == nil {
			t.Errorf("%x is a command", c)
		}
		message.KindOf(c)
	})
}
