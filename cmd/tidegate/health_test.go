package main

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/cmd/cli"
)

// A device that hangs takes connections, by its kernel, and answers none: it is not healthy.
func TestADeviceThatHangsIsNotHealthy(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var out, errs bytes.Buffer
	code := run(context.Background(), []string{"health", "--timeout", "50ms", "--socket", socket}, &cli.IO{In: strings.NewReader(""), Out: &out, Err: &errs, Name: "tidegate"})
	if code != 1 || out.Len() != 0 {
		t.Errorf("exit code %d, said %q %q", code, out.String(), errs.String())
	}
}
