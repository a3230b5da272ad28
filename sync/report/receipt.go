package report

import (
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"
)

// Receipts is the kind of a receipt.
const Receipts envelope.Kind = "receipt"

// MaxReceipt is the largest sealed receipt, in bytes.
const MaxReceipt = 4 << 10

// A Receipt says what a device did with one file of a stick. It goes back on that stick, as a
// .tidereceipt file.
type Receipt struct {
	trust.Common
	Product string       `cbor:"10,keyasint,omitempty"`
	Channel string       `cbor:"22,keyasint,omitempty"`
	Digest  trust.Digest `cbor:"110,keyasint"` // of the bundle; zero: none was read
	Phase   string       `cbor:"111,keyasint"` // as in package intake
	Word    string       `cbor:"112,keyasint,omitempty"`
	Detail  string       `cbor:"113,keyasint,omitempty"` // at most 512 bytes
	Number  uint64       `cbor:"114,keyasint"`           // seq of the bundle
	File    string       `cbor:"115,keyasint"`           // its name on the stick
}

// Receipt returns r sealed. Its Common is set.
func (s *Sealer) Receipt(r *Receipt, issued time.Time) ([]byte, error) {
	r.Common = s.common(Receipts, 1, issued)
	return s.seal(Receipts, r, MaxReceipt)
}

// Receipt verifies and opens a sealed receipt.
func (o *Opener) Receipt(env []byte) (*Receipt, error) {
	var r Receipt
	if err := o.open(env, Receipts, MaxReceipt, &r); err != nil {
		return nil, err
	}
	if err := r.CheckFor(Receipts, o.domain); err != nil {
		return nil, err
	}
	return &r, nil
}
