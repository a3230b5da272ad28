package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/store/audit"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"
)

// verifyFlags say which export of the audit log is verified, and with what.
type verifyFlags struct {
	file, earlier, key string
}

func (v *verifyFlags) register(f *flag.FlagSet) {
	f.StringVar(&v.file, "verify", "", "verify an exported file")
	f.StringVar(&v.earlier, "earlier", "", "an earlier export to hold it against")
	f.StringVar(&v.key, "key", "", "the device's .tideenroll or .tidedevice file, whose key the checkpoints must be signed with; default: ask the device")
}

// A reportKey checks the checkpoints of one device (audit.Opener).
type reportKey struct {
	public envelope.PublicKey
	from   string // where the key was read
}

// OpenCheckpoint implements audit.Opener.
func (k *reportKey) OpenCheckpoint(sealed []byte) (n uint64, h [32]byte, err error) {
	c, err := trust.OpenCheckpoint(sealed, k.public)
	if err != nil {
		return 0, h, err
	}
	return c.N, c.Head, nil
}

// verification is what --json prints.
type verification struct {
	audit.Summary
	Device string `json:"device,omitempty"` // whose key the checkpoints are signed with; empty: not checked
}

// verifyHistory checks an export of the audit log: the chain, the checkpoints and their
// signatures. Without the device's key only the chain can be checked, which whoever edited
// the file could have made anew; it says so.
func (a *app) verifyHistory(ctx context.Context, c *clientFlags, v verifyFlags) error {
	key, err := a.reportKey(ctx, c, v.key)
	if err != nil {
		return err
	}
	var opener audit.Opener
	out := verification{}
	if key != nil {
		opener, out.Device = key, trust.DeviceIDOf(key.public).String()
	}
	var mark audit.Mark
	if v.earlier != "" {
		s, err := summary(v.earlier, opener, audit.Mark{})
		if err != nil {
			return err
		}
		mark = s.Last
	}
	if out.Summary, err = summary(v.file, opener, mark); err != nil {
		return err
	}
	if a.json {
		return a.JSON(out)
	}
	fmt.Fprintf(a.Out, "%s: entries %d to %d, %d checkpoints, chain whole\n", v.file, out.First, out.Last.N, out.Checkpoints)
	if key == nil {
		a.Say("signatures were not checked: the device does not answer; give its .tideenroll or .tidedevice file with --key")
		return nil
	}
	fmt.Fprintf(a.Out, "signed by device %s up to entry %d; key from %s\n", out.Device, out.Signed, key.from)
	return nil
}

func summary(name string, o audit.Opener, mark audit.Mark) (audit.Summary, error) {
	f, err := os.Open(name)
	if err != nil {
		return audit.Summary{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	s, err := audit.Verify(f, o, mark)
	if err != nil {
		return s, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// reportKey returns the key in a file or, without one, that of the running device; nil if that
// does not answer.
func (a *app) reportKey(ctx context.Context, c *clientFlags, file string) (*reportKey, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // only read
		return readKey(f, file)
	}
	cl, err := c.dial(a)
	if err != nil {
		return nil, nil //nolint:nilerr // no configuration of a device here: as one that is elsewhere
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := cl.do(ctx, "GET", "/v1/enrol", nil, nil)
	if err != nil {
		return nil, nil //nolint:nilerr // it does not run here
	}
	defer resp.Body.Close()
	return readKey(resp.Body, "the running device: compare the id with the one that was enrolled")
}

// maxKeyFile bounds a file that a key is read from.
const maxKeyFile = 64 << 10

// readKey reads the report key out of a request for enrolment or an enrolment.
func readKey(r io.Reader, from string) (*reportKey, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxKeyFile))
	if err != nil {
		return nil, err
	}
	word, err := canon.NewReader(bytes.NewReader(b)).Word()
	if err != nil {
		return nil, refusal.About(from, err)
	}
	var public envelope.PublicKey
	name, _ := strings.CutPrefix(word, "tide-")
	switch kind := envelope.Kind(name); kind {
	case envelope.Enroll:
		var msgs [][]byte
		if msgs, err = envelope.ReadFile(kind, bytes.NewReader(b)); err == nil {
			var q *trust.Request
			if q, err = trust.OpenRequest(msgs[0]); err == nil {
				public = q.Report
			}
		}
	case envelope.Device:
		var msgs [][]byte
		if msgs, err = envelope.ReadFile(kind, bytes.NewReader(b)); err == nil {
			public, err = enrolledKey(msgs[0])
		}
	default:
		err = refusal.New(refusal.Format, "a %s file holds no key of a device", word).WithHint("give a .tideenroll or .tidedevice file")
	}
	if err != nil {
		return nil, refusal.About(from, err)
	}
	return &reportKey{public: public, from: from}, nil
}

// enrolledKey reads the key in an enrolment. Who signed that is not asked: the id that is shown
// is made of the key.
func enrolledKey(env []byte) (envelope.PublicKey, error) {
	m, err := envelope.Parse(env, envelope.Device)
	if err != nil {
		return envelope.PublicKey{}, err
	}
	e, err := trust.ParseEnrolment(m.Payload)
	if err != nil {
		return envelope.PublicKey{}, err
	}
	return e.Report, nil
}
