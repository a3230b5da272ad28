package project

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/auth"
	"tidegate/policy/route"
	"tidegate/policy/schema"
	"tidegate/policy/throttle"
	"tidegate/policy/transform"
)

// check holds the whole set against what a device will ask of it.
func (l *loader) check() {
	l.checkSecrets()
	l.checkSchemas()
	l.checkTransforms()
	l.warn()
	l.warnBlocks()
	l.warnOverrides()
	told := map[string]map[policy.Pos]bool{}
	for _, f := range l.report.Findings() {
		if f.Severity == Error {
			if told[f.Object] == nil {
				told[f.Object] = map[policy.Pos]bool{}
			}
			told[f.Object][f.Pos] = true
		}
	}
	for _, err := range unwrap(l.set.Validate()) {
		var f *policy.Fault
		if !errors.As(err, &f) {
			l.report.Errorf(policy.Pos{}, "", "%v", err)
			continue
		}
		pos := f.Pos
		if pos == (policy.Pos{}) {
			pos = l.places[f.Object]
		}
		if told[f.Object][pos] {
			continue // a consequence of what was told already
		}
		l.report.Add(Finding{Pos: pos, Severity: Error, Object: f.Object, Message: f.Message, Hint: f.Hint})
	}
	l.compile()
}

// nobody lends no memory: nobody logs in on a workstation.
type nobody struct{}

func (nobody) Acquire(context.Context, int64) error { return errors.ErrUnsupported }
func (nobody) Release(int64)                        {}

// compile makes what a device makes of a set, as far as it is rules. Nothing should be left
// for it to find; if something is, it is told here and not in the field.
func (l *loader) compile() {
	if l.report.Failed() {
		return // a set with faults is no input for it
	}
	_, err := route.New(l.set)
	told := []error{err}
	_, err = throttle.New(l.set)
	told = append(told, err)
	_, err = auth.New(l.set, auth.Options{Memory: nobody{}})
	told = append(told, err)
	for _, err := range told {
		for _, e := range unwrap(err) {
			l.report.Errorf(policy.Pos{}, "", "a device would refuse it: %v", e)
		}
	}
}

func unwrap(err error) []error {
	if err == nil {
		return nil
	}
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		return many.Unwrap()
	}
	return []error{err}
}

// warn tells what is legal but probably not meant.
func (l *loader) warn() {
	custom := false
	for _, p := range l.set.Plans {
		custom = custom || p.Name == policy.Unauthenticated && p.Kind == policy.SubscriptionPlan
		if p.Burst.Count > 0 && p.Limit.Unit == policy.Requests && p.Limit.Count > 0 && p.Burst.Count > p.Limit.Count && p.Burst.Per >= p.Limit.Window {
			l.report.Warnf(p.Pos, fmt.Sprintf("plan %q", p.Name), "the burst of %d is above the limit of %d: it has no effect", p.Burst.Count, p.Limit.Count)
		}
	}
	l.warnMigrated()
	for _, a := range l.set.APIs {
		object := fmt.Sprintf("API %q %s", a.Name, a.Version)
		open := 0
		for _, op := range a.Operations {
			if len(op.Security) == 0 {
				open++
			}
		}
		if open == len(a.Operations) && open > 0 && a.MutualTLS == policy.MutualNone {
			l.report.Add(Finding{
				Pos: a.Pos, Severity: Warning, Object: object, Security: true,
				Message: "anybody may call every operation", Hint: "remove security: [], x-wso2-disable-security or x-auth-type: None where that is not meant",
			})
		} else if open > 0 && !custom && a.MutualTLS == policy.MutualNone {
			l.report.Add(Finding{
				Pos: a.Pos, Severity: Warning, Object: object,
				Message: fmt.Sprintf("%d operations need no credential, and no plan limits them", open),
				Hint:    "define Unauthenticated in subscriptionPolicies of policies.yaml",
			})
			custom = true // once is enough
		}
		if c := a.CORS; c != nil {
			for _, o := range c.Origins {
				if o != "*" && !strings.Contains(o, "://") {
					l.report.Add(Finding{
						Pos: a.Pos, Severity: Warning, Object: object,
						Message: fmt.Sprintf("CORS: the origin %q has no scheme: no browser will send it", o), Hint: "write https://" + o,
					})
				}
			}
		}
	}
}

// warnOverrides tells endpoints whose names meet in the environment of a device.
func (l *loader) warnOverrides() {
	variables := map[string]string{}
	for _, e := range l.set.Endpoints {
		name := strings.Map(func(r rune) rune {
			switch {
			case r >= 'a' && r <= 'z':
				return r - 'a' + 'A'
			case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
				return r
			}
			return '_'
		}, e.Name)
		if other, taken := variables[name]; taken && other != e.Name {
			l.report.Warnf(e.Pos, fmt.Sprintf("endpoint %q", e.Name), "TIDEGATE_ENDPOINTS_%s_URL would override it and endpoint %q alike", name, other)
		}
		variables[name] = e.Name
	}
}

// warnBlocks tells conditions on APIs that no call can meet: somebody relies on them.
func (l *loader) warnBlocks() {
	for _, b := range l.set.Blocked {
		known := slices.ContainsFunc(l.set.APIs, func(a policy.API) bool { return a.BasePath == strings.TrimSuffix(b.Value, "/") })
		if b.Kind == policy.BlockAPI && !known {
			l.report.Add(Finding{
				Pos: b.Pos, Severity: Warning, Object: "block condition", Security: true,
				Message: fmt.Sprintf("no API answers at %s: nothing is blocked", b.Value), Hint: "give the base path with its version",
			})
		}
	}
}

// maxSchemas bounds the schemas of a project, in bytes. Compiled they need several times that.
const maxSchemas = 16 << 20

// checkSchemas compiles every schema as a device does, and throws the result away.
func (l *loader) checkSchemas() {
	total := 0
	for _, s := range l.set.Schemas {
		total += len(s.Body) + len(s.Defs)
	}
	if total > maxSchemas {
		l.report.Add(Finding{
			Pos: l.schemas[0].Pos, Severity: Error,
			Message: fmt.Sprintf("the schemas of the project need %d MiB, a device has room for %d", total>>20, maxSchemas>>20),
			Hint:    "validate fewer operations: x-tidegate-validate stands at an API or at an operation",
		})
		return
	}
	for i := range l.schemas {
		s := &l.schemas[i]
		_, err := schema.New(&s.Schema)
		for _, e := range unwrap(err) {
			l.report.Errorf(s.Pos, s.Object, "schema: %v", e)
		}
	}
}

// checkTransforms compiles every edit as a device does.
func (l *loader) checkTransforms() {
	for i := range l.set.APIs {
		a := &l.set.APIs[i]
		object := fmt.Sprintf("API %q %s", a.Name, a.Version)
		for _, e := range unwrap(transform.Check(editOf(a.Edit))) {
			l.report.Errorf(a.Pos, object, "x-tidegate-transform: %v", e)
		}
		for k := range a.Operations {
			op := &a.Operations[k]
			for _, e := range unwrap(transform.CheckFor(editOf(op.Edit), op.Template)) {
				l.report.Errorf(op.Pos, object+": "+op.Method+" "+op.Template, "x-tidegate-transform: %v", e)
			}
		}
	}
}

// editOf returns t, or an empty one for none.
func editOf(t *policy.Transform) *policy.Transform {
	if t == nil {
		return new(policy.Transform)
	}
	return t
}
