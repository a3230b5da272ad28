package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/appliance/config"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const reference = "../../packaging/config/tidegate.toml"

// uncommented returns the reference file with every setting taken out of its comment.
func uncommented(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "##") {
			line = strings.TrimPrefix(line, "#")
		}
		out = append(out, line)
	}
	return strings.Join(out, "")
}

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "tidegate.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestReferenceFileIsTheDefault(t *testing.T) {
	text := uncommented(t)
	got, err := config.Load(config.Sources{File: write(t, text)})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	if len(got.Endpoints) != 1 || len(got.Endpoints["NAME"].URL) != 1 {
		t.Errorf("endpoints: got %+v", got.Endpoints)
	}
	got.Endpoints = nil
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(config.Config{})); d != "" {
		t.Errorf("the reference file shows other defaults (-code +file):\n%s", d)
	}
}

func TestReferenceFileShowsEveryKey(t *testing.T) {
	section, seen := "", map[string]bool{}
	for line := range strings.Lines(uncommented(t)) {
		line = strings.TrimSpace(line)
		if s, ok := strings.CutPrefix(line, "["); ok {
			section = strings.ReplaceAll(strings.TrimSuffix(s, "]"), `"`, "") + "."
			continue
		}
		if k, _, ok := strings.Cut(line, " = "); ok && !strings.HasPrefix(line, "#") {
			seen[section+k] = true
		}
	}
	for _, k := range config.Keys() {
		if !seen[k] {
			t.Errorf("%s does not show %s", reference, k)
		}
		delete(seen, k)
	}
	for k := range seen {
		t.Errorf("%s shows %s, which is not a key", reference, k)
	}
}

func TestUnknownKeyNamesLineAndNearest(t *testing.T) {
	f := write(t, "[listen]\nhttp = \"127.0.0.1:1\"\nhtps = \"127.0.0.1:2\"\n\n[limits]\nheader_byte = 3\n")
	_, err := config.Load(config.Sources{File: f})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		f + `:3: unknown key "listen.htps"; did you mean "listen.https"?`,
		f + `:6: unknown key "limits.header_byte"; did you mean "limits.header_bytes"?`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q\nwant a line %q", err, want)
		}
	}
}

func TestKeysCompareExactly(t *testing.T) {
	_, err := config.Load(config.Sources{File: write(t, "[Listen]\nHTTP = \"127.0.0.1:1\"\n")})
	if err == nil || !strings.Contains(err.Error(), `unknown key "Listen.HTTP"`) {
		t.Errorf("got %v", err)
	}
}

func TestFlagsWinOverEnvironmentOverFile(t *testing.T) {
	f := write(t, "[listen]\nhttp = \"127.0.0.1:1\"\nhttps = \"127.0.0.1:2\"\nidle_timeout = \"7s\"\n")
	c, err := config.Load(config.Sources{
		File:  f,
		Env:   []string{"TIDEGATE_LISTEN_HTTP=127.0.0.1:3", "TIDEGATE_LISTEN_HTTPS=127.0.0.1:4", "HOME=/x"},
		Flags: []config.Flag{{Key: "listen.https", Value: "127.0.0.1:5"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen.HTTP != "127.0.0.1:3" || c.Listen.HTTPS != "127.0.0.1:5" || c.Listen.IdleTimeout.Std() != 7*time.Second {
		t.Errorf("got %+v", c.Listen)
	}
}

func TestEndpointsByEnvironment(t *testing.T) {
	c, err := config.Load(config.Sources{Env: []string{
		"TIDEGATE_ENDPOINTS_METERS_1_2_0_PRODUCTION_URL=http://a:1 http://b:2",
		"TIDEGATE_ENDPOINTS_METERS_1_2_0_PRODUCTION_PASSWORD=p",
	}})
	if err != nil {
		t.Fatal(err)
	}
	e, ok := c.Override("Meters-1.2.0-production")
	if !ok || len(e.URL) != 2 || e.URL[1] != "http://b:2" || e.Password != "p" {
		t.Errorf("got %+v, %v", e, ok)
	}
}

func TestUnknownVariableIsAWarning(t *testing.T) {
	c, err := config.Load(config.Sources{Env: []string{"TIDEGATE_SERVICE_HOST=10.0.0.1", "TIDEGATE_LISTEN_HTP=x"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) != 2 || !strings.Contains(c.Warnings[0], `did you mean "TIDEGATE_LISTEN_HTTP"`) {
		t.Errorf("got %q", c.Warnings)
	}
}

func TestWrongValuesAreAllReported(t *testing.T) {
	_, err := config.Load(config.Sources{File: write(t, `
[listen]
http = "9090"
trusted_proxies = ["10.0.0.0/8", "nowhere"]
[limits]
header_bytes = 3
[events]
detail = "some"
interval = "1h"
[log]
sample = 2
`)})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"listen.http: ", `"nowhere"`, "limits.header_bytes: 3 is not between", `events.detail: "some"`, "events.interval: ", "log.sample: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in %q", want, err)
		}
	}
}

func TestSyntaxErrorNamesLine(t *testing.T) {
	f := write(t, "[listen]\nhttp = \n")
	_, err := config.Load(config.Sources{File: f})
	if err == nil || !strings.Contains(err.Error(), f+":2: ") {
		t.Errorf("got %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("[listen]\nhttp = \"x\"")
	f.Add("a.b.c = 1\n[a]\n")
	f.Add("[endpoints.\"x y\"]\nurl = \"\"")
	f.Fuzz(func(t *testing.T, s string) {
		name := filepath.Join(t.TempDir(), "c.toml")
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Skip(err)
		}
		c, err := config.Load(config.Sources{File: name})
		if (c == nil) == (err == nil) {
			t.Fatalf("got %v, %v", c, err)
		}
	})
}
