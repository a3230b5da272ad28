package main

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"tidegate/appliance/admin"
	"tidegate/appliance/devicetest"
	"tidegate/cmd/cli"
	"time"
	"unicode/utf8"
)

// ask runs one command line against a device.
func ask(t *testing.T, d *devicetest.Device, args ...string) (out, errs string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	x := &cli.IO{In: strings.NewReader("correct horse battery\n"), Out: &o, Err: &e, Env: []string{"TIDEGATE_ADMIN_SOCKET=" + d.Config.Socket(), "TIDEGATE_DATA=" + d.Config.Data}, Name: "tidegate"}
	code = run(context.Background(), append(args[:len(args):len(args)], flagsFor(args)...), x)
	return o.String(), e.String(), code
}

// flagsFor keeps commands from reading a configuration of this machine.
func flagsFor(args []string) []string {
	if args[0] == "__complete" {
		return nil
	}
	return []string{"--config", ""}
}

func TestStatusAndDoctorFit80Columns(t *testing.T) {
	d := devicetest.Start(t, devicetest.Options{})
	d.Apply(t, d.Fleet.API(t, "http://127.0.0.1:1", "/open"))
	for { // the queue is opened while calls are already served
		if out, _, _ := ask(t, d, "doctor"); !strings.Contains(out, "event queue has no file") {
			break
		}
	}
	for _, name := range []string{"status", "doctor"} {
		out, _, code := ask(t, d, name)
		if code != 0 {
			t.Errorf("%s: exit code %d\n%s", name, code, out)
		}
		for line := range strings.Lines(out) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
		}
		if strings.Contains(out, "\x1b") {
			t.Errorf("%s colours a pipe", name)
		}
	}
	out, _, _ := ask(t, d, "doctor")
	if !strings.Contains(out, "trial") || !strings.Contains(out, "→ wait for the verdict") {
		t.Errorf("doctor:\n%s", out)
	}
}

func TestLongAndHostileValuesAreWrapped(t *testing.T) {
	var o bytes.Buffer
	a := &app{IO: &cli.IO{Out: &o, Name: "tidegate"}}
	s := admin.Status{Alarms: []admin.Alarm{{Word: "E_STORE", Detail: strings.Repeat("word ", 60) + "\x1b[31mred\a\r\n"}}}
	s.Clock.Floor, s.Clock.Wall = time.Unix(0, 0).UTC(), time.Unix(0, 0).UTC()
	if err := printStatus(a, s); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(o.String(), "\x1b\a\r") {
		t.Errorf("control codes reach the terminal: %q", o.String())
	}
	for line := range strings.Lines(o.String()) {
		if utf8.RuneCountInString(line) > 81 {
			t.Errorf("too long: %q", line)
		}
	}
}

func TestLostPasswordIsSetAnewAtTheDevice(t *testing.T) {
	d := devicetest.Start(t, devicetest.Options{})
	if out, errs, code := ask(t, d, "admin", "passwd", "--password-file", "-", "eva"); code != 0 || !strings.Contains(out, "eva may sign in (admin)") {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	if out, _, _ := ask(t, d, "admin", "list"); !strings.Contains(out, "eva") {
		t.Errorf("list: %s", out)
	}
	if out, _, _ := ask(t, d, "history"); !strings.Contains(out, "password of eva (admin) set") || !strings.Contains(out, "socket uid") {
		t.Errorf("history: %s", out)
	}
	if _, errs, code := ask(t, d, "admin", "passwd", "--role", "root", "--password-file", "-"); code != 2 {
		t.Errorf("an unknown role: %d %s", code, errs)
	}
	if _, errs, code := ask(t, d, "admin", "remove", "bob"); code == 0 || !strings.Contains(errs, `no account "bob"`) {
		t.Errorf("remove of nobody: %d %s", code, errs)
	}
	if out, errs, code := ask(t, d, "admin", "remove", "eva"); code != 0 {
		t.Errorf("remove: %d %s %s", code, out, errs)
	}
}

func TestDoctorWithoutADevice(t *testing.T) {
	var o, e bytes.Buffer
	x := &cli.IO{Out: &o, Err: &e, Name: "tidegate", Env: []string{"TIDEGATE_DATA=" + t.TempDir(), "TIDEGATE_LISTEN_HTTP=127.0.0.1:0", "TIDEGATE_LISTEN_HTTPS=", "TIDEGATE_ADMIN_LISTEN="}}
	if code := run(context.Background(), []string{"doctor", "--config", ""}, x); code != 1 || !strings.Contains(strings.Join(strings.Fields(o.String()), " "), "no device is running there") || !strings.Contains(o.String(), "disk: ") {
		t.Errorf("got %d\n%s%s", code, o.String(), e.String())
	}
}

func TestCompletionKnowsCommandsFlagsAndValues(t *testing.T) {
	d := devicetest.Start(t, devicetest.Options{})
	ask(t, d, "admin", "passwd", "--password-file", "-", "eva")
	for _, c := range []struct {
		args []string
		want string
		not  string
	}{
		{[]string{"st"}, "status", "apply"},
		{[]string{"trust", ""}, "install", "apply"},
		{[]string{"admin", "remove", ""}, "eva", "status"},
		{[]string{"events", "export", "--format", "n"}, "ndjson", "csv"},
		{[]string{"apply", "--no"}, "--no-wait", "--retry"},
		{[]string{"completion", ""}, "zsh", "eva"},
		{[]string{""}, "doctor", "eva"},
	} {
		out, _, _ := ask(t, d, append([]string{"__complete"}, c.args...)...)
		got := strings.Fields(out)
		if !slices.Contains(got, c.want) || slices.Contains(got, c.not) {
			t.Errorf("%q: got %q", c.args, got)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var o bytes.Buffer
		if code := run(context.Background(), []string{"completion", shell}, &cli.IO{Out: &o, Err: &o, Name: "tidegate"}); code != 0 || !strings.Contains(o.String(), "__complete") {
			t.Errorf("%s: %d %s", shell, code, o.String())
		}
	}
}
