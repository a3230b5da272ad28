package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"tidegate/cmd/cli"
	"tidegate/platform/durable"
	"tidegate/policy/refusal"
	"tidegate/policy/wso2"
	"tidegate/sync/apim"
	"tidegate/sync/keyfile"

	"github.com/spf13/cobra"
)

// wso2PasswordVariable holds the password for API Manager.
const wso2PasswordVariable = "TIDECTL_WSO2_PASSWORD"

// wso2Flags are the words of import wso2.
type wso2Flags struct {
	server, user, passwordFile, ca  string
	version                         string
	selector                        apim.Selector
	archives                        []string
	insecure, subscriptions, noKeep bool
	importFlags
}

// importFlags are what every import of a whole site can be told.
type importFlags struct{ force, strict, dry bool }

func (f *importFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.force, "force", false, "write over what was edited by hand")
	c.Flags().BoolVar(&f.strict, "strict", false, "anything that cannot be kept is an error, and nothing is written")
	c.Flags().BoolVar(&f.dry, "dry-run", false, "report only")
}

func (a *app) importWSO2Command() *cobra.Command {
	var f wso2Flags
	c := &cobra.Command{
		Use:   "wso2 (--server URL --user U (--label L | --api NAME --version V) | --archive FILE…) [DIR]",
		Short: "Bring the APIs, plans and consumers of a label from WSO2 API Manager into a project",
		Long: "Bring the APIs, plans and consumers of a label from WSO2 API Manager 2.6, 3.x or 4.x into a project,\n" +
			"or those of archives that apictl exported. DIR is made if need be.\n\n" +
			"The password comes from --password-file, " + wso2PasswordVariable + " or a prompt. The client that is registered\n" +
			"for it is kept in the configuration folder, sealed with the password.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			if err := f.check(); err != nil {
				return err
			}
			return a.importWSO2(cmd.Context(), dir, f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.server, "server", "", "address of API Manager, https://host:port")
	fl.StringVar(&f.user, "user", "", "user who may see the APIs and policies")
	fl.StringVar(&f.passwordFile, "password-file", "", "file with the password")
	fl.StringVar(&f.selector.Label, "label", "", "the APIs of this label (4.x: gateway environment)")
	fl.StringVar(&f.selector.Name, "api", "", "one API")
	fl.StringVar(&f.selector.Version, "version", "", "its version")
	fl.StringArrayVar(&f.archives, "archive", nil, "archive that apictl export wrote, or a folder of them; may be given several times")
	fl.StringVar(&f.ca, "ca", "", "PEM file of certificates to trust beside the system's")
	fl.BoolVar(&f.insecure, "insecure", false, "check neither certificate nor host name of the server")
	fl.StringVar(&f.version, "apim", string(apim.Auto), "version of API Manager: "+strings.Join(apim.Versions(), ", ")+" (4.2 also for later ones)")
	fl.BoolVar(&f.subscriptions, "subscriptions", false, "also applications, subscriptions and consumer keys (3.2 and later)")
	fl.BoolVar(&f.noKeep, "forget-client", false, "do not keep the client id and secret for the next run")
	f.importFlags.add(c)
	return c
}

// check says what is wrong with the words.
func (f *wso2Flags) check() error {
	s := f.selector
	if len(f.archives) > 0 {
		if f.server != "" || f.user != "" || s != (apim.Selector{}) {
			return cli.Usage("import wso2: an archive says everything itself: leave out --server, --user, --label, --api and --version")
		}
		return nil
	}
	named := s.Name != "" && s.Version != ""
	both := s.Label != "" && (s.Name != "" || s.Version != "")
	may4 := f.version == string(apim.Auto) || f.version >= "4"
	switch {
	case s.Label == "" && !named, s.Label != "" && (s.Name != "") != (s.Version != ""), both && !may4:
		return cli.Usage("import wso2: give --label, or --api with --version")
	case f.server == "":
		return cli.Usage("import wso2: give --server https://host:port, or --archive FILE")
	case f.user == "":
		return cli.Usage("import wso2: give --user")
	case !slices.Contains(apim.Versions(), f.version):
		return cli.Usage("import wso2: --apim %q is not one of %s", f.version, strings.Join(apim.Versions(), ", "))
	}
	server, err := apim.CheckURL(f.server)
	if err != nil {
		return cli.Usage("import wso2: --server %v", err)
	}
	f.server = server
	return nil
}

// archiveSource stands for the server in the lock of a project imported from archives.
const archiveSource = "archives"

func (a *app) importWSO2(ctx context.Context, dir string, f wso2Flags) error {
	if err := checkTarget(dir); err != nil {
		return err
	}
	like := wso2.Lock{}
	var x *wso2.Export
	var err error
	if len(f.archives) > 0 {
		x, err = readArchives(f.archives)
		like.Source, like.Selector = archiveSource, archiveSource
	} else {
		x, err = a.fetch(ctx, f)
		like.Source, like.Selector = f.server, f.selector.String()
	}
	if err != nil {
		return err
	}
	like.APIM = x.Version
	return a.convert(dir, x, like, f.importFlags)
}

