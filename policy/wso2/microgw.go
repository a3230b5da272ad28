package wso2

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"tidegate/policy/openapi"
	"tidegate/policy/refusal"
	"tidegate/policy/source"
)

// definitionFolders are where a microgateway project keeps its definitions: those a person
// wrote, and those that were imported from API Manager.
var definitionFolders = []string{"api_definitions", "gen/api_definitions"}

// confFiles are where the configuration of a microgateway lies, below a project or an
// installation.
var confFiles = []string{"conf/micro-gw.conf", "micro-gw.conf", "conf/micro-gw-default.conf"}

// ReadMicrogateway reads an existing project of the microgateway: definitions, policies.yaml
// and, given as conf or found in the project, micro-gw.conf. pems are certificates the
// target project has already, by file name: a configuration names them by alias only.
func ReadMicrogateway(name string, fsys fs.FS, confName string, conf []byte, pems []string) (*Result, error) {
	c := newConverter()
	res := &Result{Unfetched: Kinds(), Product: "imported"}
	if p := strings.Trim(fileName(path.Base(name)), "-"); labelName.MatchString(p) && p != "." && p != ".." {
		res.Product = p
	}
	var faults []error
	for _, folder := range definitionFolders {
		entries, err := fs.ReadDir(fsys, folder)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() || !isText(e.Name()) {
				continue
			}
			d, err := c.definition(fsys, path.Join(folder, e.Name()))
			if err != nil {
				faults = append(faults, err)
				continue
			}
			res.Documents = append(res.Documents, d)
		}
	}
	faults = append(faults, c.ownPolicies(fsys))
	if conf == nil {
		for _, f := range confFiles {
			b, err := source.ReadFile(fsys, f)
			if err == nil {
				confName, conf = f, b
				break
			}
		}
	}
	if conf != nil {
		faults = append(faults, c.configuration(confName, conf, pems))
	}
	if err := join(append(faults, c.failures...)); err != nil {
		return nil, err
	}
	if len(res.Documents) == 0 && len(c.entries) == 0 && len(c.files) == 0 {
		return nil, refusal.New(refusal.Format, "%s: no microgateway project: want definitions in %s, policies.yaml, or %s", name, strings.Join(definitionFolders, " or "), confFiles[0]).
			WithHint("a project of 2.6 keeps no definitions: fetch its label again with tidectl import wso2")
	}
	c.add(Entry{Kind: KindSetting, ID: "fault_format", Value: text("wso2"), IfAbsent: true})
	for _, p := range slices.Sorted(maps.Keys(c.used)) {
		if !c.plans[KindResource+" "+p] {
			c.r.Needs = append(c.r.Needs, Need{"plan", p, fmt.Sprintf("used by %s and defined by nobody: define it in resourcePolicies of policies.yaml, or accept_dropped: [plans] in tide.yaml leaves that level unlimited", c.used[p][0])})
		}
	}
	res.Entries = c.entries
	for _, f := range slices.Sorted(maps.Keys(c.files)) {
		res.Files = append(res.Files, Document{Kind: KindFile, Name: f, File: f, Body: c.files[f], Source: digest(c.files[f])})
	}
	c.sortDropped()
	res.Report = c.r
	return res, nil
}

// definition takes an OpenAPI document over: as it is, but for passwords, which go to
// secrets.yaml.
func (c *converter) definition(fsys fs.FS, file string) (Document, error) {
	body, err := source.ReadFile(fsys, file)
	if err != nil {
		return Document{}, fmt.Errorf("%s: %w", file, err)
	}
	n, err := parse(file, file, body)
	if err != nil {
		return Document{}, err
	}
	if n.Kind != source.Map || n.Value("info") == nil {
		return Document{}, fault(file, "$.info", "missing: not an OpenAPI document")
	}
	a := &api{name: scalarText(n.At("info", "title")), version: scalarText(n.At("info", "version")), doc: clone(n), yaml: !strings.EqualFold(path.Ext(file), ".json")}
	if a.name == "" || a.version == "" {
		return Document{}, fault(file, "$.info", "title or version is missing")
	}
	a.object = a.name + " " + a.version
	changed := c.stripPasswords(a)
	c.interceptors(a.doc, a.object)
	c.uses(a)
	d := Document{Kind: KindAPI, Name: a.name, Version: a.version, File: a.file(), Body: body, Source: digest(body), Operations: a.operations()}
	if changed {
		d.Body, err = a.encode()
	}
	return d, err
}

