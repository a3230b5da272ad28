package wso2

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"tidegate/policy/refusal"
)

// A converter holds what is known while an export is turned into a project.
type converter struct {
	r           Report
	entries     []Entry
	at          map[string]int // of entries, by file, list and id
	files       map[string][]byte
	plans       map[string]bool     // kind and name
	used        map[string][]string // resource plan to its users
	offered     map[string]bool     // subscription plans that an API offers
	groupNames  map[string]string
	mutual      []string // APIs that ask for client certificates
	clientCerts bool
	failures    []error
}

func newConverter() *converter {
	return &converter{at: map[string]int{}, files: map[string][]byte{}, plans: map[string]bool{}, used: map[string][]string{}, offered: map[string]bool{}, groupNames: map[string]string{}}
}

// Convert turns an export into the files of a project. known are plans that the project
// has beside those of the export, as "kind name". The error is E_FORMAT for a reply of the
// wrong shape and E_COMPILE for what no project can hold: every fault is in it.
func Convert(x *Export, known []string) (*Result, error) {
	c := newConverter()
	c.r = Report{Warnings: slices.Clone(x.Warnings), Dropped: slices.Clone(x.Dropped)}
	for _, k := range known {
		c.plans[k] = true
	}
	faults := []error{c.policies(x), c.blocks(x)}
	apis, err := c.read(x)
	if err := join(append(faults, err)); err != nil {
		return nil, err
	}
	res := &Result{Unfetched: x.Unfetched}
	for _, a := range apis {
		if err := c.convertAPI(a); err != nil {
			faults = append(faults, err)
			continue
		}
		d, err := a.document()
		if err != nil {
			return nil, err
		}
		res.Documents = append(res.Documents, d)
	}
	faults = append(faults, c.consumers(x, apis))
	c.paths(apis)
	if err := join(append(faults, c.failures...)); err != nil {
		return nil, err
	}
	c.issuer(x)
	c.site(x, apis)
	c.needs(x)
	res.Product = product(x, apis)
	res.Entries = c.entries
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		res.Files = append(res.Files, Document{Kind: KindFile, Name: name, File: name, Body: c.files[name], Source: digest(c.files[name])})
	}
	c.unused()
	c.sortDropped()
	res.Report = c.r
	return res, nil
}

// sortDropped puts what protected something first.
func (c *converter) sortDropped() {
	slices.SortStableFunc(c.r.Dropped, func(a, b Dropped) int {
		switch {
		case a.Security == b.Security:
			return 0
		case a.Security:
			return -1
		}
		return 1
	})
}

// read reads the APIs, in the order of their names, and leaves out what is not published.
func (c *converter) read(x *Export) ([]*api, error) {
	var apis []*api
	var faults []error
	for _, s := range x.APIs {
		a, err := c.readAPI(s)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if status, ok := a.published(); !ok {
			c.r.Warnings = append(c.r.Warnings, fmt.Sprintf("%s: its status is %s, not PUBLISHED: imported, because the archive says so", a.object, status))
		}
		apis = append(apis, a)
	}
	slices.SortFunc(apis, func(a, b *api) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.version, b.version)) })
	seen := map[string]string{}
	for _, a := range apis {
		file := a.file()
		if other := seen[file]; other != "" {
			faults = append(faults, refusal.New(refusal.Compile, "%s and %s would both be %s", other, a.object, file))
		}
		seen[file] = a.object
	}
	return apis, join(faults)
}

func (a *api) file() string {
	ext := ".json"
	if a.yaml {
		ext = ".yaml"
	}
	return "apis/" + fileName(a.name) + "-" + fileName(a.version) + ext
}

func (a *api) document() (Document, error) {
	from := canonical(a.src.Object.node, noise...)
	d := Document{Kind: KindAPI, Name: a.name, Version: a.version, File: a.file(), Source: digest(append(from, a.src.Definition...))}
	d.Operations = a.operations()
	var err error
	d.Body, err = a.encode()
	return d, err
}

// operations counts them.
func (a *api) operations() (n int) {
	for _, p := range a.doc.Value("paths").All() {
		for _, k := range p.Value.All() {
			if methods[k.Name] {
				n++
			}
		}
	}
	return n
}

func (a *api) encode() ([]byte, error) {
	if a.yaml {
		return encodeYAML(a.doc)
	}
	return encodeJSON(a.doc), nil
}

// paths refuses two APIs that would answer the same calls.
func (c *converter) paths(apis []*api) {
	at := map[string]string{}
	for _, a := range apis {
		p := strings.ReplaceAll(a.base, "{version}", a.version)
		if other := at[p]; other != "" {
			c.fail("%s and %s have one base path, %s: a call could not be told apart", other, a.object, p)
			continue
		}
		at[p] = a.object
		if !a.v.yes("isDefaultVersion") {
			continue
		}
		d := "default of " + strings.Replace(a.base, "/{version}", "", 1)
		if other := at[d]; other != "" {
			c.fail("%s and %s are both the default version of %s", other, a.object, strings.TrimPrefix(d, "default of "))
		}
		at[d] = a.object
	}
}

// fail notes what no project can hold.
func (c *converter) fail(format string, args ...any) {
	c.failures = append(c.failures, refusal.New(refusal.Compile, format, args...))
}

