package openapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"tidegate/policy"
	"tidegate/policy/source"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
)

const (
	// maxCheck is the size of a document, in bytes of JSON, above which it is not held
	// against the standard as a whole: that takes some 50 times the memory.
	maxCheck = 1 << 20
	// maxComplaints bounds what is told of one document.
	maxComplaints = 20
)

// check lets kin-openapi judge the document. Its findings are warnings: what matters to a
// gateway was read already, and few documents in the field are faultless.
func check(root *source.Node, object string, r *source.Report) {
	var b bytes.Buffer
	value(&b, versionsAsTexts(root), false)
	if b.Len() > maxCheck {
		return
	}
	var complaints openapi3.MultiError
	if err := judge(b.Bytes(), root.Value("swagger") != nil); err != nil && !errors.As(err, &complaints) {
		complaints = openapi3.MultiError{err}
	}
	for i, c := range complaints {
		if i == maxComplaints {
			r.Warnf(root.Pos, object, "not valid OpenAPI: %d more complaints", len(complaints)-i)
			break
		}
		text, _, _ := strings.Cut(c.Error(), "\n")
		r.Warnf(placeOf(root, text), object, "not valid OpenAPI: %s", text)
	}
}

var (
	namesPath   = regexp.MustCompile(`(?:invalid path|operation [A-Z]+) (/[^\s:]*)`)
	namesMethod = regexp.MustCompile(`operation ([A-Z]+)\b`)
	namesPart   = regexp.MustCompile(`invalid components: (?:schema|security scheme) "([^"]+)"`)
)

// placeOf finds what a complaint is about by the names in its words: the library gives
// no place for most of them. It falls back to the beginning of the document.
func placeOf(root *source.Node, text string) policy.Pos {
	if m := namesPath.FindStringSubmatch(text); m != nil {
		if k := root.Value("paths").Lookup(m[1]); k != nil {
			if m := namesMethod.FindStringSubmatch(text); m != nil {
				if op := k.Value.Lookup(strings.ToLower(m[1])); op != nil {
					return op.Pos
				}
			}
			return k.Pos
		}
	}
	if m := namesPart.FindStringSubmatch(text); m != nil {
		for _, at := range [][]string{{"components", "schemas"}, {"components", "securitySchemes"}, {"definitions"}, {"securityDefinitions"}} {
			if k := root.At(at...).Lookup(m[1]); k != nil {
				return k.Pos
			}
		}
	}
	return root.Pos
}

// judge returns what is wrong with a document in JSON. The library is meant for the
// documents of friends: a panic of it is one more complaint.
func judge(doc []byte, v2 bool) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the checker gave up: %v", p)
		}
	}()
	loader := openapi3.NewLoader()
	loader.IsExternalRefsAllowed = false
	loader.ReadFromURIFunc = func(*openapi3.Loader, *url.URL) ([]byte, error) {
		return nil, errors.New("references out of the document are not followed")
	}
	var t *openapi3.T
	if v2 {
		var old openapi2.T
		if err := json.Unmarshal(doc, &old); err != nil {
			return err
		}
		t, err = openapi2conv.ToV3WithLoader(&old, loader, nil)
	} else {
		t, err = loader.LoadFromData(doc)
	}
	if err != nil {
		return err
	}
	return t.Validate(context.Background(),
		openapi3.EnableMultiError(),
		openapi3.DisableExamplesValidation(),
		openapi3.DisableSchemaDefaultsValidation(),
		openapi3.DisableSchemaPatternValidation(), // ours says it with its line
		openapi3.AllowExtensionsWithRef())
}

// versionsAsTexts returns root with openapi and info.version as texts: unquoted, they
// are numbers to a parser, and the whole document would be refused for it.
func versionsAsTexts(root *source.Node) *source.Node {
	asText := func(n *source.Node, key string) *source.Node {
		c := *n
		c.Keys = append([]source.Key(nil), n.Keys...)
		for i, k := range c.Keys {
			if k.Name == key && k.Value.IsScalar() {
				v := *k.Value
				v.Kind = source.Text
				c.Keys[i].Value = &v
			}
		}
		return &c
	}
	out := asText(asText(root, "openapi"), "swagger")
	for i, k := range out.Keys {
		if k.Name == "info" && k.Value.Kind == source.Map {
			out.Keys[i].Value = asText(k.Value, "version")
		}
	}
	return out
}
