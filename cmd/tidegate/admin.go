package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"tidegate/appliance/admin"
	"tidegate/cmd/cli"
	"time"
)

// cmdAdminPasswd sets the password of a local account. It is also the way back in for who
// has lost it: the device asks for presence, as root or as its own user, not for the old one.
func (a *app) cmdAdminPasswd(ctx context.Context, args []string) error {
	var c clientFlags
	var role, file string
	f := a.flags("admin passwd")
	c.register(f)
	f.StringVar(&role, "role", string(admin.Operator), "admin or viewer")
	f.StringVar(&file, "password-file", "", "read the password from a file; - is standard input")
	names, err := parse(f, args, -1)
	if err != nil {
		return err
	}
	name := "admin"
	if len(names) == 1 {
		name = names[0]
	}
	if role != string(admin.Operator) && role != string(admin.Viewer) {
		return cli.Usage("admin passwd: --role %q is not one of admin, viewer", role)
	}
	password, err := a.newPassword(file, name)
	if err != nil {
		return err
	}
	cl, err := c.dial(a)
	if err != nil {
		return err
	}
	body, err := json.Marshal(admin.AccountChange{Name: name, Role: admin.Level(role), Password: password})
	if err != nil {
		return err
	}
	resp, err := cl.do(ctx, http.MethodPost, "/v1/admins", nil, bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var out admin.AccountView
	if err := decode(resp.Body, &out); err != nil {
		return err
	}
	if a.json {
		return a.JSON(out)
	}
	_, err = fmt.Fprintf(a.Out, "%s may sign in (%s); sessions under the old password have ended\n", out.Name, out.Role)
	return err
}

// newPassword asks twice on a terminal, or reads the first line of a file.
func (a *app) newPassword(file, name string) (string, error) {
	if file != "" {
		in := a.In
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return "", err
			}
			defer f.Close()
			in = f
		}
		b, err := io.ReadAll(io.LimitReader(in, 4<<10))
		if err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
		line, _, _ := bytes.Cut(b, []byte("\n"))
		return string(bytes.TrimSuffix(line, []byte("\r"))), nil
	}
	first, err := a.Prompt("New password of "+name+": ", "give --password-file FILE, or - for standard input")
	if err != nil {
		return "", err
	}
	again, err := a.Prompt("Once more: ", "")
	if err != nil {
		return "", err
	}
	if !bytes.Equal(first, again) {
		return "", errors.New("the two passwords differ; nothing was changed")
	}
	return string(first), nil
}

func (a *app) cmdAdminList(ctx context.Context, args []string) error {
	return query(ctx, a, "admin list", args, "/v1/admins", nil, func(a *app, list []admin.AccountView) error {
		w := a.table()
		for _, x := range list {
			fmt.Fprintf(w, "%s\t%s\tsince %s\n", x.Name, x.Role, x.Changed.Format(time.DateTime))
		}
		if len(list) == 0 {
			fmt.Fprintln(w, "nobody: the page is open to this device only; tidegate admin passwd")
		}
		return w.Flush()
	})
}

func (a *app) cmdAdminRemove(ctx context.Context, args []string) error {
	var c clientFlags
	f := a.flags("admin remove")
	c.register(f)
	names, err := parse(f, args, 1)
	if err != nil {
		return err
	}
	cl, err := c.dial(a)
	if err != nil {
		return err
	}
	resp, err := cl.do(ctx, http.MethodDelete, "/v1/admins/"+url.PathEscape(names[0]), nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if a.json {
		return a.JSON(map[string]string{"name": names[0]})
	}
	_, err = fmt.Fprintf(a.Out, "%s may not sign in any more\n", names[0])
	return err
}
