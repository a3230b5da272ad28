package report

import (
	"io"
	"tidegate/sync/canon"
	"tidegate/sync/envelope"
)

// MaxFile bounds a .tidebatch file, in bytes.
const MaxFile = 64 << 20

// A FileWriter writes a .tidebatch file, which carries sealed losses and batches on a stick: the
// magic with the word tide-batch, then each as a byte string. Losses go before the batches
// behind them. A file without any is a file still.
type FileWriter struct {
	w io.Writer
	n int64
}

// NewFileWriter begins a file.
func NewFileWriter(w io.Writer) (*FileWriter, error) {
	f := &FileWriter{w: w}
	return f, f.write(canon.Magic(envelope.Batch.FileWord()))
}

// Add appends one sealed batch or loss.
func (f *FileWriter) Add(env []byte) error { return f.write(canon.AppendBytes(nil, env)) }

// Size returns the bytes written.
func (f *FileWriter) Size() int64 { return f.n }

// Fits reports whether one more object of up to MaxBatch bytes keeps within room bytes and MaxFile.
func (f *FileWriter) Fits(room int64) bool { return f.n+MaxBatch+16 <= min(room, MaxFile) }

func (f *FileWriter) write(b []byte) error {
	n, err := f.w.Write(b)
	f.n += int64(n)
	return err
}
