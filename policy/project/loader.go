package project

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/openapi"
	"tidegate/policy/source"
)

// The files of a project. All but tide.yaml and one file in apis may be missing.
const (
	tideFile      = "tide.yaml"
	plansFile     = "policies.yaml"
	authFile      = "auth.yaml"
	consumersFile = "consumers.yaml"
	secretsFile   = "secrets.yaml"
	apisDir       = "apis"
	overlaysDir   = "overlays"
)

// A loader holds what is known while a project is read.
type loader struct {
	fsys     fs.FS
	fetch    Fetcher // nil: nothing is fetched
	report   *source.Report
	project  *Project
	set      *policy.Set
	validate openapi.Validation
	backend  string                // of tide.yaml
	places   map[string]policy.Pos // of what a set holds without its place, by how a fault names it
	schemas  []openapi.Schema      // like set.Schemas, with places
	clientCA []apiCertificate
}

func newLoader(fsys fs.FS) *loader {
	set := &policy.Set{Format: policy.Format}
	return &loader{
		fsys:    fsys,
		report:  new(source.Report),
		project: &Project{Set: set, Secrets: map[string][]byte{}},
		set:     set,
		places:  map[string]policy.Pos{},
	}
}

func (l *loader) load() {
	l.tide(l.file(tideFile, true))
	l.plans(l.file(plansFile, false))
	l.auth(l.file(authFile, false))
	l.consumers(l.file(consumersFile, false))
	l.secrets(l.file(secretsFile, false))
	l.apis()
	l.clientCertificates()
	l.acceptPlans()
	l.check()
	slices.Sort(l.project.Files)
	l.project.Files = slices.Compact(l.project.Files)
}

// file reads one of the project's own files; nil when it is absent or unreadable.
func (l *loader) file(name string, needed bool) *source.Object {
	if _, err := fs.Stat(l.fsys, name); errors.Is(err, fs.ErrNotExist) {
		if needed {
			l.report.Add(Finding{
				Pos: policy.Pos{File: name}, Severity: Error,
				Message: "no such file: this folder is no project", Hint: "tidectl init DIR makes one",
			})
		}
		return nil
	}
	l.project.Files = append(l.project.Files, name)
	n := source.Read(l.fsys, name, l.report)
	if n != nil && n.Kind == source.Null {
		n = &source.Node{Kind: source.Map, Pos: n.Pos} // a file of comments says nothing
	}
	return l.report.Object(n, name, "")
}

// bytes reads a file that another one names. It must lie in the project.
func (l *loader) bytes(name string, o *source.Object, key string) []byte {
	clean := path.Clean(name)
	if !fs.ValidPath(clean) {
		o.Errorf(key, "%q is not a path inside the project", name)
		return nil
	}
	b, err := source.ReadFile(l.fsys, clean)
	if err != nil {
		o.Errorf(key, "%s: %v", clean, err)
		return nil
	}
	l.project.Files = append(l.project.Files, clean)
	return b
}

// apis reads the documents in apis, in the order of their names.
func (l *loader) apis() {
	entries, err := fs.ReadDir(l.fsys, apisDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.report.Errorf(policy.Pos{File: apisDir}, "", "%v", err)
		return
	}
	opt := openapi.Options{
		AcceptInterceptors: slices.Contains(l.project.Tide.AcceptDropped, "interceptors"),
		Validate:           l.validate,
		Backend:            l.backend,
	}
	found := false
	for _, e := range entries {
		ext := strings.ToLower(path.Ext(e.Name()))
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") || ext != ".yaml" && ext != ".yml" && ext != ".json" {
			continue
		}
		found = true
		name := path.Join(apisDir, e.Name())
		l.project.Files = append(l.project.Files, name)
		root := source.Read(l.fsys, name, l.report)
		if root == nil {
			continue
		}
		if root = l.overlay(root, e.Name()); root == nil {
			continue
		}
		if d := openapi.ReadTree(root, opt, l.report); d != nil {
			l.join(d)
		}
	}
	l.strayOverlays(entries)
	if !found {
		l.report.Add(Finding{
			Pos: policy.Pos{File: apisDir}, Severity: Error,
			Message: "no API: want one OpenAPI document per API, .yaml or .json", Hint: "tidectl import openapi FILE adds one",
		})
	}
}

