package project

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"tidegate/policy"
)

// One file of a project is hostile. Whatever it holds, Load must return, and a project
// that it accepts must be one that a device accepts.
func FuzzLoad(f *testing.F) {
	names := []string{tideFile, plansFile, authFile, consumersFile, secretsFile, "apis/meters.yaml", "apis/other.json", "keys/plant.jwks.json"}
	sound := fstest.MapFS{}
	for _, name := range append(names, "certs/apim.pem", "keys/client.key") {
		if b, err := os.ReadFile(filepath.Join(everything, name)); err == nil {
			sound[name] = &fstest.MapFile{Data: b}
		}
	}
	if len(sound) != 9 {
		f.Fatalf("got %d files of %s", len(sound), everything)
	}
	for i, name := range names {
		if file := sound[name]; file != nil {
			f.Add(uint8(i), file.Data)
		}
	}
	f.Add(uint8(6), []byte(`{"swagger": "2.0", "info": {"title": "b", "version": "1"}, "host": "b", "basePath": "/b", "paths": {"/x": {"get": {"parameters": [{"name": "a", "in": "body", "schema": {"$ref": "#/definitions/A"}}]}}}, "definitions": {"A": {"$ref": "#/definitions/A"}}}`))
	f.Add(uint8(6), []byte(`{"openapi": "3.1.0", "info": {"title": "b", "version": "1"}, "servers": [{"url": "//b"}], "paths": {"/x": {"$ref": "#/paths/~1x"}}}`))
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		if len(data) > 32<<10 {
			return
		}
		fsys := fstest.MapFS{}
		for name, file := range sound {
			fsys[name] = file
		}
		fsys[names[int(which)%len(names)]] = &fstest.MapFile{Data: data}
		p, findings := Load(fsys)
		if p == nil {
			if !Failed(findings) {
				t.Error("no project and no error")
			}
			return
		}
		b, err := policy.Encode(p.Set)
		if err != nil {
			t.Fatal(err)
		}
		s, err := policy.Decode(b)
		if err != nil {
			t.Fatalf("a device cannot read it: %v", err)
		}
		if err := s.Validate(); err != nil {
			t.Errorf("a device would refuse it: %v", err)
		}
	})
}
