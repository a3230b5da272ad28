package fleet

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
)

// An Enroll says what a device is to become.
type Enroll struct {
	Root             trust.State
	Product, Channel string
	Labels           []string
	Hardware         []string // beside the device's own
	Name             string   // for people
	Seq              uint64   // above that of an earlier enrolment
	Issued           uint64   // seconds since 1970
}

// OpenRequest reads a .tideenroll file.
func OpenRequest(r io.Reader) (*trust.Request, error) {
	msgs, err := envelope.ReadFile(envelope.Enroll, r)
	if err != nil {
		return nil, err
	}
	return trust.OpenRequest(msgs[0])
}

// Sign returns the .tidedevice file of a device that asked, signed by the release role. It
// verifies what it made as the device will.
func (e *Enroll) Sign(r *trust.Request, signers ...envelope.Signer) ([]byte, error) {
	root := e.Root.Root()
	v := &trust.Enrolment{
		Domain: root.Domain, Epoch: root.Roles[trust.RoleRelease].Epoch, Seq: e.Seq, Issued: e.Issued,
		Product: e.Product, Channel: e.Channel, Name: e.Name, Report: r.Report, Seal: r.Seal, Device: r.ID(),
		Labels: bundle.SortSet(slices.Clone(e.Labels)), Hardware: bundle.SortSet(slices.Clone(e.Hardware)),
	}
	payload, err := v.Marshal()
	if err != nil {
		return nil, err
	}
	env, err := envelope.Sign(envelope.Device, payload, signers...)
	if err != nil {
		return nil, err
	}
	if _, _, err := e.Root.Verify(trust.RoleRelease, envelope.Device, env); err != nil {
		return nil, err
	}
	return envelope.File(envelope.Device, env), nil
}

// ACL returns the lines that let a device speak, for the brokers whose files name devices one
// by one; for the others one rule serves all of them.
func ACL(f message.Fleet, id trust.DeviceID) string {
	dots := func(s string) string { return strings.ReplaceAll(s, "/", ".") }
	var b bytes.Buffer
	d := strings.TrimSuffix(f.Device(id, message.StatusPart), "/st")
	fmt.Fprintf(&b, "# mosquitto: packaging/mqtt/mosquitto.acl serves every device by its certificate, CN %s\n", id)
	fmt.Fprintf(&b, "# or, with a user name and a password:\nuser %s\n", id)
	fmt.Fprintf(&b, "topic write %s/st\ntopic write %s/up/#\ntopic read %s/dn/#\ntopic read %sc/+/+/mf\n\n", d, d, d, strings.TrimSuffix(d, "d/"+id.String()))
	fmt.Fprintf(&b, "# nats-server, in authorization.users\n")
	fmt.Fprintf(&b, "{ user: %q, allowed_connection_types: [\"MQTT\"], permissions: {\n", id.String())
	fmt.Fprintf(&b, "    publish: [%q, %q],\n", dots(d)+".st", dots(d)+".up.>")
	fmt.Fprintf(&b, "    subscribe: [%q, %q, %q] } }\n\n", dots(d)+".dn", dots(d)+".dn.>", dots(strings.TrimSuffix(d, "d/"+id.String()))+"c.*.*.mf")
	fmt.Fprintf(&b, "# EMQX: packaging/mqtt/emqx-acl.conf serves every device by its client id\n")
	return b.String()
}
