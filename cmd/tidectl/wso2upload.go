package main

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"tidegate/cmd/cli"
	"tidegate/policy/refusal"
	"tidegate/sync/apim"

	"github.com/spf13/cobra"
)

func (a *app) wso2Command() *cobra.Command {
	c := &cobra.Command{Use: "wso2", Short: "Give back to WSO2 API Manager"}
	c.AddCommand(a.wso2UploadCommand())
	return c
}

// uploadFlags are the words of wso2 upload.
type uploadFlags struct {
	url, user, passwordFile, ca string
	insecure, keep              bool
	attempts                    int
}

func (a *app) wso2UploadCommand() *cobra.Command {
	var f uploadFlags
	c := &cobra.Command{
		Use:   "upload --url URL --user U FILE|DIR…",
		Short: "Upload usage files that tidegate events export --format wso2 wrote; those that arrived are deleted",
		Long: "Upload usage files that tidegate events export --format wso2 wrote, each zip of usage files or folder of them.\n\n" +
			"A file is deleted when the receiver has it, and stays otherwise: run the command again. The receiver tells\n" +
			"files apart by name, so nothing is counted twice. The password comes from --password-file,\n" + wso2PasswordVariable + " or a prompt.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.url == "" || f.user == "" {
				return cli.Usage("wso2 upload: give --url https://host:port/analytics/v1.0/usage/upload-file and --user")
			}
			if f.attempts < 1 || f.attempts > 100 {
				return cli.Usage("wso2 upload: --attempts %d is not from 1 to 100", f.attempts)
			}
			url, err := apim.CheckURL(f.url)
			if err != nil {
				return cli.Usage("wso2 upload: --url %v", err)
			}
			f.url = url
			return a.wso2Upload(cmd.Context(), f, args)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.url, "url", "", "where usage files are received, https://host:port/analytics/v1.0/usage/upload-file")
	fl.StringVar(&f.user, "user", "", "user who may upload")
	fl.StringVar(&f.passwordFile, "password-file", "", "file with the password")
	fl.StringVar(&f.ca, "ca", "", "PEM file of certificates to trust beside the system's")
	fl.BoolVar(&f.insecure, "insecure", false, "check neither certificate nor host name of the server")
	fl.BoolVar(&f.keep, "keep", false, "do not delete what arrived")
	fl.IntVar(&f.attempts, "attempts", 3, "how often a file is tried before it is left for the next run")
	return c
}

// uploaded is what became of one usage file.
type uploaded struct {
	Name   string `json:"name"`
	Result string `json:"result"` // stored, duplicate, kept
	Reason string `json:"reason,omitempty"`
}

func (a *app) wso2Upload(ctx context.Context, f uploadFlags, paths []string) error {
	files, err := usageFiles(paths)
	if err != nil {
		return err
	}
	password, err := a.wso2Password(f.user, f.passwordFile)
	if err != nil {
		return err
	}
	client, err := a.wso2HTTP(f.url, f.ca, f.insecure)
	if err != nil {
		return err
	}
	u := &apim.Uploader{URL: f.url, HTTP: client, User: f.user, Password: string(password), Attempts: f.attempts}
	var all []uploaded
	kept := 0
	var fatal error
	for _, name := range files {
		done, err := a.uploadFile(ctx, u, name, f.keep)
		all = append(all, done...)
		for _, d := range done {
			if d.Result == "kept" {
				kept++
			}
			if !a.json {
				fmt.Fprintln(a.Out, strings.TrimRight(d.Result+"\t"+d.Name+"\t"+d.Reason, "\t"))
			}
		}
		if err != nil {
			fatal = err
			break
		}
	}
	if a.json {
		if err := a.JSON(map[string]any{"files": orEmpty(all), "kept": kept}); err != nil {
			return err
		}
	}
	switch {
	case fatal != nil:
		return fatal
	case kept > 0:
		a.Say("tidectl: %d of %d usage files are kept: run the command again", kept, len(all))
		return cli.StatusError(refusal.ExitOther)
	}
	return nil
}

// usageFiles returns the zips that are named, and those in the folders that are named.
func usageFiles(paths []string) ([]string, error) {
	var out []string
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			out = append(out, p)
			continue
		}
		found, err := filepath.Glob(filepath.Join(p, "*.zip"))
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// usageName is the name of a usage file, by which the receiver knows it.
var usageName = regexp.MustCompile(`^api-usage-data\.dat\.\d+\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.zip$`)

// maxUsage bounds what is read of one file.
const maxUsage = 1 << 30

// uploadFile sends a usage file, or each of an export that holds several, and deletes it
// when all of it has arrived. The error is one that would meet every other file too.
func (a *app) uploadFile(ctx context.Context, u *apim.Uploader, name string, keep bool) ([]uploaded, error) {
	parts, err := usageParts(name)
	if err != nil {
		return nil, err
	}
	var done []uploaded
	arrived := true
	for _, p := range parts {
		body, err := p.read()
		if err != nil {
			return done, refusal.New(refusal.Format, "%s: %s: %w", name, p.name, err)
		}
		had, err := u.Send(ctx, p.name, body)
		switch {
		case err == nil && had:
			done = append(done, uploaded{p.name, "duplicate", ""})
			continue
		case err == nil:
			done = append(done, uploaded{p.name, "stored", ""})
			continue
		}
		arrived = false
		var refused *apim.StatusError
		if !errors.As(err, &refused) {
			return done, err // no link, no right: the same for all
		}
		done = append(done, uploaded{p.name, "kept", err.Error()})
	}
	if arrived && !keep {
		return done, os.Remove(name)
	}
	return done, nil
}

// A usagePart is one usage file.
type usagePart struct {
	name string
	read func() ([]byte, error)
}

// usageParts looks into a zip: it is a usage file, or an export of several.
func usageParts(name string) ([]usagePart, error) {
	b, err := readBounded(name)
	if err != nil {
		return nil, err
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, refusal.New(refusal.Format, "%s: not a zip: %w", name, err)
	}
	var parts []usagePart
	for _, f := range z.File {
		switch {
		case f.Name == "api-usage-data.dat":
			base := filepath.Base(name)
			if !usageName.MatchString(base) {
				return nil, refusal.New(refusal.Format, "%s: the name is not that of a usage file: the receiver knows files by their names, so it would count this one twice", name).
					WithHint("give it back the name that tidegate events export gave it: api-usage-data.dat.<ms>.<uuid>.zip")
			}
			return []usagePart{{base, func() ([]byte, error) { return b, nil }}}, nil
		case usageName.MatchString(path.Base(f.Name)):
			parts = append(parts, usagePart{path.Base(f.Name), func() ([]byte, error) {
				r, err := f.Open()
				if err != nil {
					return nil, err
				}
				defer r.Close()
				return io.ReadAll(io.LimitReader(r, maxUsage))
			}})
		}
	}
	if len(parts) == 0 && len(z.File) > 0 {
		return nil, refusal.New(refusal.Format, "%s: no usage files in it", name).WithHint("tidegate events export --format wso2 --output FILE writes them")
	}
	return parts, nil
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	case info.Size() > maxUsage:
		return nil, refusal.New(refusal.Limit, "%s: larger than %d MiB", name, maxUsage>>20)
	}
	return io.ReadAll(io.LimitReader(f, maxUsage))
}
