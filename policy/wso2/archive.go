package wso2

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/policy/source"
)

// The bounds of one archive, unpacked in memory.
const (
	MaxArchiveFiles = 10_000
	MaxArchiveBytes = 64 << 20
)

// maxArchiveDepth is how deep below the top of an archive an API may begin.
const maxArchiveDepth = 3

// ParseArchive reads one archive of apictl, in the layout of 2.6 to 3.2 or of 4.x, with one
// or several APIs and rate limiting policies. name is its file, for messages. What is no
// such archive is E_FORMAT, what exceeds the bounds E_LIMIT.
func ParseArchive(name string, body []byte) (*Export, error) {
	files, err := unzip(name, body)
	if err != nil {
		return nil, err
	}
	x := new(Export)
	return x, readFiles(x, name, files)
}

// ParseFolder reads a folder that holds archives, unpacked archives, or policies.
func ParseFolder(name string, fsys fs.FS) (*Export, error) {
	files := map[string][]byte{}
	total := 0
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !d.Type().IsRegular() || !wanted(p) {
			return err
		}
		b, err := source.ReadFile(fsys, p)
		if err != nil {
			return fmt.Errorf("%s: %w", path.Join(name, p), err)
		}
		files[p] = b
		if total += len(b); len(files) > MaxArchiveFiles || total > 4*MaxArchiveBytes {
			return refusal.New(refusal.Limit, "%s: more than %d files or %d MiB", name, MaxArchiveFiles, 4*MaxArchiveBytes>>20)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	x := new(Export)
	for _, p := range slices.Sorted(maps.Keys(files)) {
		if !strings.EqualFold(path.Ext(p), ".zip") {
			continue
		}
		inner, err := ParseArchive(path.Join(name, p), files[p])
		if err != nil {
			return nil, err
		}
		x.join(inner)
		delete(files, p)
	}
	if len(files) == 0 && len(x.APIs) > 0 {
		return x, nil
	}
	found := len(x.APIs)
	if err := readFiles(x, name, files); err != nil && found == 0 {
		return nil, err
	}
	return x, nil
}

// Join adds what other holds to x.
func (x *Export) Join(other *Export) { x.join(other) }

func (x *Export) join(o *Export) {
	x.APIs = append(x.APIs, o.APIs...)
	x.Application = append(x.Application, o.Application...)
	x.Subscription = append(x.Subscription, o.Subscription...)
	x.Advanced = append(x.Advanced, o.Advanced...)
	x.Custom = append(x.Custom, o.Custom...)
	x.Dropped = append(x.Dropped, o.Dropped...)
	x.Warnings = append(x.Warnings, o.Warnings...)
}

// ParseDeployments reads the reply of apis/export of 4.x: deployments.json, and one archive
// for each API.
func ParseDeployments(call string, body []byte) (*Export, error) {
	files, err := unzip(call, body)
	if err != nil {
		return nil, err
	}
	x := new(Export)
	b := files["deployments.json"]
	if b == nil {
		return x, readFiles(x, call, files)
	}
	o, err := ParseObject(call+": deployments.json", b)
	if err != nil {
		return nil, err
	}
	r := &reader{from: o.from}
	for _, d := range r.of(o).get("data").list("deployments") {
		name := d.text("apiFile")
		inner, err := ParseArchive(call+": "+name, files[name])
		if files[name] == nil {
			r.fault(d.path+".apiFile", "%q is not in the reply", name)
			continue
		}
		if err != nil {
			return nil, err
		}
		var envs []string
		for _, e := range d.list("environments") {
			envs = append(envs, e.text("name", "deploymentEnvironment"))
		}
		for i := range inner.APIs {
			inner.APIs[i].Deployments = append(inner.APIs[i].Deployments, slices.DeleteFunc(envs, func(s string) bool { return s == "" })...)
		}
		x.join(inner)
	}
	return x, r.err()
}

// wanted reports whether a file of an archive is read.
func wanted(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".json", ".yaml", ".yml", ".crt", ".pem", ".cer", ".zip":
		return true
	}
	return false
}

// unzip unpacks what is read of an archive, and the names of the rest.
func unzip(name string, body []byte) (map[string][]byte, error) {
	z, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return nil, refusal.New(refusal.Format, "%s: not a zip archive: %w", name, err)
	}
	if len(z.File) > MaxArchiveFiles {
		return nil, refusal.New(refusal.Limit, "%s: %d files in the archive: at most %d", name, len(z.File), MaxArchiveFiles)
	}
	files := map[string][]byte{}
	left := int64(MaxArchiveBytes)
	for _, f := range z.File {
		p := f.Name
		clean := path.Clean(p)
		switch {
		case strings.ContainsAny(p, "\\:") || path.IsAbs(p) || !fs.ValidPath(clean):
			return nil, refusal.New(refusal.Format, "%s: %q leaves the archive", name, p)
		case f.Mode()&fs.ModeSymlink != 0:
			return nil, refusal.New(refusal.Format, "%s: %q is a link", name, p)
		case strings.HasSuffix(p, "/"):
			continue
		case !wanted(p):
			files[clean] = nil
			continue
		}
		b, err := unpack(f, left)
		if err != nil {
			return nil, refusal.New(refusal.Format, "%s: %s: %w", name, p, err)
		}
		if left -= int64(len(b)); left < 0 {
			return nil, refusal.New(refusal.Limit, "%s: more than %d MiB unpacked", name, MaxArchiveBytes>>20)
		}
		files[clean] = b
	}
	return files, nil
}

