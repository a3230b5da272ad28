package schema

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"tidegate/policy/fault"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// The bounds of what a client is told.
const (
	maxFaults = 64
	maxText   = 8 << 10 // bytes of all faults together
	maxShown  = 128     // bytes of a value inside a fault
)

// faults collects what is wrong, in the form of the description: each fault followed by ", ".
type faults struct {
	n    int
	text []byte
}

func (f *faults) full() bool { return f.n >= maxFaults || len(f.text) > maxText }

func (f *faults) add(place, what string) {
	if f.full() {
		return
	}
	f.n++
	f.text = append(f.text, place...)
	f.text = append(f.text, ": "...)
	f.text = append(f.text, strings.ToValidUTF8(what, "\ufffd")...)
	f.text = append(f.text, ", "...)
}

// refuse returns the refusal that lists the faults, nil when there are none.
func (f *faults) refuse(status int, message string) error {
	if f.n == 0 {
		return nil
	}
	d := string(f.text)
	return &fault.Error{
		Fault: &fault.Fault{Code: status, Status: status, Message: message, Description: d, Shape: fault.Nested},
		Err:   errors.New(strings.TrimSuffix(d, ", ")),
	}
}

// A teller turns the library's tree of errors into faults, in the order of the schema.
type teller struct {
	*faults
	place string // of the value that was held against the schema
	order map[string][]string
}

func (t *teller) at(e *jsonschema.ValidationError) string {
	if len(e.InstanceLocation) == 0 {
		return t.place
	}
	var b strings.Builder
	b.WriteString(t.place)
	for _, s := range e.InstanceLocation {
		b.WriteByte('/')
		b.WriteString(shown(escape(s)))
	}
	return b.String()
}

// tell adds the faults of e and of what caused it.
func (t *teller) tell(e *jsonschema.ValidationError) {
	if t.full() {
		return
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Schema, *kind.Group, *kind.AllOf, *kind.Reference:
		t.causes(e)
	case *kind.AnyOf:
		t.add(t.at(e), fmt.Sprintf("no subschema matched out of the total %d subschemas", len(e.Causes)))
		t.causes(e)
	case *kind.OneOf:
		if k.Subschemas != nil {
			t.add(t.at(e), fmt.Sprintf("%d subschemas matched instead of one", len(k.Subschemas)))
			return
		}
		t.add(t.at(e), fmt.Sprintf("0 subschemas matched instead of one out of %d", len(e.Causes)))
		t.causes(e)
	case *kind.Required:
		for _, name := range k.Missing {
			t.add(t.at(e), "required key ["+name+"] not found")
		}
	case *kind.AdditionalProperties:
		slices.Sort(k.Properties)
		for _, name := range k.Properties {
			t.add(t.at(e), "extraneous key ["+shown(name)+"] is not permitted")
		}
	default:
		t.add(t.at(e), words(e.ErrorKind))
	}
}

// causes tells the causes of e: what is wrong with the value itself first, then its
// properties in the order of the schema and its items in theirs.
func (t *teller) causes(e *jsonschema.ValidationError) {
	if len(e.Causes) > 1 {
		depth := len(e.InstanceLocation)
		order := t.order[pointerOf(e)]
		type ranked struct {
			e    *jsonschema.ValidationError
			rank [2]int
			name string
		}
		list := make([]ranked, 0, len(e.Causes))
		for i, c := range e.Causes {
			t.settle(e, c)
			r := ranked{e: c, rank: [2]int{keywordRank(c.ErrorKind), i}}
			if len(c.InstanceLocation) > depth {
				r.name = c.InstanceLocation[depth]
				r.rank = [2]int{1000, len(order)}
				if n, err := strconv.Atoi(r.name); err == nil && order == nil {
					r.rank[1] = n
				} else if n := slices.Index(order, r.name); n >= 0 {
					r.rank[1] = n
				}
			}
			list = append(list, r)
		}
		slices.SortStableFunc(list, func(a, b ranked) int {
			return cmp.Or(cmp.Compare(a.rank[0], b.rank[0]), cmp.Compare(a.rank[1], b.rank[1]), cmp.Compare(a.name, b.name))
		})
		for i := range list {
			t.tell(list[i].e)
		}
		return
	}
	for _, c := range e.Causes {
		t.settle(e, c)
		t.tell(c)
	}
}

// settle mends the place of an error about the name of a property: the library keeps a slice
// there that it goes on writing to, so that another property's name may stand in it. The
// schema says which property it is, where it is one of a listed object.
func (t *teller) settle(parent, e *jsonschema.ValidationError) {
	if _, ok := e.ErrorKind.(*kind.PropertyNames); !ok {
		return
	}
	depth := len(e.InstanceLocation)
	e.InstanceLocation = slices.Clone(parent.InstanceLocation)
	at := strings.TrimSuffix(pointerOf(e), "/propertyNames")
	if before, name, ok := cutLast(at, "/"); ok && depth == len(e.InstanceLocation)+1 && strings.HasSuffix(before, "/properties") {
		e.InstanceLocation = append(e.InstanceLocation, unescape(name))
	}
}

