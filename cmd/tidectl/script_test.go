package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/cmd/cli"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"tidectl": func() {
			os.Exit(run(context.Background(), os.Args[1:], &cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Environ(), Name: "tidectl"}))
		},
	})
}

// The scripts read like a manual: what a person types, and what they see. Those that talk to
// a device use the real program, built here.
func TestScripts(t *testing.T) {
	bin := t.TempDir()
	cmd := exec.Command("go", "build", "-o", filepath.Join(bin, "tidegate"), "tidegate/cmd/tidegate")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			http, admin, err := freePorts()
			if err != nil {
				return err
			}
			e.Setenv("HTTP", http)
			e.Setenv("ADMIN", admin)
			// A unix socket's path must be short; the work folder's is not.
			dir, err := os.MkdirTemp("", "tg")
			if err != nil {
				return err
			}
			e.Defer(func() { _ = os.RemoveAll(dir) })
			e.Setenv("TIDEGATE_ADMIN_SOCKET", filepath.Join(dir, "s"))
			return nil
		},
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"code": code, "until": until},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// code runs a command and wants an exit code: code 40 tidegate apply old.tide
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND…")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("%s: exit code %s, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// until repeats a command until it succeeds: until tidegate status
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: until COMMAND…")
	}
	deadline := time.Now().Add(time.Minute)
	for {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: %v after a minute", strings.Join(args, " "), err)
		}
	}
}

// freePorts returns two addresses, which are held together so that they are not one.
func freePorts() (a, b string, err error) {
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	second, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", errors.Join(err, first.Close())
	}
	return first.Addr().String(), second.Addr().String(), errors.Join(first.Close(), second.Close())
}
