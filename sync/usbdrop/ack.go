package usbdrop

import (
	"bytes"
	"errors"
	"io/fs"
	"strconv"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"tidegate/sync/intake"
	"tidegate/sync/mqttsync/message"
)

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// ownFile opens the file for this device in the folder of acks, if there is one. Those of other
// devices, on a stick that goes round, are not looked at.
func (v *visit) ownFile(ext string) []*file {
	name := ackFolder + "/" + v.p.o.Device.String() + ext
	f, err := v.s.open(name, sniffBytes)
	switch {
	case err == nil:
		return []*file{f}
	case !errors.Is(err, fs.ErrNotExist):
		v.v.add(unread(name, err))
	}
	return nil
}

// acknowledge takes an ack: what it names is deleted here.
func (v *visit) acknowledge(f *file) {
	defer f.Close()
	err := v.takeAck(f)
	if err == nil {
		v.v.add(Item{File: shown(f.name), Acked: true})
		return
	}
	v.v.add(Item{File: shown(f.name), Report: intake.Report{
		Kind: envelope.Ack, Source: source, Object: shown(f.name), Phase: intake.Rejected, Word: wordOf(err), Detail: err.Error(), Hint: refusal.Hint(err),
	}})
}

func (v *visit) takeAck(f *file) error {
	b, err := v.s.rest(f, maxAckFile)
	if err != nil {
		return err
	}
	all, err := envelope.ReadFile(envelope.Ack, bytes.NewReader(b))
	if err != nil {
		return err
	}
	a, err := v.p.acks().Acknowledge(all[0])
	if err != nil {
		return err
	}
	return v.p.releaseLosses(a.Losses)
}

// lossesAtOnce is how many records are looked at together.
const lossesAtOnce = 64

// releaseLosses deletes the loss records that the fleet has stored, up to the first that it has
// not named. The ack is verified, and its names are of this queue's epochs, so that nothing is
// deleted that was not on a stick.
func (p *Port) releaseLosses(stored []message.LossName) error {
	if len(stored) == 0 {
		return nil
	}
	pending, err := p.o.Queue.Losses(0, lossesAtOnce)
	if err != nil {
		return err
	}
	var upTo uint64
	for i := range pending {
		if !contains(stored, message.LossName{Epoch: pending[i].Epoch, Number: pending[i].Number}) {
			break
		}
		upTo = pending[i].Number
	}
	if upTo == 0 {
		return nil
	}
	return p.o.Queue.ReleaseLosses(upTo)
}

func contains(all []message.LossName, n message.LossName) bool {
	for _, x := range all {
		if x == n {
			return true
		}
	}
	return false
}
