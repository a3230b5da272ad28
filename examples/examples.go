// Package examples holds the projects that come with Tidegate: what tidectl init copies
// and make run serves. Tests load them like any other project.
package examples

import (
	"embed"
	"io/fs"
)

//go:embed meters
var files embed.FS

// Meters returns the sample project: one API for the meters of a quay.
func Meters() fs.FS {
	sub, err := fs.Sub(files, "meters")
	if err != nil {
		panic(err) // the name is a constant, and embedding has checked it
	}
	return sub
}