// join adds a document to the set: its references become references of the set.
func (l *loader) join(d *openapi.Document) {
	refs := make([]policy.EndpointRef, len(d.Endpoints)+1)
	for i := range d.Endpoints {
		refs[i+1] = l.endpoint(&d.API, &d.Endpoints[i])
	}
	first := policy.SchemaRef(len(l.set.Schemas))
	for _, s := range d.Schemas {
		l.set.Schemas = append(l.set.Schemas, s.Schema)
		l.schemas = append(l.schemas, s)
	}
	schema := func(r *policy.SchemaRef) {
		if *r != 0 {
			*r += first
		}
	}
	d.API.Production, d.API.Sandbox = refs[d.API.Production], refs[d.API.Sandbox]
	for i := range d.API.Operations {
		op := &d.API.Operations[i]
		op.Production, op.Sandbox = refs[op.Production], refs[op.Sandbox]
		schema(&op.Request)
		schema(&op.Response)
	}
	l.set.APIs = append(l.set.APIs, d.API)
}

// endpoint adds a group. Two documents may name the same group alike; a name made from an
// operationId gives way to one that is taken.
func (l *loader) endpoint(api *policy.API, e *openapi.Endpoints) policy.EndpointRef {
	at := func(name string) int {
		return slices.IndexFunc(l.set.Endpoints, func(o policy.Endpoints) bool { return o.Name == name })
	}
	i := at(e.Name)
	if i >= 0 && same(l.set.Endpoints[i], e.Endpoints) {
		return policy.EndpointRef(i + 1)
	}
	if i >= 0 && e.Derived {
		name := fmt.Sprintf("%s-%s-%s", api.Name, api.Version, e.Name)
		l.report.Warnf(e.Pos, fmt.Sprintf("API %q %s", api.Name, api.Version),
			"the endpoint name %q is taken: this one is %q", e.Name, name)
		if e.Auth != nil && e.Auth.Secret != "" {
			_, part, _ := strings.Cut(strings.TrimPrefix(string(e.Auth.Secret), "endpoints/"), "/")
			e.Auth.Secret = policy.Secret(openapi.SecretPath("endpoints", name, part))
		}
		e.Name = name
	}
	l.set.Endpoints = append(l.set.Endpoints, e.Endpoints)
	return policy.EndpointRef(len(l.set.Endpoints))
}

// same reports whether two groups say the same, wherever they stand.
func same(a, b policy.Endpoints) bool {
	encode := func(e policy.Endpoints) []byte {
		out, err := policy.Encode(&policy.Set{Endpoints: []policy.Endpoints{e}})
		if err != nil {
			return nil
		}
		return out
	}
	x := encode(a)
	return x != nil && bytes.Equal(x, encode(b))
}

// acceptPlans takes out plans that nobody defines where the project accepts their loss.
func (l *loader) acceptPlans() {
	if !slices.Contains(l.project.Tide.AcceptDropped, "plans") {
		return
	}
	take := func(name *string, pos policy.Pos, object string) {
		known := slices.ContainsFunc(l.set.Plans, func(p policy.Plan) bool { return p.Kind == policy.ResourcePlan && p.Name == *name })
		if *name != "" && !known {
			l.report.Add(Finding{
				Pos: pos, Severity: Dropped, Object: object, Security: true,
				Message: fmt.Sprintf("unknown plan %q: this level is not limited", *name),
			})
			*name = ""
		}
	}
	for i := range l.set.APIs {
		a := &l.set.APIs[i]
		object := fmt.Sprintf("API %q %s", a.Name, a.Version)
		take(&a.Plan, a.Pos, object)
		for j := range a.Operations {
			op := &a.Operations[j]
			take(&op.Plan, op.Pos, fmt.Sprintf("%s: %s %s", object, op.Method, op.Template))
		}
	}
}
