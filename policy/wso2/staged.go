package wso2

import (
	"bytes"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"tidegate/policy/source"
	"time"
)

// Over returns fsys as it would be after the changes, to be judged before anything is written.
func (c *Changes) Over(fsys fs.FS) fs.FS {
	s := staged{base: fsys, files: map[string][]byte{}}
	for _, f := range c.Write {
		s.files[f.Name] = f.Body
	}
	for _, name := range c.Remove {
		s.files[name] = nil
	}
	return s
}

// staged is a file system with some files replaced; nil: removed.
type staged struct {
	base  fs.FS
	files map[string][]byte
}

func (s staged) Open(name string) (fs.File, error) {
	if b, ok := s.files[name]; ok {
		if b == nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		return &stagedFile{Reader: bytes.NewReader(b), stagedInfo: stagedInfo{path.Base(name), int64(len(b)), 0o644}}, nil
	}
	return s.base.Open(name)
}

// ReadDir implements [fs.ReadDirFS].
func (s staged) ReadDir(name string) ([]fs.DirEntry, error) {
	old, err := fs.ReadDir(s.base, name)
	entries := slices.DeleteFunc(old, func(e fs.DirEntry) bool { _, ok := s.files[path.Join(name, e.Name())]; return ok })
	for f, b := range s.files {
		if b != nil && path.Dir(f) == path.Clean(name) {
			entries = append(entries, fs.FileInfoToDirEntry(stagedInfo{path.Base(f), int64(len(b)), 0o644}))
			err = nil
		}
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}

type stagedFile struct {
	io.Reader
	stagedInfo
}

func (f *stagedFile) Stat() (fs.FileInfo, error) { return f.stagedInfo, nil }
func (f *stagedFile) Close() error               { return nil }

type stagedInfo struct {
	name string
	size int64
	mode fs.FileMode
}

func (i stagedInfo) Name() string       { return i.name }
func (i stagedInfo) Size() int64        { return i.size }
func (i stagedInfo) Mode() fs.FileMode  { return i.mode }
func (i stagedInfo) ModTime() time.Time { return time.Time{} }
func (i stagedInfo) IsDir() bool        { return i.mode.IsDir() }
func (i stagedInfo) Sys() any           { return nil }

// Judged is [Changes.Over] with the losses accepted that an import reports: what is still
// wrong with that project is wrong with what was imported.
func (c *Changes) Judged(fsys fs.FS) (fs.FS, error) {
	over := c.Over(fsys)
	b, err := fs.ReadFile(over, "tide.yaml")
	if err != nil {
		return nil, err
	}
	f, err := openYAML("tide.yaml", b)
	if err != nil {
		return nil, err
	}
	if err := f.put(&Entry{Kind: KindSetting, ID: "accept_dropped", Value: texts([]string{"interceptors", "plans"})}); err != nil {
		return nil, err
	}
	if b, err = f.bytes(); err != nil {
		return nil, err
	}
	s := over.(staged)
	s.files["tide.yaml"] = b
	return s, nil
}

// KnownPlans returns the plans that a project defines, as "kind name", but those that the
// last import wrote of kinds that this one fetched again.
func KnownPlans(fsys fs.FS, old *Lock, unfetched []string) []string {
	b, err := fs.ReadFile(fsys, "policies.yaml")
	if err != nil {
		return nil
	}
	var quiet source.Report
	root := source.Parse("policies.yaml", b, &quiet)
	imported := map[string]bool{}
	if old != nil {
		for _, l := range old.Objects {
			imported[l.Kind+" "+l.Name] = !slices.Contains(unfetched, l.Kind)
		}
	}
	var out []string
	add := func(kind string, m *source.Node) {
		for _, k := range m.All() {
			if name := kind + " " + k.Name; !imported[name] {
				out = append(out, name)
			}
		}
	}
	for _, kind := range []string{KindResource, KindSubscription, KindApplication, KindCustom} {
		l := root.At(places[kind].path...)
		add(kind, l)
		for _, m := range nodes(l) {
			add(kind, m)
		}
	}
	return out
}