// unpack reads at most left bytes and one more, whatever the directory says.
func unpack(f *zip.File, left int64) ([]byte, error) {
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, left+1))
}

// folders of an archive that say nothing to a gateway; Sequences held programs.
var skippedFolders = []string{"WSDL", "Docs", "Image", "Sequences", "Policies", "libs"}

// readFiles finds the APIs and policies in the files of one archive.
func readFiles(x *Export, name string, files map[string][]byte) error {
	found := false
	skipped := map[string]bool{}
	for _, p := range slices.Sorted(maps.Keys(files)) {
		dir, base := path.Split(p)
		dir = path.Clean(dir)
		stem := strings.TrimSuffix(base, path.Ext(base))
		depth := strings.Count(p, "/")
		for _, part := range strings.Split(dir, "/") {
			if slices.Contains(skippedFolders, part) {
				skipped[strings.SplitAfter(dir+"/", part+"/")[0]] = true
			}
		}
		switch {
		case files[p] == nil || depth > maxArchiveDepth+1:
		case stem == "api" && path.Base(dir) == "Meta-information":
			if err := readOld(x, name, path.Dir(dir), p, files); err != nil {
				return err
			}
			found = true
		case isText(base) && !strings.Contains(p, "Meta-information/") && !strings.Contains(p, "Definitions/"):
			ok, err := readTyped(x, name, p, files)
			if err != nil {
				return err
			}
			found = found || ok
		}
	}
	if !found {
		return refusal.New(refusal.Format, "%s: no API in it: want Meta-information/api.json (2.6 to 3.2), or api.yaml of type api (4.x), at most %d folders deep", name, maxArchiveDepth)
	}
	for _, s := range slices.Sorted(maps.Keys(skipped)) {
		d := Dropped{Kind: "archive folder", Name: path.Join(name, s), Reason: "says nothing to a gateway"}
		if strings.HasSuffix(s, "Sequences/") {
			d.Reason, d.Security = "programs of API Manager, which cannot be kept", true
			d.Hint = "say what they did with x-tidegate-transform in an overlay"
		}
		x.Dropped = append(x.Dropped, d)
	}
	return nil
}

func isText(base string) bool {
	switch strings.ToLower(path.Ext(base)) {
	case ".json", ".yaml", ".yml":
		return true
	}
	return false
}

// first returns the first of some files that is there.
func first(files map[string][]byte, names ...string) (string, []byte) {
	for _, n := range names {
		if b := files[n]; b != nil {
			return n, b
		}
	}
	return "", nil
}

func object(from, name string, body []byte) (Object, error) {
	n, err := parse(from, name, body)
	if err != nil {
		return Object{}, err
	}
	if n.Kind != source.Map {
		return Object{}, fault(from, "$", "want a mapping, got %s", n.Kind)
	}
	return Object{from: from, path: "$", node: n}, nil
}

// readOld reads an API of 2.6 to 3.2.
func readOld(x *Export, name, root, file string, files map[string][]byte) error {
	o, err := object(name+": "+file, file, files[file])
	if err != nil {
		return err
	}
	meta := path.Join(root, "Meta-information")
	def, body := first(files, path.Join(meta, "swagger.json"), path.Join(meta, "swagger.yaml"), path.Join(meta, "swagger.yml"))
	if body == nil {
		return fault(name, meta+"/swagger.json", "missing: the API has no definition")
	}
	s := APISource{Object: o, Definition: body, DefinitionName: def, Archived: true}
	// 3.x wrote the REST object under data, as 4.x does.
	if d := o.node.Value("data"); d != nil && d.Kind == source.Map && o.node.Value("id") == nil {
		s.Object, s.Archived = Object{from: o.from, path: "$.data", node: d}, false
	}
	certs := func(stem string) ([]Certificate, error) {
		f, b := first(files, path.Join(meta, stem+".json"), path.Join(meta, stem+".yaml"))
		if b == nil {
			return nil, nil
		}
		return readCertificates(name+": "+f, f, b, nil)
	}
	if s.EndpointCertificates, err = certs("endpoint_certificates"); err != nil {
		return err
	}
	if s.ClientCertificates, err = certs("client_certificates"); err != nil {
		return err
	}
	x.APIs = append(x.APIs, s)
	return nil
}

