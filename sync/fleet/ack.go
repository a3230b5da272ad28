package fleet

import (
	"maps"
	"slices"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
)

// An ackWriter gathers what each device is to be told.
type ackWriter struct {
	upTo map[name]uint64
	of   map[trust.DeviceID]*told
}

type told struct {
	marks   map[name][]uint64 // numbers above the mark
	losses  []message.LossName
	results []uint64
	tokens  []message.Token
}

func newAckWriter(marks []Mark) *ackWriter {
	w := &ackWriter{upTo: map[name]uint64{}, of: map[trust.DeviceID]*told{}}
	for _, m := range marks {
		w.upTo[name{m.Device, m.Epoch}] = m.UpTo
	}
	return w
}

func (w *ackWriter) tell(id trust.DeviceID) *told {
	t := w.of[id]
	if t == nil {
		t = &told{marks: map[name][]uint64{}}
		w.of[id] = t
	}
	return t
}

// stored notes everything of in, which is committed.
func (w *ackWriter) stored(in *Intake) {
	for i := range in.Batches {
		b := &in.Batches[i]
		n := name{b.Device, b.Epoch}
		t := w.tell(b.Device)
		above := t.marks[n]
		if b.Seq > w.upTo[n] && !slices.Contains(above, b.Seq) {
			above = append(above, b.Seq)
		}
		t.marks[n] = above
	}
	for i := range in.Losses {
		l := &in.Losses[i]
		t := w.tell(l.Device)
		n := name{l.Device, l.Epoch}
		t.marks[n] = append(t.marks[n], nil...)
		t.losses = append(t.losses, message.LossName{Epoch: l.Epoch, Number: l.Number})
	}
	for i := range in.Results {
		t := w.tell(in.Results[i].Device)
		t.results = append(t.results, in.Results[i].Common.Seq)
	}
}

// answer tells a device that said hello what is known of it.
func (w *ackWriter) answer(id trust.DeviceID, k message.Token, known []Mark) {
	t := w.tell(id)
	t.tokens = append(t.tokens, k)
	for _, m := range known {
		n := name{id, m.Epoch}
		w.upTo[n] = max(w.upTo[n], m.UpTo)
		t.marks[n] = append(t.marks[n], nil...)
	}
}

// perAck bounds the parts of one ack, so that it stays below its limit of bytes.
const perAck = 24

// acks returns the acks by device.
func (w *ackWriter) acks() map[trust.DeviceID][]*message.Ack {
	out := map[trust.DeviceID][]*message.Ack{}
	for id, t := range w.of {
		var all []*message.Ack
		add := func() *message.Ack {
			a := &message.Ack{Device: id, Marks: []message.Mark{}}
			all = append(all, a)
			return a
		}
		names := slices.SortedFunc(maps.Keys(t.marks), compareNames)
		for _, n := range names {
			above := slices.Sorted(slices.Values(t.marks[n]))
			above = slices.DeleteFunc(above, func(s uint64) bool { return s <= w.upTo[n] })
			for first := true; first || len(above) > 0; first = false {
				k := min(len(above), perAck)
				a := add()
				a.Marks = append(a.Marks, message.Mark{Epoch: n.epoch, UpTo: w.upTo[n], Also: append([]uint64{}, above[:k]...)})
				above = above[k:]
			}
		}
		all = joinMarks(all)
		for i := 0; i < len(t.losses); i += perAck {
			add().Losses = t.losses[i:min(i+perAck, len(t.losses))]
		}
		for i := 0; i < len(t.results); i += perAck {
			add().Results = t.results[i:min(i+perAck, len(t.results))]
		}
		for _, k := range t.tokens {
			if len(all) == 0 || all[0].Token != nil {
				add()
			}
			for _, a := range all {
				if a.Token == nil {
					a.Token = &k
					break
				}
			}
		}
		out[id] = all
	}
	return out
}

// joinMarks puts the marks of several epochs into one ack where they are short.
func joinMarks(all []*message.Ack) []*message.Ack {
	var out []*message.Ack
	for _, a := range all {
		if n := len(out); n > 0 && len(out[n-1].Marks) < 8 && len(out[n-1].Marks[len(out[n-1].Marks)-1].Also)+len(a.Marks[0].Also) < perAck/2 {
			out[n-1].Marks = append(out[n-1].Marks, a.Marks[0])
			continue
		}
		out = append(out, a)
	}
	return out
}
