package project

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func overlaid(overlay map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{
		"tide.yaml":     {Data: []byte("product: quay\n")},
		"policies.yaml": {Data: []byte("resourcePolicies: [Few: {count: 3, timeUnit: min}]\n")},
		"apis/meters.json": {Data: []byte(`{"openapi": "3.0.3", "info": {"title": "meters", "version": "1"}, "x-wso2-basePath": "/meters",
 "x-wso2-production-endpoints": {"urls": ["http://10.0.0.1"]}, "x-wso2-request-interceptor": "check",
 "paths": {"/a": {"get": {"responses": {"200": {"description": "ok"}}}}}}`)},
	}
	for name, text := range overlay {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

func TestOverlayIsLaidUponItsDocument(t *testing.T) {
	p, findings := Load(overlaid(map[string]string{"overlays/meters.yaml": `
x-wso2-request-interceptor: null
x-wso2-production-endpoints: {urls: [http://10.0.0.2]}
paths:
  /a:
    get: {x-throttling-tier: Few}
`}))
	if p == nil {
		t.Fatal(findings)
	}
	if got := p.Set.Endpoints[0].Targets[0].URL; got != "http://10.0.0.2" {
		t.Errorf("endpoint: got %s, want that of the overlay", got)
	}
	if got := p.Set.APIs[0].Operations[0].Plan; got != "Few" {
		t.Errorf("plan: got %q, want that of the overlay", got)
	}
	if !slices.Contains(p.Files, "overlays/meters.yaml") {
		t.Errorf("%v does not name the overlay", p.Files)
	}
}

func TestMistakesOfAnOverlayHaveItsPlace(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"overlays/meters.yaml", "paths:\n  /a:\n    get:\n      x-throttling-tier: Fwe\nx-wso2-request-interceptor: null\n", "unknown plan \"Fwe\""},
		{"overlays/meters.yaml", "x-wso2-request-interceptor: null\n\nx-tidegate-plnas: [Few]\n", "overlays/meters.yaml:3: error: API \"meters\" 1: unknown extension x-tidegate-plnas"},
		{"overlays/meters.yaml", "[1, 2]\n", "overlays/meters.yaml:1: error: want a mapping"},
		{"overlays/metres.yaml", "info: {}\n", "overlays/metres.yaml: error: there is no document in apis"},
		{"overlays/meters.json", "{}", "overlays/meters.json: error: there is no document in apis"},
	} {
		p, findings := Load(overlaid(map[string]string{tc.name: tc.text}))
		if p != nil {
			t.Errorf("%s %q: loaded", tc.name, tc.text)
		}
		if !slices.ContainsFunc(findings, func(f Finding) bool { return strings.Contains(f.String(), tc.want) }) {
			t.Errorf("%s %q: got %v, want %s", tc.name, tc.text, findings, tc.want)
		}
	}
}

func TestImportedProjectIsWarnedOfPlansThatAPIManagerAlwaysHas(t *testing.T) {
	const want = "no subscription plan Unauthenticated"
	says := func(fsys fstest.MapFS) bool {
		_, findings := Load(fsys)
		return slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == Warning && strings.Contains(f.Message, want) })
	}
	plain := overlaid(nil)
	imported := overlaid(map[string]string{"wso2.lock.json": "{}"})
	limited := overlaid(map[string]string{"wso2.lock.json": "{}", "policies.yaml": "subscriptionPolicies: [Unauthenticated: {count: 3, timeUnit: min}]\n"})
	if says(plain) || !says(imported) || says(limited) {
		t.Errorf("plain %t, imported %t, limited %t", says(plain), says(imported), says(limited))
	}
}
