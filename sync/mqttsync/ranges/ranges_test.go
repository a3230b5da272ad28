package ranges_test

import (
	"testing"
	"tidegate/sync/mqttsync/ranges"
)

func TestAddressesThatAreRefused(t *testing.T) {
	for _, s := range []string{
		"", "files.test/x", "http://files.test/x", "ftp://files.test/x", "https:///x", "https:files.test", "https://user:secret@files.test/x",
		"https://files.test/x#part", "https://files.test:port/x", "https://[::1/x", "https://files.test/%zz", "file:///etc/passwd",
	} {
		if u, err := ranges.ParseURL(s); err == nil {
			t.Errorf("%q: got %s, want a refusal", s, u)
		}
	}
	for s, host := range map[string]string{
		"https://Files.Test/x": "files.test:443", "https://files.test:8443/a/b.tide?v=1": "files.test:8443", "https://[2001:DB8::1]/x": "[2001:db8::1]:443",
	} {
		u, err := ranges.ParseURL(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
		} else if got := ranges.HostOf(u); got != host {
			t.Errorf("%s: host %s, want %s", s, got, host)
		}
	}
}

func TestHostsOfAConfiguration(t *testing.T) {
	for s, want := range map[string]string{
		"files.test": "files.test:443", "FILES.test:8443": "files.test:8443", "10.0.0.1": "10.0.0.1:443", "[::1]": "[::1]:443",
		"": "", "files.test/x": "", "https://files.test": "", "a b": "", "user@files.test": "", "files.test?x": "",
	} {
		got, err := ranges.ParseHost(s)
		if (err != nil) != (want == "") || got != want {
			t.Errorf("%q: got %q, %v; want %q", s, got, err, want)
		}
	}
}
