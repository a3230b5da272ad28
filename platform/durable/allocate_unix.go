//go:build unix && !linux

package durable

import "os"

// Allocate gives f the length size.
func Allocate(f *os.File, size int64) error { return f.Truncate(size) }
