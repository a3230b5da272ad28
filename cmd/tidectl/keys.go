package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"tidegate/cmd/cli"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"tidegate/sync/keyfile"

	"github.com/spf13/cobra"
)

// passphraseVariable holds the passphrase of key files.
const passphraseVariable = "TIDECTL_PASSPHRASE"

func (a *app) keysCommand() *cobra.Command {
	c := &cobra.Command{Use: "keys", Short: "Make and show signing keys"}
	c.AddCommand(a.keysNewCommand(), a.keysShowCommand())
	return c
}

func (a *app) keysNewCommand() *cobra.Command {
	var role, name string
	var open bool
	c := &cobra.Command{
		Use:   "new FILE",
		Short: "Make an Ed25519 signing key, sealed with a passphrase; FILE.pub holds the public key",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			file := args[0]
			if name == "" {
				name = strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
				if role != "" && !strings.Contains(name, role) {
					name = role + "-" + name
				}
			}
			var pass []byte
			if !open {
				var err error
				if pass, err = a.newPassphrase(); err != nil {
					return err
				}
			}
			k, err := keyfile.Generate(name)
			if err != nil {
				return err
			}
			b, err := k.Marshal(pass)
			if err != nil {
				return err
			}
			if err := createFile(file, b, 0o600); err != nil {
				return err
			}
			if err := createFile(file+".pub", []byte(k.Public().String()+"\n"), 0o644); err != nil {
				return err
			}
			return a.printKey(k.Public(), file)
		},
	}
	c.Flags().StringVar(&role, "role", "", "role the key is meant for: root, release, time or collector (part of its name only)")
	c.Flags().StringVar(&name, "name", "", "name for people; default: from FILE")
	c.Flags().BoolVar(&open, "no-passphrase", false, "do not seal the private key")
	return c
}

func (a *app) keysShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE",
		Short: "Show the public half of a key file or a public key",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := a.readPublic(args[0])
			if err != nil {
				return err
			}
			return a.printKey(p, args[0])
		},
	}
}

func (a *app) printKey(p keyfile.Public, file string) error {
	if a.json {
		return a.JSON(map[string]string{"name": p.Name, "public": fmt.Sprintf("%x", p.Key[:]), "id": p.Key.ID().String(), "file": file})
	}
	fmt.Fprintln(a.Out, p.String())
	a.Say("key id %s", p.Key.ID())
	return nil
}

// createFile writes a new file; it never overwrites.
func createFile(name string, b []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return refusal.New(refusal.Key, "%s exists; it is not overwritten", name).WithHint("choose another name, or move it away")
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// writeFile replaces a file as a whole.
func writeFile(name string, b []byte) error { return durable.WriteFile(name, b, 0o644) }

// passphrase returns the passphrase for existing keys.
func (a *app) passphrase(file string) ([]byte, error) {
	if p := a.Getenv(passphraseVariable); p != "" {
		return []byte(p), nil
	}
	return a.Prompt("passphrase of "+file+": ", "set "+passphraseVariable)
}

// newPassphrase asks twice on a terminal.
func (a *app) newPassphrase() ([]byte, error) {
	if p := a.Getenv(passphraseVariable); p != "" {
		return []byte(p), nil
	}
	p, err := a.Prompt("new passphrase: ", "set "+passphraseVariable+" or use --no-passphrase")
	if err != nil {
		return nil, err
	}
	again, err := a.Prompt("again: ", "")
	if err != nil {
		return nil, err
	}
	if string(p) != string(again) || len(p) == 0 {
		return nil, refusal.New(refusal.Key, "the two passphrases differ or are empty")
	}
	return p, nil
}

// readKey opens a private key file.
func (a *app) readKey(file string) (keyfile.Key, error) {
	b, err := readSmall(file)
	if err != nil {
		return keyfile.Key{}, err
	}
	var pass []byte
	if keyfile.Sealed(b) {
		if pass, err = a.passphrase(file); err != nil {
			return keyfile.Key{}, err
		}
	}
	k, err := keyfile.Parse(b, pass)
	if err != nil {
		return keyfile.Key{}, refusal.About(file, err)
	}
	return k, nil
}

// readPublic reads a public key, or that of a private key file: from FILE.pub if it is there.
func (a *app) readPublic(file string) (keyfile.Public, error) {
	b, err := readSmall(file)
	if err != nil {
		return keyfile.Public{}, err
	}
	if p, err := keyfile.ParsePublic(b); err == nil {
		return p, nil
	}
	if keyfile.Sealed(b) {
		if pub, err := readSmall(file + ".pub"); err == nil {
			p, err := keyfile.ParsePublic(pub)
			return p, refusal.About(file+".pub", err)
		}
	}
	k, err := a.readKey(file)
	if err != nil {
		return keyfile.Public{}, err
	}
	return k.Public(), nil
}

// readSmall reads a key-sized file.
func readSmall(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := keyfile.Read(f)
	return b, refusal.About(file, err)
}

// signers returns a signer for each key file and for each exec:COMMAND.
func (a *app) signers(files, commands []string) ([]envelope.Signer, error) {
	var out []envelope.Signer
	for _, f := range files {
		k, err := a.readKey(f)
		if err != nil {
			return nil, err
		}
		out = append(out, k.Private)
	}
	for _, c := range commands {
		s, err := a.execSigner(c)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, cli.Usage("no key to sign with; want --key FILE or --signer exec:COMMAND")
	}
	return out, nil
}
