package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Validate returns every fault of the set, joined (errors.Join); each is a [*Fault].
// A set without a fault has only references that resolve, values in their ranges,
// expressions that compile and keys that parse, so that making an edition from it
// cannot fail but for what packages below policy check themselves: schemas and
// placeholders. It runs on the workstation and again on the device, which trusts no
// builder. Zones are loaded as time.LoadLocation does.
func (s *Set) Validate() error {
	v := &validator{set: s, plans: map[planName]bool{}, apis: map[APIID]*API{}, apps: map[string]*Application{}}
	if s.Format != Format {
		v.add(Pos{}, "bundle", "format %d, want %d", s.Format, Format)
	}
	if s.Faults > FaultsProblem {
		v.add(Pos{}, "bundle", "unknown form of faults %d", s.Faults)
	}
	v.checkPlans()
	v.checkTLS()
	v.checkEndpoints()
	v.checkSchemas()
	v.checkClientCAs()
	v.checkAPIs()
	v.checkIssuers()
	v.checkUsers()
	v.checkConsumers()
	v.checkBlocks()
	return errors.Join(v.faults...)
}

// A validator collects faults.
type validator struct {
	set    *Set
	faults []error
	plans  map[planName]bool
	apis   map[APIID]*API
	apps   map[string]*Application
}

type planName struct {
	kind PlanKind
	name string
}

func (v *validator) add(pos Pos, object, format string, args ...any) {
	v.faults = append(v.faults, &Fault{Pos: pos, Object: object, Message: fmt.Sprintf(format, args...)})
}

func (v *validator) hint(pos Pos, object, hint, format string, args ...any) {
	v.faults = append(v.faults, &Fault{Pos: pos, Object: object, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// name checks a name that is shown to people and used in keys.
func (v *validator) name(pos Pos, object, what, s string) {
	switch {
	case s == "":
		v.add(pos, object, "%s is missing", what)
	case len(s) > 256:
		v.add(pos, object, "%s is longer than 256 bytes", what)
	case strings.ContainsFunc(s, unicode.IsControl):
		v.add(pos, object, "%s has a control character", what)
	}
}

// zone checks the name of a time zone; empty is UTC.
func (v *validator) zone(pos Pos, object, zone string) {
	if zone == "" {
		return
	}
	if zone == "Local" {
		v.hint(pos, object, "name it, like Europe/Oslo", "zone Local means another time on each device")
		return
	}
	if _, err := time.LoadLocation(zone); err != nil {
		v.hint(pos, object, "use an IANA name like Europe/Oslo", "zone %q does not load", zone)
	}
}

// plan checks the name of a plan; "" and Unlimited are always known.
func (v *validator) plan(pos Pos, object string, kind PlanKind, name string) {
	if name == "" || strings.EqualFold(name, Unlimited) || v.plans[planName{kind, name}] {
		return
	}
	hint := fmt.Sprintf("define it in %s of policies.yaml", kind.list())
	for _, k := range []PlanKind{ResourcePlan, SubscriptionPlan, ApplicationPlan, CustomPlan} {
		if v.plans[planName{k, name}] {
			hint = fmt.Sprintf("it is defined in %s, but must be in %s", k.list(), kind.list())
		}
	}
	v.hint(pos, object, hint, "unknown plan %q", name)
}

// list returns the list of policies.yaml in which a kind of plan stands.
func (k PlanKind) list() string {
	switch k {
	case ResourcePlan:
		return "resourcePolicies"
	case SubscriptionPlan:
		return "subscriptionPolicies"
	case ApplicationPlan:
		return "applicationPolicies"
	case CustomPlan:
		return "customPolicies"
	}
	return ""
}

func (v *validator) ranges(pos Pos, object string, rs []Range) {
	for _, r := range rs {
		if !r.From.IsValid() || !r.To.IsValid() || r.From.BitLen() != r.To.BitLen() || r.To.Less(r.From) || r.From != r.From.Unmap().WithZone("") {
			v.add(pos, object, "%s-%s is not a range of addresses", text(r.From), text(r.To))
		}
	}
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return "?"
	}
	return a.String()
}

// apiRef checks a reference to an API by name and version.
func (v *validator) apiRef(pos Pos, object string, id APIID) {
	if id.Version == "*" {
		for known := range v.apis {
			if known.Name == id.Name {
				return
			}
		}
	} else if v.apis[id] != nil {
		return
	}
	hint := ""
	var versions []string
	for known := range v.apis {
		if known.Name == id.Name {
			versions = append(versions, known.Version)
		}
	}
	if slices.Sort(versions); len(versions) > 0 {
		hint = "it has " + strings.Join(versions, ", ")
	}
	v.hint(pos, object, hint, "unknown API %q %s", id.Name, id.Version)
}
