package events

import (
	"context"
	"errors"
)

// A Log is the queue. All methods may be called together.
type Log struct{ o Options }

var errNoFile = errors.New("events: no file is attached")

// New returns a queue without a file. Events wait in memory, bounded, until Attach.
func New(o Options) *Log { return &Log{o: o} }

// Record takes one event. It never waits for the disk or for a reader and does not keep e.
// When memory is full the call is counted as lost.
func (l *Log) Record(e *Event) {}

// Run writes what was recorded, each interval or when a batch is full, until ctx ends; then
// it flushes once more and marks the file as closed cleanly.
func (l *Log) Run(ctx context.Context) error { return errNoFile }

// Flush makes everything recorded before it durable.
func (l *Log) Flush(ctx context.Context) error { return errNoFile }

// Read returns up to max batches behind after, oldest first, in copies.
func (l *Log) Read(after Cursor, max int) ([]Batch, error) { return nil, errNoFile }

// Release deletes the batches up to a cursor, and of those above it the numbers in also.
func (l *Log) Release(upTo Cursor, also ...uint64) error { return errNoFile }

// Losses returns up to max loss records with numbers above after, oldest first.
func (l *Log) Losses(after uint64, max int) ([]Loss, error) { return nil, errNoFile }

// ReleaseLosses deletes the loss records with numbers up to n.
func (l *Log) ReleaseLosses(n uint64) error { return errNoFile }

// Status tells how the queue is.
func (l *Log) Status() Status { return Status{} }
