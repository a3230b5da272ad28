package daemon_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"tidegate/platform/daemon"
)

// The test program itself, started with sockets as a service manager does, says what it got.
func TestMain(m *testing.M) {
	if os.Getenv("DAEMON_TEST_SOCKETS") == "" {
		os.Exit(m.Run())
	}
	s, err := daemon.Activated("http", "https", "admin")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, name := range []string{"http", "https", "admin"} {
		if f := s[name]; f != nil {
			l, err := net.FileListener(f)
			if err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			fmt.Println(name, l.Addr())
		}
	}
	fmt.Println("left", os.Getenv("LISTEN_FDS"))
}

func TestSocketsOfTheServiceManager(t *testing.T) {
	a, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for names, want := range map[string]string{
		"http:admin": fmt.Sprintf("http %s\nadmin %s\nleft \n", a.Addr(), b.Addr()),
		"http:http":  `socket "http" from the service manager: there are two`,
		"http:api":   `socket "api" from the service manager: want FileDescriptorName= one of http, https, admin`,
		":":          `socket "LISTEN_FD_3" from the service manager: want`,
	} {
		t.Run(names, func(t *testing.T) {
			var files []*os.File
			for _, l := range []net.Listener{a, b} {
				f, err := l.(*net.TCPListener).File()
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				files = append(files, f)
			}
			// The shell puts its own number, which becomes the program's, into LISTEN_PID.
			c := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0"`, os.Args[0])
			c.Env = append(os.Environ(), "DAEMON_TEST_SOCKETS=1", "LISTEN_FDS=2", "LISTEN_FDNAMES="+names)
			c.ExtraFiles = files
			out, _ := c.CombinedOutput() // what it says is judged
			if !strings.Contains(string(out), want) {
				t.Errorf("got %q, want %q", out, want)
			}
		})
	}
}
