package logs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"tidegate/platform/logs"
)

func TestJournalIsFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stream")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	for env, want := range map[string]bool{fmt.Sprintf("%d:%d", st.Dev, st.Ino): true, "1:2": false, "": false} {
		t.Setenv("JOURNAL_STREAM", env)
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		logs.New(logs.Options{Out: f}).Info("m")
		b, err := os.ReadFile(path)
		if err != nil || strings.HasPrefix(string(b), "<6>") != want {
			t.Errorf("JOURNAL_STREAM=%q: got %q, %v", env, b, err)
		}
	}
}
