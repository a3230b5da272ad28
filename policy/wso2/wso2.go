// Package wso2 turns what WSO2 API Manager says of its APIs, policies and consumers, over
// its REST API or in an exported archive, into the files of a project, and what a
// microgateway of that product is configured with into the same.
//
// Three steps: read ([ParseList], [ParseArchive], [ReadMicrogateway]), convert ([Convert]
// gives a [Result]), and compare with the folder ([Plan] gives the [Changes] to make, or
// says what was edited by hand). The same input gives the same bytes.
//
// It promises that nothing is lost silently: what a gateway of ours cannot keep is in the
// [Report], what would leave an API more open than it was is marked. It reads tolerantly,
// and where it does not understand it never decides for the more open. It opens no
// connection and no file, and writes none: callers do.
package wso2

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"tidegate/policy/source"
)

// An Export is what one server, or some archives, said.
type Export struct {
	Server  string // base URL, https://host:port; empty for archives
	Version string // of API Manager: 2.6, 3.0 … 4.2; empty for archives
	Label   string // the label that was asked for; empty when it was a name, or an archive

	APIs []APISource

	Application  []Object // application policies
	Subscription []Object // subscription policies
	Advanced     []Object // advanced policies, with their conditional groups
	Custom       []Object // custom rules
	Blocked      []Object // block conditions, deny policies

	// Of the internal data API, when subscriptions were asked for.
	DataAPIs, Applications, Subscriptions, Keys []Object

	// Unfetched are the kinds ([KindApplication] …) of which nothing is known: what an
	// earlier import wrote of them stays.
	Unfetched []string

	JWKS []byte // keys of the token issuer; nil when unknown

	Warnings []string // of whoever fetched it
	Dropped  []Dropped
}

// An APISource is one API: its description and its definition.
type APISource struct {
	Object Object
	// Definition is the OpenAPI document; nil: the text in the field apiDefinition.
	Definition     []byte
	DefinitionName string // its file name; the ending says whether it is YAML
	// Archived says that the description is api.json of an archive of 2.6 to 3.2, whose
	// fields have other names than those of the REST API.
	Archived    bool
	Deployments []string // labels beside those in the description
	// Certificates in an archive.
	EndpointCertificates, ClientCertificates []Certificate
}

// A Certificate is one that an archive holds.
type Certificate struct {
	Alias string
	Host  string // endpoint it is for, as written; empty for client certificates
	PEM   []byte
}

// The kinds of imported objects, as reports and the lock name them.
const (
	KindAPI          = "api"
	KindApplication  = "application plan"
	KindSubscription = "subscription plan"
	KindResource     = "resource plan"
	KindCustom       = "custom plan"
	KindBlock        = "block condition"
	KindConsumer     = "application"
	KindSubscribed   = "subscription"
	KindIssuer       = "issuer"
	KindFile         = "file"
	KindLabel        = "label"
	KindTLS          = "TLS profile"
	KindClientCert   = "client certificate"
	KindSecret       = "secret"
	KindUser         = "user"
	KindKeyIssuer    = "API key issuer"
	KindAuth         = "authentication setting"
	KindSetting      = "setting"
)

// Kinds returns every kind of imported object.
func Kinds() []string {
	out := []string{KindAPI, KindFile}
	for k := range places {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// A Result is a project as the export would have it.
type Result struct {
	Documents []Document
	Files     []Document // keys and certificates, as they are
	Entries   []Entry    // of tide.yaml, policies.yaml, auth.yaml, consumers.yaml, secrets.yaml
	// Product is the name for tide.yaml when the project has none yet.
	Product string
	// Unfetched are kinds that say nothing this time.
	Unfetched []string
	Report    Report
}

// A Document is a file that import owns as a whole.
type Document struct {
	Kind          string
	Name, Version string // of the API
	File          string
	Body          []byte
	Source        string // digest of what it was made from
	Operations    int
}

// An Entry is one element of a list in a file that people edit too; its kind says in which.
type Entry struct {
	Kind   string
	ID     string // name, or the values of the fields that identify it, joined by a space
	Value  *source.Node
	Source string // digest of what it was made from
	// IfAbsent: written when nothing of that id is there, then left alone.
	IfAbsent bool
}

// A form says how a list is written.
type form uint8

const (
	named   form = iota // - NAME: {…}
	keyed               // - {name: …}, known by some of its fields
	members             // NAME: …
	words               // - text
)

// A place is a list of a project's file.
type place struct {
	file   string
	path   []string // keys down to the list
	form   form
	fields []string // that identify an element of a keyed list
}

// places are the lists of the kinds.
var places = map[string]place{
	KindResource:     {"policies.yaml", []string{"resourcePolicies"}, named, nil},
	KindSubscription: {"policies.yaml", []string{"subscriptionPolicies"}, named, nil},
	KindApplication:  {"policies.yaml", []string{"applicationPolicies"}, named, nil},
	KindCustom:       {"policies.yaml", []string{"customPolicies"}, named, nil},
	KindConsumer:     {"consumers.yaml", []string{"applications"}, keyed, []string{"id"}},
	KindSubscribed:   {"consumers.yaml", []string{"subscriptions"}, keyed, []string{"application", "api", "version"}},
	KindBlock:        {"consumers.yaml", []string{"blocked"}, keyed, []string{"type", "value"}},
	KindIssuer:       {"auth.yaml", []string{"issuers"}, keyed, []string{"name"}},
	KindKeyIssuer:    {"auth.yaml", []string{"api_keys", "issuers"}, keyed, []string{"name"}},
	KindUser:         {"auth.yaml", []string{"users"}, keyed, []string{"name"}},
	KindTLS:          {"auth.yaml", []string{"backend_tls"}, members, nil},
	KindClientCert:   {"auth.yaml", []string{"mtls", "certificates"}, keyed, []string{"alias"}},
	KindAuth:         {"auth.yaml", nil, members, nil},
	KindLabel:        {"tide.yaml", []string{"labels"}, words, nil},
	KindSetting:      {"tide.yaml", nil, members, nil},
	KindSecret:       {"secrets.yaml", nil, members, nil},
}

// A Report says what became of the import besides files.
type Report struct {
	Dropped  []Dropped // what cannot be kept; losses of protection first
	Warnings []string
	Needs    []Need
}

// A Dropped is one thing that was not kept.
type Dropped struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Reason   string `json:"reason"`
	Hint     string `json:"hint,omitempty"`
	Security bool   `json:"security"` // its loss leaves the gateway more open
}

// A Need is something a person has to supply before the project works.
type Need struct {
	Kind string `json:"kind"` // secret, key, plan, certificate
	Name string `json:"name"`
	How  string `json:"how"`
}

func (r *Report) drop(kind, name, reason string) {
	r.Dropped = append(r.Dropped, Dropped{Kind: kind, Name: name, Reason: reason})
}

// open is drop for what protected something.
func (r *Report) open(kind, name, reason, hint string) {
	r.Dropped = append(r.Dropped, Dropped{Kind: kind, Name: name, Reason: reason, Hint: hint, Security: true})
}

// digest names the content of what was imported, in hex.
func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// fileName makes a name usable in a file name: lower case, all but a–z, 0–9, "." and "_" as "-".
func fileName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_':
			return r
		}
		return '-'
	}, s)
}