// add adds an entry. The same entry may come of several APIs; client certificates collect
// theirs.
func (c *converter) add(e Entry) {
	if e.Source == "" {
		e.Source = digest(canonical(e.Value))
	}
	key := e.Kind + " " + e.ID
	switch e.Kind {
	case KindResource, KindSubscription, KindApplication, KindCustom:
		c.plans[e.Kind+" "+e.ID] = true
	}
	i, twice := c.at[key]
	if !twice {
		c.at[key] = len(c.entries)
		c.entries = append(c.entries, e)
		return
	}
	old := &c.entries[i]
	if e.Kind == KindClientCert {
		old.Value.Value("apis").List = append(old.Value.Value("apis").List, e.Value.Value("apis").List...)
		old.Source = digest(canonical(old.Value))
	}
}

func (c *converter) file(name string, body []byte) { c.files[name] = body }

func (c *converter) subscriptionPlan(name string) bool { return c.plans[KindSubscription+" "+name] }

// use notes who uses a resource plan.
func (c *converter) use(plan, object string) { c.used[plan] = append(c.used[plan], object) }

// needs tells what a person has to supply.
func (c *converter) needs(x *Export) {
	for _, p := range slices.Sorted(maps.Keys(c.used)) {
		if !c.plans[KindResource+" "+p] {
			c.r.Needs = append(c.r.Needs, Need{"plan", p, fmt.Sprintf("used by %s and defined by nobody: define it in resourcePolicies of policies.yaml, or accept_dropped: [plans] in tide.yaml leaves that level unlimited", c.used[p][0])})
		}
	}
	if len(c.mutual) > 0 && !c.clientCerts {
		c.r.Needs = append(c.r.Needs, Need{"certificate", c.mutual[0], "asks callers for a certificate: name those that are accepted in mtls of auth.yaml"})
	}
	if x.Server != "" && x.JWKS == nil {
		c.r.Needs = append(c.r.Needs, Need{"key", x.Server + "/oauth2/token", "the keys of the token issuer could not be fetched: put its certificate beside auth.yaml and name it there as certificate of an issuer"})
	}
	if x.Server == "" {
		c.r.Needs = append(c.r.Needs, Need{"key", "issuer of tokens", "an archive does not say who issues tokens: name it in issuers of auth.yaml"})
	}
}

// unused reports plans that no API uses.
func (c *converter) unused() {
	tiers := map[string]bool{"Unauthenticated": true, "Default": true}
	for _, e := range c.entries {
		if e.Kind == KindSubscribed && e.Value.Value("plan") != nil {
			tiers[e.Value.Value("plan").Text] = true
		}
	}
	for name := range c.offered {
		tiers[name] = true
	}
	for _, e := range c.entries {
		switch {
		case e.Kind == KindResource && c.used[e.ID] == nil:
			c.r.Warnings = append(c.r.Warnings, fmt.Sprintf("resource plan %q: no API uses it", e.ID))
		case e.Kind == KindSubscription && !tiers[e.ID]:
			c.r.Warnings = append(c.r.Warnings, fmt.Sprintf("subscription plan %q: no API offers it", e.ID))
		}
	}
}

// jwksFile holds the keys of the token issuer.
const jwksFile = "keys/apim.jwks.json"

// issuer names who issues tokens, unless the project says it already.
func (c *converter) issuer(x *Export) {
	if x.JWKS == nil {
		return
	}
	const file = jwksFile
	c.file(file, x.JWKS)
	n := mapping()
	set(n, "name", text("apim"))
	set(n, "issuer", text(x.Server+"/oauth2/token"))
	set(n, "audience", texts([]string{"http://org.wso2.apimgt/gateway"}))
	set(n, "jwks", text(file))
	c.add(Entry{Kind: KindIssuer, ID: "apim", Value: n, IfAbsent: true})
}

var labelName = regexp.MustCompile(`^[a-z0-9._-]{1,64}$`)

// site makes the entries of tide.yaml. An import by label is for the devices of that label
// only: an API that also has others must not draw the rest of the site along.
func (c *converter) site(x *Export, apis []*api) {
	names := []string{x.Label}
	if x.Label == "" {
		names = nil
		for _, a := range apis {
			names = append(names, a.labels...)
		}
	}
	slices.Sort(names)
	for _, l := range slices.Compact(names) {
		name := strings.Trim(fileName(l), "-")
		if !labelName.MatchString(name) {
			c.r.Warnings = append(c.r.Warnings, fmt.Sprintf("label %q cannot be a label of devices: left out of tide.yaml", l))
			continue
		}
		if name != l {
			c.r.Warnings = append(c.r.Warnings, fmt.Sprintf("label %q is %q here", l, name))
		}
		c.add(Entry{Kind: KindLabel, ID: name, Value: text(name)})
	}
	c.add(Entry{Kind: KindSetting, ID: "fault_format", Value: text("wso2"), IfAbsent: true})
}

// product is a name for a project that has none.
func product(x *Export, apis []*api) string {
	s := x.Label
	if s == "" && len(apis) > 0 {
		s = apis[0].name
	}
	s = strings.Trim(fileName(s), "-")
	if !labelName.MatchString(s) {
		return "imported"
	}
	return s
}

func join(errs []error) error {
	errs = slices.DeleteFunc(errs, func(e error) bool { return e == nil })
	if len(errs) == 0 {
		return nil
	}
	return errors.Join(errs...)
}
