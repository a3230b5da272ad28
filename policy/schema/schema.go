// Package schema holds calls and answers against the JSON Schemas of a bundle: the
// parameters of a request, decoded as OpenAPI's style and explode say, and JSON bodies.
//
// Every schema is compiled when an edition is made; a call compiles nothing and fetches
// nothing. What a caller sends is bounded before it is looked at: [MaxValues] values, and the
// depth and the numbers of package strictjson. A body that is checked has one reading: it
// is refused when a name stands twice in an object, when it is compressed, and when its media
// type is none of those described.
//
// The faults are told in the words of the everit-org validator, which WSO2's products use: each
// with the place in the body as a JSON pointer behind "#". Parameters are told the same way,
// as if they stood in an object {path, query, header, cookie}.
package schema

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"tidegate/policy"
	"tidegate/policy/fault"
	"tidegate/policy/strictjson"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// MaxValues is how many values one checked body may hold. A value costs up to 1.2 KB and 10 µs to check, so
// that this bounds a check to 20 MB and, on a small core, to about a second.
const MaxValues = 1 << 14

// Params are the path parameters of a matched call; *route.Match has them.
type Params interface {
	// RawParam returns a parameter percent-encoded as sent, "" when there is none.
	RawParam(name string) string
}

// A Check is one compiled [policy.Schema]. It is immutable and safe for concurrent use.
type Check struct {
	spec   *policy.Schema
	params []parameter
	body   *compiled // nil: the body is not checked
	places [policy.InPath + 1]bool
}

// New compiles s, which it keeps. The error names every part that does not compile.
func New(s *policy.Schema) (*Check, error) {
	c := &Check{spec: s}
	var errs []error
	for i := range s.Parameters {
		p, err := newParameter(&s.Parameters[i], s.Defs)
		if err != nil {
			errs = append(errs, fmt.Errorf("parameter %q: %w", s.Parameters[i].Name, err))
			continue
		}
		c.places[p.In] = true
		c.params = append(c.params, p)
	}
	if s.Body != nil {
		var err error
		if c.body, err = compile(s.Body, s.Defs); err != nil {
			errs = append(errs, fmt.Errorf("body: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

// LogOnly reports whether faults are to be told, not refused.
func (c *Check) LogOnly() bool { return c.spec.LogOnly }

// HasBody reports whether bodies are looked into.
func (c *Check) HasBody() bool { return c.body != nil }

// Request checks the parameters and the body of a call; limit bounds the body in bytes. The
// error is a [*fault.Error]: 400 that lists the faults, 415 for a body of a type that is not
// described; or it is the error of call.Body.
func (c *Check) Request(call policy.Call, params Params, limit int64) error {
	var f faults
	c.parameters(&f, call, params)
	if c.body == nil && !c.spec.Required {
		return f.refuse(400, "Bad Request")
	}
	checked, err := c.Takes(call)
	if err != nil {
		return err
	}
	if !checked {
		if c.spec.Required && !hasBody(call) {
			f.add("#", "the body is required")
		}
		return f.refuse(400, "Bad Request")
	}
	body, err := call.Body(limit)
	if err != nil {
		return err
	}
	switch {
	case len(body) == 0 && c.spec.Required:
		f.add("#", "the body is required")
	case len(body) > 0:
		c.body.check(&f, body)
	}
	return f.refuse(400, "Bad Request")
}

// Takes reports whether Request would read and check the body of a call. A body that cannot be
// judged is refused with 415; types that are described without a schema pass.
func (c *Check) Takes(call policy.Call) (checked bool, err error) {
	if c.body == nil {
		return false, nil
	}
	t, plain := Form(call)
	switch {
	case t == twoTypes && hasBody(call):
		return false, fault.New(fault.MediaType, errors.New("more than one media type"))
	case t == "" || c.describes(t):
	case matches(c.spec.Others, t):
		return false, nil
	default:
		if !hasBody(call) {
			return true, nil // nothing to take exception to
		}
		return false, fault.New(fault.MediaType, fmt.Errorf("media type %q is not described", t))
	}
	if !plain {
		return false, fault.New(fault.MediaType, errors.New("a compressed body cannot be checked"))
	}
	return true, nil
}

// twoTypes stands for several Content-Type lines: another reader may take another one.
const twoTypes = "several"

// Form returns the media type of the body of a call, as [MediaType] does, and whether the body is
// plain: in no content coding. Several lines make a type that is none.
func Form(call policy.Call) (mediaType string, plain bool) {
	n := 0
	call.HeaderValues("Content-Type", func(v string) bool {
		if mediaType = MediaType(v); n > 0 {
			mediaType = twoTypes
		}
		n++
		return true
	})
	plain = true
	call.HeaderValues("Content-Encoding", func(v string) bool {
		plain = plain && (v == "" || strings.EqualFold(v, "identity"))
		return true
	})
	return mediaType, plain
}

// hasBody reports whether a call has a body, without reading more of it than that takes.
func hasBody(call policy.Call) bool {
	b, err := call.Body(0)
	return err != nil || len(b) > 0
}

// describes reports whether a media type is one of the JSON types.
func (c *Check) describes(t string) bool {
	return len(c.spec.Types) == 0 && IsJSON(t) || matches(c.spec.Types, t)
}

func matches(list []string, t string) bool {
	return slices.ContainsFunc(list, func(s string) bool {
		return s == t || s == "*/*" || strings.HasSuffix(s, "/*") && strings.HasPrefix(t, s[:len(s)-1])
	})
}

// Answers reports whether an answer of a media type is looked into: only those that are described
// are.
func (c *Check) Answers(contentType string) bool {
	return c.body != nil && c.describes(MediaType(contentType))
}

// Response checks the body of an answer. The error is a [*fault.Error] with status 500 that
// lists the faults.
func (c *Check) Response(body []byte) error {
	var f faults
	if c.body != nil {
		c.body.check(&f, body)
	}
	return f.refuse(500, "Bad Response")
}

// BadResponse is the refusal of an answer that cannot be checked.
func BadResponse(reason string) error {
	var f faults
	f.add("#", reason)
	return f.refuse(500, "Bad Response")
}

// MediaType returns a media type in lower case without its parameters.
func MediaType(contentType string) string {
	t, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(t))
}

// IsJSON reports whether a media type, as MediaType returns it, is JSON.
func IsJSON(t string) bool {
	return t == "application/json" || t == "text/json" || strings.HasSuffix(t, "+json")
}

// check parses a body and holds it against the schema.
func (s *compiled) check(f *faults, body []byte) {
	v, err := strictjson.Parse(body, MaxValues)
	if err != nil {
		f.add("#", "not acceptable as JSON: "+err.Error())
		return
	}
	s.validate(f, "#", v)
}

// validate holds a value against the schema and tells the faults below a place.
func (s *compiled) validate(f *faults, place string, v any) {
	err := s.schema.Validate(v)
	if err == nil {
		return
	}
	var e *jsonschema.ValidationError
	if !errors.As(err, &e) {
		f.add(place, err.Error())
		return
	}
	t := teller{faults: f, place: place, order: s.order}
	t.tell(e)
}
