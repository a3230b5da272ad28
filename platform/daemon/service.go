package daemon

import (
	"bytes"
	_ "embed" // the service files
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"tidegate/platform/durable"

	"github.com/kardianos/service"
)

// Name is the service's name.
const Name = "tidegate"

// The service files of each service manager. {{Path}} is the program.
var (
	//go:embed tidegate.service
	systemdUnit string
	//go:embed tidegate.openrc
	openrcScript string
	//go:embed tidegate.procd
	procdScript string
)

// The names that kardianos/service gives the service managers that this package knows.
const (
	systemdName = "linux-systemd"
	openrcName  = "linux-openrc"
	procdName   = "linux-procd"
)

// ErrNotInstalled says that there is no such service.
var ErrNotInstalled = errors.New("the service is not installed; tidegate service install")

// A State is what the service manager says.
type State string

// The states.
const (
	Running      State = "running"
	Stopped      State = "stopped"
	Failed       State = "failed"
	NotInstalled State = "not installed"
)

// Manager installs and controls the service through the system's service manager.
type Manager struct {
	service  service.Service
	platform string
	program  string
	file     string   // service file that Install writes
	packaged []string // service files of a package, which take its place
	text     string
}

// NewManager returns the manager for program, an absolute path.
func NewManager(program string) (*Manager, error) {
	m := &Manager{platform: service.Platform(), program: program}
	template := map[string]*string{systemdName: &systemdUnit, openrcName: &openrcScript, procdName: &procdScript}[m.platform]
	if template == nil {
		return nil, fmt.Errorf("service manager %q is not supported; start %s run from it by hand", m.platform, program)
	}
	m.file = "/etc/init.d/" + Name
	if m.platform == systemdName {
		m.file = "/etc/systemd/system/" + Name + ".service"
		m.packaged = []string{"/usr/lib/systemd/system/" + Name + ".service", "/lib/systemd/system/" + Name + ".service"}
	}
	m.text = serviceFile(*template, program)
	s, err := service.New(nil, &service.Config{
		Name: Name, DisplayName: "Tidegate", Description: "Tidegate API gateway",
		Executable: program, Arguments: []string{"run"},
		Option: service.KeyValue{"SystemdScript": m.text, "OpenRCScript": m.text, "SysvScript": m.text},
	})
	if err != nil {
		return nil, err
	}
	m.service = s
	return m, nil
}

// serviceFile is a service file as it is installed.
func serviceFile(template, program string) string {
	return strings.ReplaceAll(template, "{{Path}}", program)
}

// Platform names the service manager: "linux-systemd", "linux-openrc", "linux-procd".
func (m *Manager) Platform() string { return m.platform }

// Install writes the service file and enables the service; it does not start it. It returns
// false when everything was so already. A service file of an earlier version is replaced, one
// of a package or of another author is not.
func (m *Manager) Install() (bool, error) {
	if err := m.mayInstall(); err != nil {
		return false, err
	}
	have, err := os.ReadFile(m.file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := m.service.Install(); err != nil {
			return false, fmt.Errorf("install %s: %w", m.file, err)
		}
		// What kardianos/service wrote is not on the disk yet.
		return true, durable.WriteFile(m.file, []byte(m.text), m.mode())
	case err != nil:
		return false, err
	case !bytes.Contains(have, []byte(`"tidegate service install"`)):
		return false, fmt.Errorf("%s was not written by tidegate; move it away first", m.file)
	}
	changed := string(have) != m.text
	if changed {
		if err := durable.WriteFile(m.file, []byte(m.text), m.mode()); err != nil {
			return false, err
		}
	}
	return changed, m.enable()
}

func (m *Manager) mode() os.FileMode {
	if m.platform == systemdName {
		return 0o644
	}
	return 0o755
}

// enable makes the service manager read the file and start the service with the system. An
// installation that was cut short is completed by it.
func (m *Manager) enable() error {
	steps := map[string][][]string{
		systemdName: {{"systemctl", "daemon-reload"}, {"systemctl", "enable", Name + ".service"}},
		openrcName:  {{"rc-update", "add", Name}},
		procdName:   {{m.file, "enable"}},
	}[m.platform]
	for _, s := range steps {
		if out, err := exec.Command(s[0], s[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(s, " "), err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// mayInstall checks what the service manager would only find out at the first start.
func (m *Manager) mayInstall() error {
	for _, f := range m.packaged {
		if _, err := os.Stat(f); err == nil {
			return fmt.Errorf("%s belongs to a package, which installed the service already; systemctl enable --now %s", f, Name)
		}
	}
	if !filepath.IsAbs(m.program) || strings.ContainsAny(m.program, " \t\n\"'\\$%{}") {
		return fmt.Errorf("program %q: want an absolute path of plain characters", m.program)
	}
	info, err := os.Stat(m.program)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("program %s is not an executable file", m.program)
	}
	for _, hidden := range []string{"/home/", "/root/", "/run/", "/tmp/", "/var/tmp/", "/dev/"} {
		if strings.HasPrefix(m.program, hidden) {
			return fmt.Errorf("program %s: the service does not see %s; copy it to /usr/local/bin and install it from there", m.program, hidden)
		}
	}
	return nil
}

// Uninstall stops the service and removes its file; the data stays. It returns false when
// there is no service.
func (m *Manager) Uninstall() (bool, error) {
	if _, err := os.Stat(m.file); errors.Is(err, os.ErrNotExist) {
		for _, f := range m.packaged {
			if _, err := os.Stat(f); err == nil {
				return false, fmt.Errorf("%s belongs to a package; remove the package", f)
			}
		}
		return false, nil
	}
	if s, err := m.State(); err == nil && s == Running {
		if err := m.service.Stop(); err != nil {
			return false, fmt.Errorf("stop: %w", err)
		}
	}
	if err := m.service.Uninstall(); err != nil {
		return false, fmt.Errorf("remove %s: %w", m.file, err)
	}
	return true, nil
}

// Start starts the service and returns when it is ready, where the service manager can tell.
func (m *Manager) Start() error { return m.control(m.service.Start) }

// Stop stops the service.
func (m *Manager) Stop() error { return m.control(m.service.Stop) }

// Restart stops and starts the service.
func (m *Manager) Restart() error { return m.control(m.service.Restart) }

func (m *Manager) control(do func() error) error {
	if s, err := m.State(); err == nil && s == NotInstalled {
		return ErrNotInstalled
	}
	return do()
}

// State asks the service manager how the service is.
func (m *Manager) State() (State, error) {
	s, err := m.service.Status()
	switch {
	case errors.Is(err, service.ErrNotInstalled):
		return NotInstalled, nil
	case err != nil && strings.Contains(err.Error(), "failed state"):
		return Failed, nil
	case err != nil:
		return "", err
	case s == service.StatusRunning:
		return Running, nil
	}
	return Stopped, nil
}
