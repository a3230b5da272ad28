package policy

import "fmt"

// A Fault is one mistake in a set, with its place in the project where that is known.
type Fault struct {
	Pos     Pos
	Object  string // `API "meters" 1.0: GET /readings/{id}`
	Message string
	Hint    string // the next step; may be empty
}

// Error returns "file:line: object: message", without what is unknown.
func (f *Fault) Error() string {
	s := f.Message
	if f.Object != "" {
		s = f.Object + ": " + s
	}
	if f.Pos != (Pos{}) {
		s = f.Pos.String() + ": " + s
	}
	return s
}

// String returns "file:line", or "file" when the line is unknown.
func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}
