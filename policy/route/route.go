// Package route finds the operation that a request asks for. [New] compiles the APIs of
// a set into an immutable [Table]; [Table.Match] walks it without allocating.
//
// The longest base path wins, by whole segments; inside an API an exact segment comes
// before one with literal parts ("{name}.json"), that before a whole parameter, and all
// of them before "*". The path decides first and the method second, as in OpenAPI: a path that
// exists without the method is 405 with Allow, never a less exact path that has it.
//
// Segments are split at real slashes and then percent-decoded, so that %2F never splits.
// A trailing slash and matrix parts (";v=1") do not matter for matching. A segment that
// is empty, or empty before its matrix part, matches nothing, not even "*": backends
// disagree about "a//b", and a rule must not be passed by with it. A template {;name} asks for such a
// segment: one of a matrix part only, which is then the parameter. The dot segments that an
// engine cannot see because of a matrix part ("..;x") are 400.
//
// Package route does not rewrite paths and knows nothing of query strings.
package route

import (
	"strings"
	"tidegate/policy"
	"tidegate/policy/fault"
)

// MaxParams is how many parameters one template may have.
const MaxParams = 12

// maxPath bounds a path so that offsets fit in 16 bits.
const maxPath = 1<<16 - 1

// A Table finds operations. It is immutable and safe for concurrent use.
type Table struct {
	set  *policy.Set
	apis []*api
	root *base
}

// A Match is what Match found. It refers to the path it was made from and to the set
// of its table.
type Match struct {
	API      *policy.API
	Op       *policy.Operation
	APIIndex int    // of API in Set.APIs
	OpIndex  int    // of Op in API.Operations
	Base     string // the base path that matched: the API's versioned or default one
	Rest     string // the path below Base as sent: "" or with a leading slash

	path  string
	names []string
	spans [MaxParams]span
}

// span is a part of the path.
type span struct{ from, to uint16 }

// Match returns the operation for a request. Host is in lower case without a port, path
// is percent-encoded as policy.Call gives it, and tls tells the transport. The errors are
// *fault.Error: NotFound, MethodNot with Allow, LongTarget for a path over 64 KiB, BadRequest
// for a dot segment.
func (t *Table) Match(host, method, path string, tls bool) (Match, error) {
	m := Match{path: path}
	n, err := t.find(&m, host, path, tls)
	if err != nil {
		return Match{}, err
	}
	for i := range n.ops {
		if n.ops[i].method == method {
			o := &n.ops[i]
			m.OpIndex = o.index
			m.Op = &m.API.Operations[o.index]
			m.names = o.names
			return m, nil
		}
	}
	return Match{}, &fault.Error{Fault: fault.MethodNot, Allow: strings.Join(n.methods(), ", ")}
}

// Methods returns the index of the API that answers on a path and the methods declared
// there, for a preflight. The errors are those of Match but for MethodNot.
func (t *Table) Methods(host, path string, tls bool) (apiIndex int, methods []string, err error) {
	m := Match{path: path}
	n, err := t.find(&m, host, path, tls)
	if err != nil {
		return 0, nil, err
	}
	return m.APIIndex, n.methods(), nil
}

// Param returns a path parameter, percent-decoded and without its matrix part; "" when
// the template has none of that name. "*" is the part that the asterisk stands for, as sent, without its
// leading slash. It allocates only when the value holds an escape.
func (m *Match) Param(name string) string {
	s := m.RawParam(name)
	if name == "*" {
		return s
	}
	return decode(s)
}

// RawParam returns a path parameter as sent, without its matrix part; of {;name} the matrix part with
// its semicolon.
func (m *Match) RawParam(name string) string {
	for i, n := range m.names {
		if n == name {
			return m.path[m.spans[i].from:m.spans[i].to]
		}
	}
	return ""
}

// Params yields the parameters in the order of the template, percent-decoded.
func (m *Match) Params(yield func(name, value string) bool) {
	for _, n := range m.names {
		if !yield(n, m.Param(n)) {
			return
		}
	}
}
