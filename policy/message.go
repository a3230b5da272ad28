package policy

import "time"

// CORS is what browsers of other origins may do (Fetch standard, CORS protocol).
type CORS struct {
	Origins     []string      `cbor:"1,keyasint,omitempty"` // exact, or "*"
	Methods     []string      `cbor:"2,keyasint,omitempty"`
	Headers     []string      `cbor:"3,keyasint,omitempty"`
	Expose      []string      `cbor:"4,keyasint,omitempty"`
	Credentials bool          `cbor:"5,keyasint,omitempty"` // never together with "*"
	MaxAge      time.Duration `cbor:"6,keyasint,omitempty"`
	Private     bool          `cbor:"7,keyasint,omitempty"` // Access-Control-Allow-Private-Network
}

// Cache is a shared cache of answers to GET and HEAD (RFC 9111).
type Cache struct {
	Seconds      uint32 `cbor:"1,keyasint"`           // freshness where the backend gives none, and upper bound
	StaleOffline uint32 `cbor:"2,keyasint,omitempty"` // seconds for which a stale answer serves while the backend is away
}

// A Schema checks one side of an operation. Documents are JSON Schema 2020-12 without outer references.
type Schema struct {
	Parameters []Parameter `cbor:"1,keyasint,omitempty"`
	Body       []byte      `cbor:"2,keyasint,omitempty"` // schema of a JSON body
	Required   bool        `cbor:"3,keyasint,omitempty"` // a body must be there
	Types      []string    `cbor:"4,keyasint,omitempty"` // media types with a JSON body
	LogOnly    bool        `cbor:"5,keyasint,omitempty"` // report, do not refuse
	Defs       []byte      `cbor:"6,keyasint,omitempty"` // "$defs" shared by Parameters and Body
	Others     []string    `cbor:"7,keyasint,omitempty"` // media types, or "type/*" and "*/*", whose bodies are not checked; the rest is refused
}

// A Parameter is one checked parameter of an operation.
type Parameter struct {
	Name     string   `cbor:"1,keyasint"`
	In       Location `cbor:"2,keyasint"`
	Required bool     `cbor:"3,keyasint,omitempty"`
	Schema   []byte   `cbor:"4,keyasint,omitempty"`
	Style    string   `cbor:"5,keyasint,omitempty"`
	Explode  bool     `cbor:"6,keyasint,omitempty"`
}

// A Transform edits a call on its way, and its answer. Values are texts with
// placeholders: {path.NAME}, {query.NAME}, {header.NAME}, {claim.NAME}, {request.id}.
type Transform struct {
	RequestHeaders  []Edit   `cbor:"1,keyasint,omitempty"`
	Query           []Edit   `cbor:"2,keyasint,omitempty"`
	Path            string   `cbor:"3,keyasint,omitempty"` // replaces the path below the base path
	Method          string   `cbor:"4,keyasint,omitempty"`
	Host            string   `cbor:"5,keyasint,omitempty"`
	ResponseHeaders []Edit   `cbor:"6,keyasint,omitempty"`
	Statuses        []Status `cbor:"7,keyasint,omitempty"`
	Fixed           *Fixed   `cbor:"8,keyasint,omitempty"` // answers without a backend
	DropFields      []string `cbor:"9,keyasint,omitempty"` // JSON pointers removed from the answer
	DropRequest     []string `cbor:"10,keyasint,omitempty"`
	RequestBody     string   `cbor:"11,keyasint,omitempty"` // JSON template; placeholders also {body./POINTER}
	ResponseBody    string   `cbor:"12,keyasint,omitempty"`
}

// EditKind is what an edit does.
type EditKind uint8

// The kinds of edit.
const (
	EditSet EditKind = iota + 1
	EditAdd
	EditRemove
)

// An Edit changes one named field.
type Edit struct {
	Kind  EditKind `cbor:"1,keyasint"`
	Name  string   `cbor:"2,keyasint"`
	Value string   `cbor:"3,keyasint,omitempty"`
}

// A Status replaces one status code by another.
type Status struct {
	From uint16 `cbor:"1,keyasint"`
	To   uint16 `cbor:"2,keyasint"`
}

// Fixed is an answer given without a backend.
type Fixed struct {
	Status  uint16 `cbor:"1,keyasint"`
	Headers []Edit `cbor:"2,keyasint,omitempty"` // EditSet and EditAdd
	Body    []byte `cbor:"3,keyasint,omitempty"`
}
