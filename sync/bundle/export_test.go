package bundle

import (
	"crypto/sha256"
	"io"
)

// Unpacked reads the file f from src, which stands for the decoder.
func Unpacked(f *File, src io.Reader) io.Reader {
	return &fileReader{f: f, src: src, sum: sha256.New()}
}