// cutLast cuts s around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// unescape undoes the escapes of a JSON pointer's token (RFC 6901 §4).
func unescape(s string) string {
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(s)
}

// pointerOf returns the pointer of the schema whose keywords caused e.
func pointerOf(e *jsonschema.ValidationError) string {
	location := e.SchemaURL
	if ref, ok := e.ErrorKind.(*kind.Reference); ok {
		location = ref.URL
	}
	_, fragment, _ := strings.Cut(location, "#")
	if p, err := url.PathUnescape(fragment); err == nil {
		return p
	}
	return fragment
}

// keywordRank puts what is missing before what is too much, and combinations last.
func keywordRank(k jsonschema.ErrorKind) int {
	switch k.(type) {
	case *kind.Type:
		return 0
	case *kind.Required:
		return 1
	case *kind.PropertyNames:
		return 2
	case *kind.MinProperties, *kind.MaxProperties:
		return 3
	case *kind.DependentRequired, *kind.Dependency:
		return 4
	case *kind.AdditionalProperties:
		return 5
	case *kind.AllOf, *kind.AnyOf, *kind.OneOf, *kind.Not:
		return 20
	case *kind.Reference, *kind.Group:
		return 21
	}
	return 10
}

// words says one fault as everit-org's validator does, where that is known.
func words(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		return "expected type: " + typeNames(k.Want) + ", found: " + typeName(k.Got)
	case *kind.Enum:
		return value(k.Got) + " is not a valid enum value"
	case *kind.Const:
		return value(k.Got) + " is not equal to the constant " + value(k.Want)
	case *kind.Format:
		return "[" + value(k.Got) + "] is not a valid " + k.Want
	case *kind.Minimum:
		return number(k.Got) + " is not greater or equal to " + number(k.Want)
	case *kind.Maximum:
		return number(k.Got) + " is not less or equal to " + number(k.Want)
	case *kind.ExclusiveMinimum:
		return number(k.Got) + " is not greater than " + number(k.Want)
	case *kind.ExclusiveMaximum:
		return number(k.Got) + " is not less than " + number(k.Want)
	case *kind.MultipleOf:
		return number(k.Got) + " is not a multiple of " + number(k.Want)
	case *kind.MinLength:
		return fmt.Sprintf("expected minLength: %d, actual: %d", k.Want, k.Got)
	case *kind.MaxLength:
		return fmt.Sprintf("expected maxLength: %d, actual: %d", k.Want, k.Got)
	case *kind.Pattern:
		return "string [" + shown(k.Got) + "] does not match pattern " + k.Want
	case *kind.MinItems:
		return fmt.Sprintf("expected minimum item count: %d, found: %d", k.Want, k.Got)
	case *kind.MaxItems:
		return fmt.Sprintf("expected maximum item count: %d, found: %d", k.Want, k.Got)
	case *kind.UniqueItems:
		return "array items are not unique"
	case *kind.MinProperties:
		return fmt.Sprintf("minimum size: [%d], found: [%d]", k.Want, k.Got)
	case *kind.MaxProperties:
		return fmt.Sprintf("maximum size: [%d], found: [%d]", k.Want, k.Got)
	case *kind.FalseSchema:
		return "false schema always fails"
	case *kind.Not:
		return "subject must not be valid against the schema"
	case *kind.Contains:
		return "expected at least one array item to match 'contains' schema"
	case *kind.DependentRequired:
		return "property [" + strings.Join(k.Missing, "], [") + "] is required"
	case *kind.PropertyNames:
		return "invalid property name [" + shown(k.Property) + "]"
	}
	return k.LocalizedString(message.NewPrinter(language.English))
}

// typeNames names the types that were expected, without null beside another.
func typeNames(want []string) string {
	var names []string
	for _, w := range want {
		if w != "null" || len(want) == 1 {
			names = append(names, typeName(w))
		}
	}
	return strings.Join(names, " or ")
}

// typeName names a type as the validator does, which is written in Java.
func typeName(t string) string {
	switch t {
	case "object":
		return "JSONObject"
	case "array":
		return "JSONArray"
	case "":
		return ""
	}
	return strings.ToUpper(t[:1]) + t[1:]
}

// value shows a JSON value; texts stand without quotes.
func value(v any) string {
	switch v := v.(type) {
	case string:
		return shown(v)
	case json.Number:
		return string(v)
	case nil:
		return "null"
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "?"
	}
	return shown(string(b))
}

// number shows a fraction as JSON would.
func number(r *big.Rat) string {
	if r.IsInt() && r.Num().BitLen() < 256 {
		return r.Num().String()
	}
	f, _ := r.Float64()
	return strconv.FormatFloat(f, 'g', -1, 64)
}

// shown cuts what a client sent to a length that can be told back.
func shown(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "…"
}
