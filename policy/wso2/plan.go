package wso2

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"tidegate/policy/refusal"
	"tidegate/policy/source"
)

// LockFile keeps, in a project, what the last import wrote. It is read by import only.
const LockFile = "wso2.lock.json"

// A Lock is what an import wrote, and from what.
type Lock struct {
	Format   int      `json:"format"`
	Source   string   `json:"source"`   // server, or archives
	APIM     string   `json:"apim"`     // version of API Manager, empty for archives
	Selector string   `json:"selector"` // label NAME, or api NAME VERSION
	Objects  []Locked `json:"objects"`
}

// A Locked is one object.
type Locked struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	File    string `json:"file"`
	Source  string `json:"source,omitempty"`  // SHA-256 of the reply it was made from
	Written string `json:"written,omitempty"` // SHA-256 of what was written
}

// lockFormat is the only format there is.
const lockFormat = 1

// ParseLock reads a lock file; nil for an absent one.
func ParseLock(b []byte) (*Lock, error) {
	if b == nil {
		return nil, nil
	}
	l := new(Lock)
	if err := json.Unmarshal(b, l); err != nil || l.Format != lockFormat {
		return nil, refusal.New(refusal.Format, "%s: not a lock file of this version of tidectl", LockFile).
			WithHint("remove it to import as if for the first time, with --force for what is there")
	}
	return l, nil
}

// The states of an imported object.
const (
	New     = "new"
	Changed = "changed"
	Same    = "same"
	Removed = "removed"
)

// A Change is what an import does to one object.
type Change struct {
	Kind, Name, Version, File, State string
	Operations                       int
}

// Changes are what an import writes. Nothing is written before all of it is known.
type Changes struct {
	Write   []File // in this order; the lock is the last
	Remove  []string
	Objects []Change
}

// A File is a file of the project.
type File struct {
	Name    string
	Body    []byte
	Private bool // readable by its owner only
}

// Any reports whether anything changes.
func (c *Changes) Any() bool { return len(c.Write)+len(c.Remove) > 0 }

// An EditedError lists what was edited by hand and would be lost.
type EditedError struct{ Objects []string }

// Error says what was edited.
func (e *EditedError) Error() string {
	return "edited by hand since the last import, and changed on the other side too:\n  " + strings.Join(e.Objects, "\n  ")
}

// Unwrap returns the refusal with its next step.
func (e *EditedError) Unwrap() error {
	return (&refusal.Error{Detail: "edited by hand"}).WithHint("move your edits of apis/NAME into overlays/NAME.yaml, which import never touches; --force takes what the other side has")
}

// A planner compares a result with a folder.
type planner struct {
	fsys  fs.FS
	res   *Result
	old   map[string]Locked
	lock  Lock
	force bool

	edited  []string
	changes Changes
	yaml    map[string]*yamlFile
	trees   map[string]*source.Node
	exists  map[string]bool
}

// Plan compares a result with a project folder and its lock, nil for none. The lock to be
// is like without its objects. What was edited by hand stays where the other side did not
// change, and else is an [*EditedError], unless force.
func Plan(fsys fs.FS, res *Result, old *Lock, like Lock, force bool) (*Changes, error) {
	p := &planner{
		fsys: fsys, res: res, old: map[string]Locked{}, lock: like, force: force,
		yaml: map[string]*yamlFile{}, trees: map[string]*source.Node{}, exists: map[string]bool{},
	}
	p.lock.Format, p.lock.Objects = lockFormat, nil
	if old != nil {
		if (old.Source != like.Source || old.Selector != like.Selector) && !force {
			return nil, refusal.New("", "the project was imported from %s (%s), not from %s (%s)", old.Source, old.Selector, like.Source, like.Selector).
				WithHint("import into another folder, or give --force to replace what was imported")
		}
		for _, l := range old.Objects {
			p.old[l.key()] = l
		}
	}
	for _, d := range res.Documents {
		if err := p.document(d); err != nil {
			return nil, err
		}
	}
	if err := p.entries(); err != nil {
		return nil, err
	}
	for _, d := range p.keyFiles() {
		if err := p.document(d); err != nil {
			return nil, err
		}
	}
	if err := p.gone(old); err != nil {
		return nil, err
	}
	if len(p.edited) > 0 {
		return nil, &EditedError{p.edited}
	}
	return &p.changes, p.finish()
}

