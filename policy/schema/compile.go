package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// compiled is a schema ready for use.
type compiled struct {
	schema *jsonschema.Schema
	order  map[string][]string // names of properties in document order, by the pointer of their schema
}

// refuse keeps schemas from reading files or the network.
type refuse struct{}

var errOutside = errors.New("a reference out of the document")

func (refuse) Load(string) (any, error) { return nil, errOutside }

// name is how the document is known to the compiler.
const name = "urn:tidegate:schema"

// compile makes a schema of one in JSON Schema 2020-12 and the definitions it refers to.
func compile(schema, defs []byte) (*compiled, error) {
	doc := withDefs(schema, defs)
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(refuse{})
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource(name, v); err != nil {
		return nil, plain(err)
	}
	s, err := c.Compile(name)
	if err != nil {
		return nil, plain(err)
	}
	return &compiled{s, propertyOrder(doc)}, nil
}

// plain puts an error of the library on one line, without the name we gave the document.
func plain(err error) error {
	return errors.New(strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), name, "")), " "))
}

// withDefs puts the definitions into a schema that refers to some.
func withDefs(schema, defs []byte) []byte {
	if defs == nil || !bytes.Contains(schema, []byte(`"$ref"`)) {
		return schema
	}
	rest, ok := bytes.CutPrefix(bytes.TrimSpace(schema), []byte("{"))
	if !ok {
		return schema
	}
	return fmt.Appendf(nil, `{"$defs":%s,%s`, defs, rest) // it holds a $ref at least
}

// propertyOrder notes the order of properties where there are several: a map has none.
func propertyOrder(doc []byte) map[string][]string {
	out := map[string][]string{}
	d := json.NewDecoder(bytes.NewReader(doc))
	walkOrder(d, "", out)
	if len(out) == 0 {
		return nil
	}
	return out
}

// walkOrder reads one value, which compiled: the decoder meets no errors.
func walkOrder(d *json.Decoder, pointer string, out map[string][]string) {
	t, err := d.Token()
	if err != nil {
		return
	}
	switch t {
	case json.Delim('['):
		for i := 0; d.More(); i++ {
			walkOrder(d, fmt.Sprintf("%s/%d", pointer, i), out)
		}
		_, _ = d.Token()
	case json.Delim('{'):
		var names []string
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return
			}
			key, _ := k.(string)
			names = append(names, key)
			walkOrder(d, pointer+"/"+escape(key), out)
		}
		_, _ = d.Token()
		if of, ok := strings.CutSuffix(pointer, "/properties"); ok && len(names) > 1 {
			out[of] = names
		}
	}
}

// escape writes a name as a token of a JSON pointer (RFC 6901 §3).
func escape(s string) string {
	if !strings.ContainsAny(s, "~/") {
		return s
	}
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(s)
}
