package openapi

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/source"

	"github.com/google/go-cmp/cmp"
)

// sharedData returns the folder of documents of others, or skips.
func sharedData(t testing.TB) string {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "shared", "data", "openapi")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		t.Skip("the documents of others are not here: they lie beside the repository, in shared/data/openapi")
	}
	return dir
}

func TestStripeIsReadWhole(t *testing.T) {
	dir := filepath.Join(sharedData(t), "large")
	const name = "stripe-spec3.json"
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	// What must be there, read in another way.
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	var want []string
	for path, item := range doc.Paths {
		for m := range item {
			if isMethod(m) {
				want = append(want, strings.ToUpper(m)+" "+path)
			}
		}
	}
	slices.Sort(want)
	if len(want) != 417 {
		t.Fatalf("the document has %d operations, not the 417 it is known for", len(want))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var r source.Report
	d := Read(os.DirFS(dir), name, Options{Validate: Validation{Request: true, Response: true}}, &r)
	runtime.ReadMemStats(&after)
	if source.Failed(r.Findings()) {
		t.Fatal(r.Findings())
	}
	var got []string
	for _, op := range d.API.Operations {
		got = append(got, op.Method+" "+op.Template)
		if alternatives(&d.API, op) != "basic|oauth2" {
			t.Errorf("%s %s: security %s", op.Method, op.Template, alternatives(&d.API, op))
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
	if d.API.BasePath != "" || d.Endpoints[0].Targets[0].URL != "https://api.stripe.com" {
		t.Errorf("base path %q, endpoint %s", d.API.BasePath, d.Endpoints[0].Targets[0].URL)
	}
	// 4 MB of text: a tree of 16 times that is what was measured; ten times more would be a copy per $ref.
	if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 1500 {
		t.Errorf("allocated %d MiB", mib)
	}
	for _, i := range []int{0, len(d.Schemas) / 2, len(d.Schemas) - 1} {
		compile(t, d.Schemas[i].Body, d.Schemas[i].Defs)
	}
}

func TestWSO2Samples(t *testing.T) {
	dir := os.DirFS(filepath.Join(sharedData(t), "wso2-samples"))
	load := func(name string, opt Options) (*Document, []source.Finding) {
		var r source.Report
		return Read(dir, name, opt, &r), r.Findings()
	}
	urls := func(d *Document, ref policy.EndpointRef) string {
		if ref == 0 {
			return ""
		}
		var out []string
		for _, g := range d.Endpoints[ref-1].Targets {
			out = append(out, g.URL)
		}
		return d.Endpoints[ref-1].Name + ": " + strings.Join(out, " ")
	}
	t.Run("petstore_basic", func(t *testing.T) {
		d, findings := load("petstore_basic.yaml", Options{})
		if len(findings) != 0 {
			t.Error(findings)
		}
		if d.API.BasePath != "/petstore/v1" || d.API.Name != "Swagger Petstore New" || d.API.Version != "1.0.0" {
			t.Errorf("got %q %q at %q", d.API.Name, d.API.Version, d.API.BasePath)
		}
		if got := urls(d, d.API.Production); got != "Swagger Petstore New-1.0.0-production: https://petstore.swagger.io/v2" {
			t.Error(got)
		}
	})
	t.Run("plan of the API wins", func(t *testing.T) {
		d, findings := load("policies_sample.yaml", Options{})
		if d.API.Plan != "10kPerMin" || d.API.Operations[0].Plan != "" {
			t.Errorf("plans: got %q and %q", d.API.Plan, d.API.Operations[0].Plan)
		}
		if len(findings) != 1 || findings[0].Severity != source.Warning || findings[0].Pos.Line != 44 {
			t.Error(findings)
		}
	})
	t.Run("endpoints by reference", func(t *testing.T) {
		d, findings := load("endpoint_by_reference_sample.yaml", Options{})
		if len(findings) != 0 {
			t.Error(findings)
		}
		if got := urls(d, d.API.Production); got != "myEndpoint: https://petstore.swagger.io/v2 https://petstore.swagger.io/v5" {
			t.Error(got)
		}
		if got := urls(d, d.API.Operations[0].Production); got != "myEndpoint3: https://petstore.swagger.io/v3 https://petstore.swagger.io/v4" {
			t.Error(got)
		}
		if d.API.Operations[1].Production != 0 {
			t.Error("the second operation has an endpoint of its own")
		}
		if a := d.Endpoints[1].Auth; a == nil || a.Kind != policy.BackendBasic || a.Username != "rajith" || a.Secret != "endpoints/myendpoint3/password" {
			t.Errorf("credential: %+v", a)
		}
	})
	t.Run("endpoints of operations", func(t *testing.T) {
		d, _ := load("per_resource_endpoint.yaml", Options{})
		want := []string{
			"findPetsByStatus-production: http://www.mocky.io/v2/5cd28cd73100008628339802 https://petstore.swagger.io/v2",
			"getPetById-production: http://www.mocky.io/v2/5cd28b9a310000bf293397f9",
		}
		for i, w := range want {
			if got := urls(d, d.API.Operations[i].Production); got != w {
				t.Errorf("got %s, want %s", got, w)
			}
		}
	})
	t.Run("interceptors", func(t *testing.T) {
		_, findings := load("interceptors_sample.yaml", Options{})
		if len(findings) != 2 || findings[0].Pos.Line != 43 || findings[1].Pos.Line != 44 || !source.Failed(findings) || !findings[0].Security {
			t.Error(findings)
		}
		_, findings = load("interceptors_sample.yaml", Options{AcceptInterceptors: true})
		if len(findings) != 2 || source.Failed(findings) {
			t.Error(findings)
		}
	})
	t.Run("CORS", func(t *testing.T) {
		d, _ := load("cors_sample.yaml", Options{})
		want := &policy.CORS{Origins: []string{"test.com", "example.com"}, Headers: []string{"Authorization", "Content-Type"}, Methods: []string{"GET", "PUT", "POST"}}
		if diff := cmp.Diff(want, d.API.CORS); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("security", func(t *testing.T) {
		d, _ := load("security_sample.yaml", Options{})
		i := slices.IndexFunc(d.API.Operations, func(o policy.Operation) bool { return o.Template == "/pet/{petId}" })
		op := d.API.Operations[i]
		if got := alternatives(&d.API, op); got != "oauth2" || strings.Join(op.Scopes, " ") != "read write" {
			t.Errorf("got %s, scopes %q", got, op.Scopes)
		}
	})
}

func TestArchivesOfAPIManager(t *testing.T) {
	root := filepath.Join(sharedData(t), "..", "wso2")
	for name, want := range map[string]string{
		"archive-2.6/MeterReadings-1.2.0/Meta-information/swagger.json": "MeterReadings 1.2.0",
		"archive-4.x/MeterReadings-1.2.0/Definitions/swagger.yaml":      "MeterReadings 1.2.0",
	} {
		var r source.Report
		d := Read(os.DirFS(root), name, Options{Validate: Validation{Request: true, Response: true}}, &r)
		if d == nil || source.Failed(r.Findings()) {
			t.Errorf("%s: %v", name, r.Findings())
			continue
		}
		if got := d.API.Name + " " + d.API.Version; got != want || len(d.API.Operations) == 0 {
			t.Errorf("%s: got %s with %d operations", name, got, len(d.API.Operations))
		}
		compileAll(t, d)
	}
}

func BenchmarkStripe(b *testing.B) {
	dir := os.DirFS(filepath.Join(sharedData(b), "large"))
	b.ReportAllocs()
	for b.Loop() {
		var r source.Report
		if Read(dir, "stripe-spec3.json", Options{}, &r) == nil {
			b.Fatal(r.Findings())
		}
	}
}
