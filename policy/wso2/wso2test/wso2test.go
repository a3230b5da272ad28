// Package wso2test holds replies and exported archives of WSO2 API Manager, written by us
// after its published interface, for tests of what reads them.
package wso2test

import (
	"archive/zip"
	"bytes"
	"embed"
	"io/fs"
	"path"
)

//go:embed replies
var files embed.FS

// Replies returns the replies, one file each, and the archives as folders.
func Replies() fs.FS {
	sub, err := fs.Sub(files, "replies")
	if err != nil {
		panic(err) // the name is a constant, and embedding has checked it
	}
	return sub
}

// Reply returns one reply.
func Reply(name string) []byte {
	b, err := fs.ReadFile(files, path.Join("replies", name))
	if err != nil {
		panic(err)
	}
	return b
}

// Archive returns a folder of the replies as the zip that apictl writes.
func Archive(folder string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	sub, err := fs.Sub(Replies(), folder)
	if err == nil {
		err = z.AddFS(sub)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Zip returns a zip of the given files.
func Zip(content map[string]string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range content {
		f, err := z.Create(name)
		if err == nil {
			_, err = f.Write([]byte(text))
		}
		if err != nil {
			panic(err)
		}
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}