func (l Locked) key() string { return l.Kind + "\x00" + l.Name + "\x00" + l.Version }

func (p *planner) read(name string) ([]byte, error) {
	b, err := fs.ReadFile(p.fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// judge decides about one object: what is there, what the last import wrote, what there is
// now, each as a digest, "" for nothing.
func (p *planner) judge(l Locked, there, object string, adopt bool) string {
	old, known := p.old[l.key()]
	delete(p.old, l.key())
	switch {
	case there == l.Written:
		return Same
	case there == "" && !known:
		return New
	case known && there == old.Written:
		return Changed
	case known && l.Written == old.Written && there != "":
		return Same // an edit by hand, and nothing new to write over it
	case p.force || !known && adopt:
		return Changed
	}
	p.edited = append(p.edited, object)
	return Same
}

func (p *planner) document(d Document) error {
	there, err := p.read(d.File)
	if err != nil {
		return err
	}
	l := Locked{Kind: d.Kind, Name: d.Name, Version: d.Version, File: d.File, Source: d.Source, Written: digest(d.Body)}
	sum := ""
	if there != nil {
		sum = digest(there)
	}
	if _, known := p.old[l.key()]; known && there == nil {
		delete(p.old, l.key()) // the file was deleted: written again
	}
	state := p.judge(l, sum, d.File, false)
	if state != Same {
		p.changes.Write = append(p.changes.Write, File{Name: d.File, Body: d.Body})
	}
	p.lock.Objects = append(p.lock.Objects, l)
	p.changes.Objects = append(p.changes.Objects, Change{d.Kind, d.Name, d.Version, d.File, state, d.Operations})
	return nil
}

// open reads a file of lists once.
func (p *planner) open(name string) error {
	if p.yaml[name] != nil {
		return nil
	}
	b, err := p.read(name)
	if err != nil {
		return err
	}
	p.exists[name] = b != nil
	var quiet source.Report
	p.trees[name] = source.Parse(name, b, &quiet)
	if quiet.Failed() {
		f := quiet.Findings()[0]
		return refusal.New(refusal.Compile, "%s:%d: %s", name, f.Pos.Line, f.Message).WithHint("the file must be readable before anything is imported into it")
	}
	if p.yaml[name], err = openYAML(name, b); err != nil {
		return refusal.New(refusal.Compile, "%w", err)
	}
	return nil
}

func (p *planner) entries() error {
	if err := p.open("tide.yaml"); err != nil {
		return err
	}
	if !p.exists["tide.yaml"] {
		if err := p.yaml["tide.yaml"].put(&Entry{Kind: KindSetting, ID: "product", Value: text(p.res.Product)}); err != nil {
			return err
		}
	}
	for i := range p.res.Entries {
		if err := p.entry(&p.res.Entries[i]); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) entry(e *Entry) error {
	file := places[e.Kind].file
	if err := p.open(file); err != nil {
		return err
	}
	cur := current(p.trees[file], e.Kind, e.ID)
	l := Locked{Kind: e.Kind, Name: e.ID, File: file, Source: e.Source, Written: digest(canonical(e.Value))}
	there := ""
	if cur != nil {
		there = digest(canonical(cur))
	}
	state := Same
	switch {
	case e.IfAbsent:
		if cur != nil || e.Kind == KindIssuer && p.hasIssuer(e) {
			return nil
		}
		state = New
		l.Written = ""
	case e.Kind == KindSecret: // its digest would be a way to guess it
		switch {
		case there == "":
			state = New
		case there != l.Written:
			state = Changed
		}
		l.Source, l.Written = "", ""
		delete(p.old, l.key())
	default:
		if _, known := p.old[l.key()]; known && !p.exists[file] {
			delete(p.old, l.key())
		}
		state = p.judge(l, there, fmt.Sprintf("%s: %s %q", file, e.Kind, e.ID), true)
	}
	if state != Same {
		if err := p.yaml[file].put(e); err != nil {
			return refusal.New(refusal.Compile, "%w", err)
		}
	}
	if !e.IfAbsent {
		p.lock.Objects = append(p.lock.Objects, l)
	}
	p.changes.Objects = append(p.changes.Objects, Change{Kind: e.Kind, Name: e.ID, File: file, State: state})
	return nil
}

// hasIssuer reports whether the project names the issuer under another name.
func (p *planner) hasIssuer(e *Entry) bool {
	for _, i := range nodes(p.trees["auth.yaml"].Value("issuers")) {
		if v := i.Value("issuer"); v.IsScalar() && v.Text == e.Value.Value("issuer").Text {
			return true
		}
	}
	return false
}

// keyFiles are the files to keep: not the keys of an issuer that the project has from elsewhere.
func (p *planner) keyFiles() []Document {
	return slices.DeleteFunc(slices.Clone(p.res.Files), func(d Document) bool {
		if d.File != jwksFile {
			return false
		}
		f := p.yaml["auth.yaml"]
		if f == nil {
			return true
		}
		b, err := f.bytes()
		return err != nil || !bytes.Contains(b, []byte(jwksFile))
	})
}

// gone removes what the last import wrote and this one does not have.
func (p *planner) gone(old *Lock) error {
	if old == nil {
		return nil
	}
	for _, l := range old.Objects {
		if _, left := p.old[l.key()]; !left {
			continue
		}
		if slices.Contains(p.res.Unfetched, l.Kind) {
			p.lock.Objects = append(p.lock.Objects, l)
			continue
		}
		if err := p.remove(l); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) remove(l Locked) error {
	if l.Kind == KindAPI || l.Kind == KindFile {
		there, err := p.read(l.File)
		if err != nil || there == nil {
			return err
		}
		if digest(there) != l.Written && !p.force {
			p.edited = append(p.edited, l.File+" (its API is gone)")
			return nil
		}
		p.changes.Remove = append(p.changes.Remove, l.File)
	} else {
		if err := p.open(l.File); err != nil {
			return err
		}
		cur := current(p.trees[l.File], l.Kind, l.Name)
		if cur == nil {
			return nil
		}
		if l.Written != "" && digest(canonical(cur)) != l.Written && !p.force {
			p.edited = append(p.edited, fmt.Sprintf("%s: %s %q (it is gone)", l.File, l.Kind, l.Name))
			return nil
		}
		p.yaml[l.File].take(l.Kind, l.Name)
	}
	p.changes.Objects = append(p.changes.Objects, Change{Kind: l.Kind, Name: l.Name, Version: l.Version, File: l.File, State: Removed})
	return nil
}

// finish renders the files of lists and the lock.
func (p *planner) finish() error {
	for _, name := range []string{"tide.yaml", "policies.yaml", "auth.yaml", "consumers.yaml", "secrets.yaml"} {
		f := p.yaml[name]
		if f == nil || !f.changed {
			continue
		}
		b, err := f.bytes()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p.changes.Write = append(p.changes.Write, File{Name: name, Body: b, Private: name == "secrets.yaml"})
	}
	slices.SortFunc(p.lock.Objects, func(a, b Locked) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
	b, err := json.MarshalIndent(p.lock, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	was, err := p.read(LockFile)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, was) {
		p.changes.Write = append(p.changes.Write, File{Name: LockFile, Body: b})
	}
	return nil
}
