package gateway

import (
	"context"
	"tidegate/policy"
	"tidegate/policy/changes"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/intake"
)

// PolicyFile is the path of the policy set in a bundle.
const PolicyFile = "policy.cbor"

// MaxPolicy bounds the policy set, in bytes.
const MaxPolicy = 64 << 20

var _ intake.Activator = (*activator)(nil)

// activator is the gateway as the intake desk sees it.
type activator struct{ *Gateway }

// Activator returns g as the desk sees it: what compiles and activates bundles.
func (g *Gateway) Activator() intake.Activator { return activator{g} }

// Compile makes an edition of the content of a bundle. It changes nothing that serves.
func (a activator) Compile(_ context.Context, b *bundle.Reader, secrets map[string][]byte) (intake.Edition, error) {
	raw, err := b.ReadFile(PolicyFile, MaxPolicy)
	if err != nil {
		return nil, err
	}
	set, err := policy.Decode(raw)
	if err != nil {
		return nil, refusal.New(refusal.Compile, "%s: %w", PolicyFile, err)
	}
	e, err := a.Build(set, secrets)
	if err != nil {
		return nil, refusal.New(refusal.Compile, "%w", err)
	}
	return e, nil
}

// Changes says what an edition would change against another, or against the one that serves.
func (a activator) Changes(from, to intake.Edition) []changes.Change {
	was := a.Active()
	if e, ok := from.(*Edition); ok {
		was = e.Set()
	}
	e, ok := to.(*Edition)
	if !ok {
		return nil
	}
	return changes.Between(was, e.Set())
}

// Activate lets an edition serve; nil takes the last one out, for safe mode.
func (a activator) Activate(e intake.Edition) {
	ed, _ := e.(*Edition)
	a.Gateway.Activate(ed)
}
