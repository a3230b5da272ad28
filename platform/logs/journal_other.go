//go:build !linux

package logs

import "io"

// isJournal is false: this system has no journal.
func isJournal(io.Writer) bool { return false }
