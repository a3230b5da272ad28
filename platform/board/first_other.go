//go:build !linux

package board

import "errors"

// Run fails: a flash image runs Linux.
func Run(Options) error { return errors.New("only on Linux, as the first process of a flash image") }