func scalarText(n *source.Node) string {
	if n.IsScalar() {
		return strings.TrimSpace(n.Text)
	}
	return ""
}

// stripPasswords moves the passwords of endpoints to secrets.yaml.
func (c *converter) stripPasswords(a *api) bool {
	changed := false
	strip := func(owner *source.Node, key, name string) {
		g := owner.Value(key)
		s := g.Value("securityConfig")
		if s == nil || s.Kind != source.Map {
			return
		}
		kind := strings.ToLower(cmp.Or(scalarText(s.Value("type")), "basic"))
		if s.Value("password") == nil && kind == scalarText(s.Value("type")) {
			return
		}
		g = own(owner, key)
		s = own(g, "securityConfig")
		password := scalarText(s.Value("password"))
		remove(s, "password")
		set(s, "type", text(kind))
		changed = true
		secret := openapi.SecretPath("endpoints", name, "password")
		if password != "" {
			c.add(Entry{Kind: KindSecret, ID: secret, Value: text(password)})
			return
		}
		c.r.Needs = append(c.r.Needs, Need{"secret", secret, fmt.Sprintf("the password for %s: put it into secrets.yaml, or set endpoints.%q.password on each device", name, name)})
	}
	for _, side := range []string{"production", "sandbox"} {
		strip(a.doc, "x-wso2-"+side+"-endpoints", a.name+"-"+a.version+"-"+side)
	}
	if l := a.doc.Value("x-wso2-endpoints"); l != nil && l.Kind == source.List {
		l = clone(l)
		set(a.doc, "x-wso2-endpoints", l)
		for i, e := range l.List {
			if e == nil || e.Kind != source.Map {
				continue
			}
			l.List[i] = clone(e)
			for _, k := range l.List[i].Keys {
				strip(l.List[i], k.Name, k.Name)
			}
		}
	}
	paths := own(a.doc, "paths")
	if paths == nil {
		return changed
	}
	for _, p := range paths.Keys {
		for _, k := range p.Value.All() {
			if op := operation(paths, p.Name, k.Name); op != nil && methods[k.Name] {
				id := cmp.Or(scalarText(op.Value("operationId")), strings.ToUpper(k.Name)+"-"+strings.Trim(p.Name, "/"))
				for _, side := range []string{"production", "sandbox"} {
					strip(op, "x-wso2-"+side+"-endpoints", id+"-"+side)
				}
			}
		}
	}
	return changed
}

// ownPolicies takes the plans of policies.yaml over. Its form is ours; only what it calls
// otherwise is renamed.
func (c *converter) ownPolicies(fsys fs.FS) error {
	const file = "policies.yaml"
	body, err := source.ReadFile(fsys, file)
	if _, statErr := fs.Stat(fsys, file); errors.Is(statErr, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	n, err := parse(file, file, body)
	if err != nil {
		return err
	}
	for _, kind := range []string{KindResource, KindSubscription, KindApplication} {
		l := n.At(places[kind].path...)
		maps := nodes(l)
		if l != nil && l.Kind == source.Map {
			maps = []*source.Node{l}
		}
		for _, m := range maps {
			for _, k := range m.All() {
				if strings.EqualFold(k.Name, "Unlimited") {
					continue
				}
				c.add(Entry{Kind: kind, ID: k.Name, Value: ownPlan(k.Value), Source: digest(canonical(k.Value))})
			}
		}
	}
	return nil
}

// ownPlan is a plan in our words.
func ownPlan(v *source.Node) *source.Node {
	n := mapping()
	for _, k := range v.All() {
		switch k.Name {
		case "stopOnQuotaReach", "stopOnQuotaReached":
			if strings.EqualFold(scalarText(k.Value), "false") {
				set(n, "stopOnQuota", truth(false))
			}
		case "timeUnit":
			set(n, k.Name, text(cmp.Or(timeUnits[strings.ToLower(scalarText(k.Value))], scalarText(k.Value))))
		default:
			set(n, k.Name, k.Value)
		}
	}
	return n
}
