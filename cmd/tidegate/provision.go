package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"tidegate/appliance/admin"
)

// maxCandidates bounds what a device comes with.
const maxCandidates = 64

// takeOrder is in which order its files are handed in: what a later one needs comes first.
var takeOrder = []string{".tideroot", ".tidedevice", ".tide"}

// provision gives a device that has just started what it came with: the files of dir, which
// whoever made the image or the container put there. Unlike a stick, it may pin the first
// trust root. What is in force already is left alone, so it is done at each start.
func provision(ctx context.Context, cl *client, dir string, log *slog.Logger) {
	names, err := provisions(dir)
	if err == nil && len(names) > 0 && strings.HasSuffix(names[0], takeOrder[0]) {
		err = pin(ctx, cl, names[0])
	}
	if err != nil {
		log.Warn("not provisioned", "dir", dir, "error", err)
		return
	}
	for _, name := range names {
		o, err := handIn(ctx, cl, name)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Warn("not provisioned", "file", name, "error", err)
		case o.Code != "":
			log.Warn("not provisioned", "file", name, "word", o.Code, "detail", o.Detail)
		default:
			log.Info("provisioned", "file", name, "outcome", outcomeLine(o))
		}
	}
}

// provisions lists the files of dir in the order in which they are handed in. Here links are
// followed: a mounted secret consists of them.
func provisions(dir string) ([]string, error) {
	var names []string
	for _, ext := range takeOrder {
		found, err := filepath.Glob(filepath.Join(dir, "*"+ext))
		if err != nil {
			return nil, err
		}
		names = append(names, found...)
	}
	if len(names) > maxCandidates {
		return nil, fmt.Errorf("%d files, at most %d", len(names), maxCandidates)
	}
	return names, nil
}

// pin makes the root in a file the first one of a device that has none.
func pin(ctx context.Context, cl *client, name string) error {
	var now admin.Trust
	if err := cl.get(ctx, "/v1/trust", nil, &now); err != nil || now.Root != 0 {
		return err
	}
	r, b, err := readRootFile(name)
	if err != nil {
		return err
	}
	resp, err := cl.do(ctx, http.MethodPost, "/v1/trust", url.Values{"fingerprint": {r.Fingerprint}}, strings.NewReader(string(b)))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// handIn offers one file and returns its last outcome.
func handIn(ctx context.Context, cl *client, name string) (last admin.Outcome, err error) {
	f, err := os.Open(name)
	if err != nil {
		return last, err
	}
	defer f.Close()
	resp, err := cl.do(ctx, http.MethodPost, "/v1/apply", url.Values{"name": {filepath.Base(name)}, "wait": {"false"}}, f)
	if err != nil {
		return last, err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(bufio.NewReader(resp.Body)); ; {
		if err := d.Decode(&last); err != nil {
			if errors.Is(err, io.EOF) {
				return last, nil
			}
			return last, err
		}
	}
}
