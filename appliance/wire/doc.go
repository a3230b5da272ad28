// Package wire is the HTTP engine of the gateway: a strict HTTP/1.1 server half and a
// synchronous HTTP/1.1 client half of our own, and net/http behind the same interface
// for HTTP/2.
//
// It gives a [Server], whose [Handler] decides each call over an [Exchange]; a [Client] for
// each backend address; and [Relay], which answers a call with a backend's response. It
// promises that a call costs no allocation, an idle connection no buffer, and that whatever
// a client sends is understood by the backend as it was by the rules. It knows no rule: what
// is allowed, retried or balanced is decided above.
//
// # Reading
//
// A head is read into one pooled block until its empty line and parsed once it is whole
// (parse.go, target.go, fields.go). Strings of the [Head] alias the block: they live until the
// call ends. A request that two readers could frame, route or split differently is refused
// before anything is forwarded: Content-Length beside Transfer-Encoding, bare LF, folded
// lines, dot segments in any encoding, a target that names another host, a Connection
// field that would take away an end-to-end field, and so on; strict_test.go is the list.
// Bodies (body.go) are read by the same code on both sides; a broken one is a [BodyError], the
// client's fault, and cuts the backend's connection so that a part never passes for the whole.
//
// # Waiting
//
// While a connection is idle it is a goroutine and a [conn]: the block is taken from the
// pool in the attempt to read, and given back when there was nothing (conn.go). Deadlines
// are not timers. Each connection has one word that holds its phase and the tick at which
// the phase has lasted too long; to enter a phase is one atomic store. The watch (watch.go)
// looks at all words a few times within the shortest limit and ends what is late: slow
// heads, slow bodies, clients that do not read, idle connections. It also asks the kernel
// whether the client of a long call is still there, and ends the call's context if not.
//
// # Writing
//
// An answer's head and first bytes gather in a block and leave in one system call; what does
// not fit goes out behind it by writev (reply.go). Relay hands pieces of the backend's buffer on
// without a copy and flushes before it would wait for the backend.
//
// # The other side
//
// A [Client] writes the request and reads the response in the caller's goroutine
// (try.go). Connections are kept last in, first out, and asked for an end or stray bytes
// before use (pool.go); for a call without a body that question, the request and the wait for
// its answer are one visit to the poller (visit.go). Its errors tell what a retry needs to know: [NeverSent], [Stale],
// [BodyFault]. The context of a call cuts its backend connection directly (lifeline.go).
//
// # Blocks
//
// Blocks are wiped when they return to their pool (buffers.go), and large ones are few: many
// bodies at once go through small ones. A fault in our arithmetic
// could then show a client zeros, but not another client's bytes.
package wire
