package main

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"tidegate/cmd/cli"
	"tidegate/policy/wso2"

	"github.com/spf13/cobra"
)

// microgatewaySource stands for the server in the lock of a project that was one of the
// microgateway.
const microgatewaySource = "microgateway"

func (a *app) importMicrogatewayCommand() *cobra.Command {
	var dir, conf string
	var f importFlags
	c := &cobra.Command{
		Use:   "microgateway DIR",
		Short: "Convert a project of the WSO2 API Microgateway: definitions, policies.yaml, micro-gw.conf",
		Long: "Convert a project of the WSO2 API Microgateway: its definitions, policies.yaml, and micro-gw.conf, which\n" +
			"becomes auth.yaml, tide.yaml and a tidegate.toml for devices. Certificates that micro-gw.conf names by alias\n" +
			"are taken from certs/ALIAS.pem of the project.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			from := args[0]
			if info, err := os.Stat(from); err != nil {
				return err
			} else if !info.IsDir() {
				return cli.Usage("%s is not a folder", from)
			}
			if err := checkTarget(dir); err != nil {
				return err
			}
			return a.importMicrogateway(from, dir, conf, f)
		},
	}
	c.Flags().StringVar(&dir, "project", ".", "folder of the project that is made or added to")
	c.Flags().StringVar(&conf, "conf", "", "micro-gw.conf, where it is not in DIR or DIR/conf")
	f.add(c)
	return c
}

func (a *app) importMicrogateway(from, dir, conf string, f importFlags) error {
	var body []byte
	var err error
	if conf != "" {
		if body, err = os.ReadFile(conf); err != nil {
			return err
		}
	}
	fsys := os.DirFS(dir)
	certs, err := fs.Glob(fsys, "certs/*.pem")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	abs, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	res, err := wso2.ReadMicrogateway(filepath.Base(abs), os.DirFS(from), path.Base(filepath.ToSlash(conf)), body, certs)
	if err != nil {
		return err
	}
	lock, err := readLock(fsys)
	if err != nil {
		return err
	}
	return a.place(dir, fsys, res, lock, wso2.Lock{Source: microgatewaySource, Selector: microgatewaySource}, f)
}
