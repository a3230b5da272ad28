// Package openapi reads OpenAPI 2.0, 3.0 and 3.1 documents, with the vendor extensions
// of WSO2 and our own, into a [policy.API] with its endpoints and schemas.
//
// It walks the document itself, so that every message has its line, extensions are seen
// wherever they stand, and a cyclic $ref is no trouble: schemas become "$defs" of JSON
// Schema 2020-12. kin-openapi judges the same document as a whole; what it finds against
// the standard is a warning, since documents in the field seldom pass.
//
// What a gateway cannot keep is reported, never silently lost: as an error where losing
// it could leave an API more open, else as a dropped finding. References out of the
// document are refused: the package opens no other file and connects to nothing.
package openapi

import (
	"fmt"
	"io/fs"
	"strings"
	"tidegate/policy"
	"tidegate/policy/source"
)

// Options are what a project says for all its documents.
type Options struct {
	// AcceptInterceptors makes the loss of interceptors a warning instead of an error.
	AcceptInterceptors bool
	// Backend is the production endpoint of documents that name none: an http or https URL,
	// or empty. The path of a document's first server, if it has one, is appended.
	Backend string
	// Validate is used where a document has no x-tidegate-validate.
	Validate Validation
}

// Validation says which sides of an operation are checked against their schemas.
type Validation struct {
	Request  bool
	Response bool
	LogOnly  bool // report, do not refuse
}

// A Document is what one file says. Its references are indexes into its own lists.
type Document struct {
	API       policy.API
	Endpoints []Endpoints
	Schemas   []Schema
}

// Endpoints is a group with what is needed to tell it from those of other documents.
type Endpoints struct {
	policy.Endpoints
	Derived bool // the name was made from an operationId and may meet another
}

// A Schema is a schema with its place.
type Schema struct {
	policy.Schema
	Pos    policy.Pos
	Object string // the operation
}

// Read reads the document name of fsys. It returns nil when the file is no OpenAPI
// document; otherwise the document is as complete as its errors, which are in r, allow.
func Read(fsys fs.FS, name string, opt Options, r *source.Report) *Document {
	b, err := source.ReadFile(fsys, name)
	if err != nil {
		r.Errorf(policy.Pos{File: name}, "", "%v", err)
		return nil
	}
	root := source.Parse(name, b, r)
	if root == nil {
		return nil
	}
	return ReadTree(root, opt, r)
}

// ReadTree is [Read] for a document that was parsed, and perhaps edited, before.
func ReadTree(root *source.Node, opt Options, r *source.Report) *Document {
	d := convert(root, opt, r)
	if d != nil {
		check(root, fmt.Sprintf("API %q %s", d.API.Name, d.API.Version), r)
	}
	return d
}

// A reader holds what is known while a document is read.
type reader struct {
	root    *source.Node
	opt     Options
	r       *source.Report
	v2      bool // OpenAPI 2.0
	v31     bool // OpenAPI 3.1
	object  string
	doc     *Document
	named   map[string]policy.EndpointRef // x-wso2-endpoints
	schemes map[string]scheme
	foreign map[string]bool // extensions of others that were told
	secured security        // of the API
	defs    map[side]map[string]definition
}

func convert(root *source.Node, opt Options, r *source.Report) *Document {
	if root.Kind != source.Map {
		r.Errorf(root.Pos, "", "not an OpenAPI document: want a mapping, got %s", root.Kind)
		return nil
	}
	d := &reader{root: root, opt: opt, r: r, doc: new(Document), foreign: map[string]bool{}}
	if !d.version() {
		return nil
	}
	api := &d.doc.API
	api.Pos = root.Pos
	d.info(api)
	d.object = fmt.Sprintf("API %q %s", api.Name, api.Version)
	d.basePath(api)
	d.extensions(api)
	d.endpoints(api)
	d.securitySchemes()
	d.apiSecurity(api)
	d.operations(api)
	if len(api.Operations) == 0 {
		d.r.Add(source.Finding{
			Pos: root.Pos, Severity: source.Warning, Object: d.object,
			Message: "no operations: nothing of it will be served", Hint: "remove the file from apis, or add paths",
		})
	}
	d.dropped()
	return d.doc
}

// version reads which OpenAPI it is.
func (d *reader) version() bool {
	if v := d.root.Value("swagger"); v != nil {
		if v.Text != "2.0" {
			d.r.Errorf(v.Pos, "", "Swagger %s is not supported: want 2.0", v.Text)
			return false
		}
		d.v2 = true
		return true
	}
	v := d.root.Value("openapi")
	switch {
	case v == nil:
		d.r.Add(source.Finding{
			Pos: d.root.Pos, Severity: source.Error,
			Message: "not an OpenAPI document: no key openapi or swagger", Hint: "begin it with openapi: 3.1.0",
		})
		return false
	case strings.HasPrefix(v.Text, "3.0"):
		return true
	case strings.HasPrefix(v.Text, "3.1"):
		d.v31 = true
		return true
	}
	d.r.Errorf(v.Pos, "", "OpenAPI %s is not supported: want 2.0, 3.0 or 3.1", v.Text)
	return false
}

// info reads the API's identity; its place is that of the title.
func (d *reader) info(api *policy.API) {
	info := d.root.Value("info")
	if k := d.root.Lookup("info"); k != nil {
		api.Pos = k.Pos
	}
	if t := info.Lookup("title"); t != nil {
		api.Pos = t.Pos
	}
	api.Name = strings.TrimSpace(textOf(info.Value("title")))
	api.Version = strings.TrimSpace(textOf(info.Value("version")))
}

// resolve follows the $ref of n, if it has one, within the document. It returns nil
// after an error.
func (d *reader) resolve(n *source.Node, object string) *source.Node {
	for range 32 {
		ref := n.Value("$ref")
		if ref == nil || ref.Kind != source.Text {
			return n
		}
		n = d.pointer(ref, object)
		if n == nil {
			return nil
		}
	}
	d.r.Errorf(n.Pos, object, "a chain of $ref does not end")
	return nil
}

// pointer returns what a reference points to (RFC 6901), or nil after an error.
func (d *reader) pointer(ref *source.Node, object string) *source.Node {
	p, inner := strings.CutPrefix(ref.Text, "#")
	if !inner {
		d.r.Add(source.Finding{
			Pos: ref.Pos, Severity: source.Error, Object: object,
			Message: fmt.Sprintf("$ref %q leaves the document", ref.Text), Hint: "bundle the document into one file first",
		})
		return nil
	}
	n := d.root
	for i, seg := range strings.Split(p, "/") {
		if i == 0 {
			continue
		}
		n = step(n, unescape(seg))
	}
	if n == nil || p != "" && p[0] != '/' {
		d.r.Errorf(ref.Pos, object, "$ref %q points to nothing", ref.Text)
		return nil
	}
	return n
}

// dropped reports what says nothing to a gateway.
func (d *reader) dropped() {
	if k := d.root.Lookup("webhooks"); k != nil && len(k.Value.Keys) > 0 {
		d.r.Dropf(k.Pos, d.object, "webhooks: calls that the API makes do not pass this gateway")
	}
}
