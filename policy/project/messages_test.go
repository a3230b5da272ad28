package project

import (
	"strings"
	"testing"
	"testing/fstest"
)

func TestMistakesOfSchemasAndTransformsAreTold(t *testing.T) {
	doc := `openapi: 3.0.3
info: {title: a, version: "1"}
x-wso2-basePath: /a
x-wso2-production-endpoints: {urls: [http://127.0.0.1:9]}
x-tidegate-transform: {request: {headers: {set: {X: "{cookie.x}"}}}}
paths:
  /b/x{id}:
    get:
      x-auth-type: None
      x-tidegate-validate: true
      x-tidegate-transform: {request: {path: "/c/{path.nope}"}}
      parameters: [{name: id, in: path, required: true, style: matrix, schema: {type: string}}, {name: q, in: query, style: label, schema: {type: string}}]
      responses: {"200": {description: yes}}
`
	_, found := Load(fstest.MapFS{
		"tide.yaml":     {Data: []byte("product: p\nname: n\n")},
		"policies.yaml": {Data: []byte("customPolicies: [c: {keyTemplate: $userId, count: 1, unitTime: 1, timeUnit: min, max_body: 10}]\n")},
		"apis/a.yaml":   {Data: []byte(doc)},
	})
	var text strings.Builder
	for _, f := range found {
		if f.Severity == Error {
			text.WriteString(f.String() + "\n")
		}
	}
	for _, want := range []string{
		"x-tidegate-transform: request headers: X: unknown placeholder {cookie.x}",
		"x-tidegate-transform: {path.nope}: the path /b/x{id} has no such parameter",
		"a custom plan cannot bound bodies",
		`template "/b/x{;id}": "x{;id}": a parameter of the style matrix must be a whole segment`,
		`schema: parameter "q": style "label" is not supported here`,
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("not told: %s\n%s", want, text.String())
		}
	}
}
