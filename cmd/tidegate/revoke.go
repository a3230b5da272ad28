package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"tidegate/appliance/admin"
	"tidegate/cmd/cli"
	"tidegate/policy"
)

// cmdRevoke makes credentials count no more: those named by flags, or by a file in the form
// of the API.
func (a *app) cmdRevoke(ctx context.Context, args []string) error {
	var c clientFlags
	var until, file string
	f := a.flags("revoke")
	c.register(f)
	f.StringVar(&until, "until", "", "when the credential is over by itself, RFC 3339; default: for ever")
	f.StringVar(&file, "file", "", "JSON of POST /v1/revocations, - for standard input")
	said := map[string]*string{}
	for _, word := range policy.RevocationWords {
		said[word] = f.String(strings.ReplaceAll(word, "_", "-"), "", "revoke by "+strings.ReplaceAll(word, "_", " "))
	}
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	var body admin.Revocations
	for _, word := range policy.RevocationWords {
		if *said[word] == "" {
			continue
		}
		r := admin.Revocation{word: *said[word]}
		if until != "" {
			r["until"] = until
		}
		body.Revocations = append(body.Revocations, r)
	}
	var request io.Reader
	switch {
	case file != "" && (len(body.Revocations) > 0 || until != ""):
		return cli.Usage("revoke: --file holds everything: want no other flag beside it")
	case file == "-":
		request = a.In
	case file != "":
		in, err := os.Open(file)
		if err != nil {
			return err
		}
		defer in.Close()
		request = in
	case len(body.Revocations) == 0:
		return cli.Usage("revoke: name a credential: --jti, --signature, --api-key, --api-key-sha256, --consumer-key, --application or --user")
	default:
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		request = bytes.NewReader(b)
	}
	cl, err := c.dial(a)
	if err != nil {
		return err
	}
	resp, err := cl.do(ctx, "POST", "/v1/revocations", nil, request)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var out admin.RevokedView
	if err := decode(resp.Body, &out); err != nil {
		return err
	}
	if a.json {
		return a.JSON(out)
	}
	what := "already revoked"
	if out.Added > 0 {
		what = fmt.Sprintf("revoked, %d new", out.Added)
	}
	_, err = fmt.Fprintf(a.Out, "%s; %d of %d revocations beside those of the bundle\n", what, out.Entries, out.Most)
	return err
}
