package project

import (
	"fmt"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/openapi"
	"tidegate/policy/source"
)

// secrets reads secrets.yaml: texts by path, or mappings whose names are joined to a path.
func (l *loader) secrets(o *source.Object) {
	if o == nil {
		return
	}
	from := map[string]policy.Pos{}
	l.secretTree(o, nil, from)
}

func (l *loader) secretTree(o *source.Object, above []string, from map[string]policy.Pos) {
	for _, k := range o.Node.Keys {
		names := append(slices.Clone(above), strings.Split(k.Name, "/")...)
		name := strings.Join(names, "/")
		var value []byte
		switch {
		case k.Value.IsScalar():
			value = []byte(k.Value.Text)
		case k.Value.Kind == source.Map && len(k.Value.Keys) == 1 && k.Value.Keys[0].Name == "from_file":
			x := o.Object(k.Name)
			value = l.bytes(x.Need("from_file"), x, "from_file")
		case k.Value.Kind == source.Map:
			if x := o.Object(k.Name); x != nil {
				l.secretTree(x, names, from)
			}
			continue
		default:
			l.report.Errorf(k.Pos, "", "%s: want a text, {from_file: NAME} or a mapping, got %s", name, k.Value.Kind)
			continue
		}
		path := openapi.SecretPath(names...)
		if first, twice := from[path]; twice {
			l.report.Errorf(k.Pos, "", "the secret %s is given twice, first on line %d: letter case and special characters do not count", path, first.Line)
			continue
		}
		from[path] = k.Pos
		l.places["secret "+path] = k.Pos
		switch {
		case len(value) > MaxSecret:
			l.report.Errorf(k.Pos, "", "the secret %s has more than %d KiB", path, MaxSecret>>10)
		case len(value) == 0:
			l.report.Errorf(k.Pos, "", "the secret %s is empty", path)
		case len(path) > 192:
			l.report.Errorf(k.Pos, "", "the path of a secret is longer than 192 bytes")
		default:
			l.project.Secrets[path] = value
		}
	}
}

// checkSecrets compares the secrets that are referred to with those that are there.
func (l *loader) checkSecrets() {
	used := map[string]string{}
	use := func(s policy.Secret, pos policy.Pos, object, override string) {
		if s == "" {
			return
		}
		if other, taken := used[string(s)]; taken && other != object {
			l.report.Add(Finding{
				Pos: pos, Severity: Error, Object: object, Security: true,
				Message: fmt.Sprintf("its secret %s would also be that of %s", s, other), Hint: "give one of them another name: letter case and special characters do not count",
			})
		}
		used[string(s)] = object
		if _, ok := l.project.Secrets[string(s)]; !ok {
			l.report.Add(Finding{
				Pos: pos, Severity: Warning, Object: object,
				Message: fmt.Sprintf("the secret %s is not in secrets.yaml", s), Hint: "add it, or set " + override + " on each device",
			})
		}
	}
	for _, e := range l.set.Endpoints {
		if e.Auth != nil {
			use(e.Auth.Secret, e.Pos, fmt.Sprintf("endpoint %q", e.Name), fmt.Sprintf("endpoints.%q.password", e.Name))
		}
	}
	for _, t := range l.set.TLS {
		use(t.ClientKey, t.Pos, fmt.Sprintf("TLS profile %q", t.Name), "the key")
	}
	if i := l.set.Introspection; i != nil {
		use(i.Password, l.places["introspection"], "introspection", "the password")
	}
	if b := l.set.BackendJWT; b != nil {
		use(b.Key, l.places["backend_jwt"], "backend_jwt", "the key")
	}
	for path := range l.project.Secrets {
		if _, ok := used[path]; !ok {
			l.report.Warnf(l.places["secret "+path], "", "the secret %s is used by nothing", path)
		}
	}
}
