//go:build !linux

package media

import (
	"context"
	"errors"
	"os"
	"tidegate/policy/refusal"
)

func mounts() ([]Mount, error) { return nil, errors.ErrUnsupported }

func deviceThere(string) bool { return true }

func kernelEvents(context.Context) <-chan Event { return nil }

// CheckFileSystem refuses every volume: which file system it has is known on Linux only.
func CheckFileSystem(Volume) error {
	return refusal.New(refusal.MediaFS, "sticks are read on Linux only")
}

func free(*os.File) int64 { return -1 }

func forget(*os.File) {}

const neverWait = 0
