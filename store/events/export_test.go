package events

// Collect moves what is recorded into columns, as Run does when a chunk is full.
func Collect(l *Log) { l.collect(true) }