// readTyped reads a file {type, version, data} of 4.x: an API, or a policy. It is false for
// any other file.
func readTyped(x *Export, name, file string, files map[string][]byte) (bool, error) {
	var quiet source.Report
	n := source.Parse(file, files[file], &quiet)
	kind := n.Value("type")
	if n == nil || n.Kind != source.Map || !kind.IsScalar() || n.Value("data") == nil || n.Value("data").Kind != source.Map {
		return false, nil
	}
	o := Object{from: name + ": " + file, path: "$.data", node: n.Value("data")}
	switch t := strings.ToLower(kind.Text); {
	case t == "api":
		return true, readNew(x, name, path.Dir(file), o, files)
	case strings.Contains(t, "throttling") || strings.Contains(t, "rate"):
		sub := ""
		if s := n.Value("subtype"); s.IsScalar() {
			sub = strings.ToLower(s.Text)
		}
		switch {
		case strings.HasPrefix(sub, "app"):
			x.Application = append(x.Application, o)
		case strings.HasPrefix(sub, "sub"):
			x.Subscription = append(x.Subscription, o)
		case strings.HasPrefix(sub, "adv"):
			x.Advanced = append(x.Advanced, o)
		case strings.HasPrefix(sub, "custom"):
			x.Custom = append(x.Custom, o)
		default:
			return false, fault(o.from, "$.subtype", "%q is not a kind of rate limiting policy", sub)
		}
		return true, nil
	case strings.HasPrefix(t, "api_product") || t == "mcp" || t == "application":
		x.Dropped = append(x.Dropped, Dropped{Kind: "archive", Name: path.Join(name, file), Reason: "type " + t + " is not imported"})
		return true, nil
	}
	return false, nil
}

// readNew reads an API of 4.x.
func readNew(x *Export, name, root string, o Object, files map[string][]byte) error {
	def, body := first(files, path.Join(root, "Definitions/swagger.yaml"), path.Join(root, "Definitions/swagger.json"), path.Join(root, "Definitions/swagger.yml"))
	if body == nil {
		return fault(name, path.Join(root, "Definitions/swagger.yaml"), "missing: the API has no definition")
	}
	s := APISource{Object: o, Definition: body, DefinitionName: def}
	if f, b := first(files, path.Join(root, "deployment_environments.yaml"), path.Join(root, "deployment_environments.json")); b != nil {
		d, err := object(name+": "+f, f, b)
		if err != nil {
			return err
		}
		r := &reader{from: d.from}
		for _, e := range r.of(d).list("data") {
			if l := e.text("deploymentEnvironment"); l != "" {
				s.Deployments = append(s.Deployments, l)
			}
		}
		if err := r.err(); err != nil {
			return err
		}
	}
	var err error
	for _, c := range []struct {
		folder string
		to     *[]Certificate
	}{{"Endpoint-certificates", &s.EndpointCertificates}, {"Client-certificates", &s.ClientCertificates}} {
		prefix := path.Join(root, c.folder) + "/"
		for _, f := range slices.Sorted(maps.Keys(files)) {
			if !strings.HasPrefix(f, prefix) || !isText(f) {
				continue
			}
			beside := func(n string) []byte { return files[path.Join(prefix, path.Base(n))] }
			if *c.to, err = readCertificates(name+": "+f, f, files[f], beside); err != nil {
				return err
			}
		}
	}
	x.APIs = append(x.APIs, s)
	return nil
}

// readCertificates reads a list of certificates, or one under data. beside gives the
// content of a file that an entry names.
func readCertificates(from, file string, body []byte, beside func(string) []byte) ([]Certificate, error) {
	n, err := parse(from, file, body)
	if err != nil {
		return nil, err
	}
	r := &reader{from: from}
	root := mapping()
	set(root, "data", n)
	if d := n.Value("data"); d != nil {
		set(root, "data", d)
	}
	if d := root.Value("data"); d.Kind == source.Map {
		set(root, "data", list(d))
	}
	var out []Certificate
	for _, e := range (value{r, root, "$"}).list("data") {
		c := Certificate{Alias: e.text("alias"), Host: e.text("hostName", "endpoint")}
		raw := []byte(e.text("certificate"))
		if beside != nil {
			if b := beside(string(raw)); b != nil {
				raw = b
			}
		}
		if c.PEM = asPEM(raw); c.PEM == nil || c.Alias == "" {
			r.fault(e.path, "want an alias and a certificate in PEM, DER or base64")
			continue
		}
		out = append(out, c)
	}
	return out, r.err()
}

// asPEM returns the certificates in b, however they are wrapped; nil for none.
func asPEM(b []byte) []byte {
	for range 3 {
		if block, _ := pem.Decode(b); block != nil && block.Type == "CERTIFICATE" {
			var out bytes.Buffer
			for block, b = pem.Decode(b); block != nil; block, b = pem.Decode(b) {
				if block.Type == "CERTIFICATE" {
					_ = pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes}) // a buffer takes everything
				}
			}
			return out.Bytes()
		}
		if len(b) > 2 && b[0] == 0x30 && b[1]&0x80 != 0 { // a DER sequence
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b})
		}
		inner, err := base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields(b), nil)))
		if err != nil || len(inner) == 0 {
			return nil
		}
		b = inner
	}
	return nil
}
