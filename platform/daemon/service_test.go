package daemon

import (
	"strings"
	"testing"
)

// What a unit must say for the device to come back by itself and to keep to its bounds. The
// score of the sandbox is judged by systemd-analyze in the packaging scripts.
func TestServiceFiles(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		want []string
	}{
		"systemd": {systemdUnit, []string{
			"ExecStart=/opt/t/tidegate run\n", "Type=notify\n", "WatchdogSec=30s\n", "Restart=always\n", "StartLimitIntervalSec=0\n",
			"RestartSec=5s\n", "MemoryMax=256M\n", "StateDirectory=tidegate\n", "NoNewPrivileges=yes\n",
		}},
		"openrc": {openrcScript, []string{`command="/opt/t/tidegate"`, "respawn_max=0\n", "memory.max 268435456\n", "supervisor=supervise-daemon\n"}},
		"procd":  {procdScript, []string{`PROG="/opt/t/tidegate"`, "procd_set_param respawn 3600 5 0\n", "procd_set_param user tidegate\n"}},
	} {
		got := serviceFile(c.file, "/opt/t/tidegate")
		for _, w := range append(c.want, `"tidegate service install"`) {
			if !strings.Contains(got, w) {
				t.Errorf("%s: lacks %q", name, w)
			}
		}
		if strings.Contains(got, "{{") {
			t.Errorf("%s: a placeholder is left", name)
		}
	}
}

func TestProgramsThatTheServiceWouldNotSee(t *testing.T) {
	for program, want := range map[string]string{
		"tidegate":              "absolute path",
		"/opt/my gate/tidegate": "plain characters",
		"/opt/t/$(reboot)":      "plain characters",
		"/nowhere/tidegate":     "no such file",
		"/":                     "not an executable file",
		"/dev/null":             "not an executable file",
	} {
		m := &Manager{program: program}
		if err := m.mayInstall(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", program, err, want)
		}
	}
}
