package logs

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// isJournal reports whether out is the stream that systemd connected to its journal:
// $JOURNAL_STREAM names its device and inode (systemd.exec(5)).
func isJournal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