// projectFiles say that a folder is meant to be a project.
var projectFiles = []string{"tide.yaml", "policies.yaml", "auth.yaml", "consumers.yaml", wso2.LockFile}

// checkTarget refuses a folder with other things in it.
func checkTarget(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if slices.Contains(projectFiles, e.Name()) || strings.HasSuffix(e.Name(), ".tideroot") {
			return nil
		}
	}
	return cli.Usage("%s is no project: it has no tide.yaml; name a project, or a new or empty folder", dir)
}

func readArchives(files []string) (*wso2.Export, error) {
	x := new(wso2.Export)
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		var one *wso2.Export
		if info.IsDir() {
			one, err = wso2.ParseFolder(name, os.DirFS(name))
		} else {
			if info.Size() > wso2.MaxArchiveBytes {
				return nil, refusal.New(refusal.Limit, "%s: larger than %d MiB", name, wso2.MaxArchiveBytes>>20)
			}
			var b []byte
			if b, err = os.ReadFile(name); err != nil {
				return nil, err
			}
			one, err = wso2.ParseArchive(name, b)
		}
		if err != nil {
			return nil, err
		}
		x.Join(one)
	}
	return x, nil
}

// fetch asks the server.
func (a *app) fetch(ctx context.Context, f wso2Flags) (*wso2.Export, error) {
	password, err := a.wso2Password(f.user, f.passwordFile)
	if err != nil {
		return nil, err
	}
	client, err := a.wso2HTTP(f.server, f.ca, f.insecure)
	if err != nil {
		return nil, err
	}
	c := &apim.Client{
		Server: f.server, HTTP: client, User: f.user, Password: string(password), Version: apim.Version(f.version),
		Subscriptions: f.subscriptions, Strict: f.strict,
	}
	if cli.Terminal(a.Err) {
		c.Progress = func(what string) { fmt.Fprintf(a.Err, "\r%s\x1b[K", what) }
		defer fmt.Fprint(a.Err, "\r\x1b[K")
	}
	store := a.clientStore(f)
	if store != "" {
		c.Credentials = readCredentials(store, password)
	}
	before := c.Credentials
	x, err := c.Fetch(ctx, f.selector)
	if store != "" && c.Credentials != before && c.Credentials.ID != "" {
		if werr := writeCredentials(store, f, c.Credentials, password); werr != nil {
			a.Say("tidectl: warning: the client is not kept for the next run: %v", werr)
		}
	}
	return x, err
}

func (a *app) wso2Password(user, file string) ([]byte, error) {
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		b = []byte(strings.TrimRight(string(b), "\r\n"))
		if len(b) == 0 {
			return nil, cli.Usage("%s holds no password", file)
		}
		return b, nil
	}
	if p := a.Getenv(wso2PasswordVariable); p != "" {
		return []byte(p), nil
	}
	return a.Prompt("password of "+user+": ", "give --password-file FILE or set "+wso2PasswordVariable)
}

// wso2HTTP makes the HTTP client, and says what --insecure skips.
func (a *app) wso2HTTP(server, caFile string, insecure bool) (client *apim.HTTPClient, err error) {
	var ca []byte
	if caFile != "" {
		if ca, err = os.ReadFile(caFile); err != nil {
			return nil, err
		}
	}
	if insecure {
		a.Say("tidectl: warning: --insecure: neither the certificate nor the host name of %s is checked: whoever is in between can read the password", server)
	}
	if client, err = apim.NewHTTPClient(ca, insecure); err != nil {
		return nil, fmt.Errorf("%s: %w", caFile, err)
	}
	return client, nil
}

// clientType is the PEM type of kept clients.
const clientType = "TIDEGATE WSO2 CLIENT"

// clientStore is the file of the client kept for a server and a user, "" for none.
func (a *app) clientStore(f wso2Flags) string {
	if f.noKeep {
		return ""
	}
	base := a.Getenv("XDG_CONFIG_HOME")
	if base == "" {
		if home := a.Getenv("HOME"); home != "" {
			base = filepath.Join(home, ".config")
		}
	}
	if !filepath.IsAbs(base) {
		return ""
	}
	sum := sha256.Sum256([]byte(f.server + "\n" + f.user))
	return filepath.Join(base, "tidegate", "wso2", hex.EncodeToString(sum[:12])+".pem")
}

// readCredentials opens a kept client. One that does not open (another password, damage) is
// as good as none: a client is registered again.
func readCredentials(file string, password []byte) (c apim.Credentials) {
	b, err := os.ReadFile(file)
	if err != nil {
		return c
	}
	secret, err := keyfile.Unseal(clientType, b, password)
	if err != nil || json.Unmarshal(secret, &c) != nil {
		return apim.Credentials{}
	}
	return c
}

func writeCredentials(file string, f wso2Flags, c apim.Credentials, password []byte) error {
	secret, err := json.Marshal(c)
	if err != nil {
		return err
	}
	b, err := keyfile.Seal(clientType, f.user+" at "+f.server, secret, password)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(file, b, 0o600)
}
