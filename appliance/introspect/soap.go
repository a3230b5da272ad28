package introspect

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"tidegate/appliance/wire"
	"tidegate/policy"
	"tidegate/policy/auth"
	"time"
)

// soapService is the path of the service below the key manager's address.
const soapService = "/services/APIKeyValidationService"

// soap is the key validation service of WSO2 API Manager 2.6 and 3.x. It judges
// subscription and scopes too, so an answer is for one operation.
type soap struct{}

func (soap) name() string { return "soap" }
func (soap) perAPI() bool { return true }

func (soap) request(q *auth.Question) (wire.Header, []byte) {
	var b bytes.Buffer
	b.WriteString(`<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://org.apache.axis2/xsd"><soapenv:Header/><soapenv:Body><xsd:validateKey>`)
	for _, e := range [...]struct{ name, value string }{
		{"context", q.API.BasePath},
		{"version", q.API.Version},
		{"accessToken", q.Token},
		{"requiredAuthenticationLevel", "Any"},
		{"clientDomain", "*"},
		{"matchingResource", q.Resource},
		{"httpVerb", q.Method},
	} {
		b.WriteString("<xsd:" + e.name + ">")
		_ = xml.EscapeText(&b, []byte(e.value)) // a buffer never fails
		b.WriteString("</xsd:" + e.name + ">")
	}
	b.WriteString(`</xsd:validateKey></soapenv:Body></soapenv:Envelope>`)
	return wire.Header{
		{Name: "Content-Type", Value: "text/xml; charset=UTF-8"},
		{Name: "SOAPAction", Value: `"urn:validateKey"`},
	}, b.Bytes()
}

var (
	errNotSOAP = errors.New("the answer is no validateKeyResponse")
	errNoWord  = errors.New("the answer does not say whether the token is authorized")
	errXML     = errors.New("the answer is not plain XML")
)

func (soap) read(body []byte) (*auth.Introspected, error) {
	v, err := values(body)
	if err != nil {
		return nil, err
	}
	text := func(name string) string {
		if len(v[name]) == 0 {
			return ""
		}
		return v[name][0]
	}
	switch strings.ToLower(text("authorized")) {
	case "true":
	case "false":
		code, err := strconv.Atoi(text("validationStatus"))
		if err != nil || code < 900900 || code > 900999 {
			code = 0
		}
		return &auth.Introspected{Code: code, Decided: true}, nil
	default:
		return nil, errNoWord
	}
	r := &auth.Introspected{
		Active: true, Decided: true, Subject: text("endUserName"), ConsumerKey: text("consumerKey"),
		SubscriptionPlan: text("tier"), ApplicationID: text("applicationId"), ApplicationName: text("applicationName"),
		ApplicationOwner: text("subscriber"), ApplicationPlan: text("applicationTier"), EndUserToken: text("endUserToken"),
		Scopes: v["scopes"],
	}
	if i := strings.LastIndexByte(r.Subject, '@'); i >= 0 {
		r.Tenant = r.Subject[i+1:]
	}
	if t := text("type"); t != "" && !strings.EqualFold(t, policy.Production.String()) {
		r.KeyType = policy.Sandbox
	}
	r.Expires, err = end(text("issuedTime"), text("validityPeriod"))
	return r, err
}

// end returns the end of a token, zero for none. Both are milliseconds; the largest long
// means for ever, as does a period that is not positive.
func end(issued, period string) (time.Time, error) {
	if issued == "" || period == "" {
		return time.Time{}, nil
	}
	from, err1 := strconv.ParseInt(issued, 10, 64)
	life, err2 := strconv.ParseInt(period, 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return time.Time{}, errors.New("issuedTime and validityPeriod are not numbers")
	}
	if life <= 0 || from < 0 || life > math.MaxInt64-from {
		return time.Time{}, nil
	}
	return time.UnixMilli(from + life), nil
}

// values returns the texts of the elements in validateKeyResponse/return, by name.
func values(body []byte) (map[string][]string, error) {
	d := xml.NewDecoder(bytes.NewReader(body))
	out := map[string][]string{}
	var path []string
	var text strings.Builder
	seen := false
	for {
		t, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errXML, err)
		}
		switch t := t.(type) {
		case xml.Directive: // a document type: nothing good comes of it
			return nil, errXML
		case xml.StartElement:
			if len(path) == 16 {
				return nil, errXML
			}
			path = append(path, t.Name.Local)
			text.Reset()
			if len(path) == 4 {
				if seen && path[2] == "validateKeyResponse" {
					return nil, errNotSOAP // two results: which one counts?
				}
				seen = path[2] == "validateKeyResponse" && path[3] == "return"
			}
		case xml.CharData:
			text.Write(t)
		case xml.EndElement:
			switch {
			case len(path) == 4 && path[2] == "Fault" && path[3] == "faultstring":
				return nil, fmt.Errorf("fault: %.200q", strings.TrimSpace(text.String()))
			case len(path) == 5 && path[0] == "Envelope" && path[1] == "Body" && path[2] == "validateKeyResponse" && path[3] == "return":
				if s := strings.TrimSpace(text.String()); s != "" {
					if name := path[4]; name == "scopes" || len(out[name]) == 0 {
						out[name] = append(out[name], s)
					} else {
						return nil, errNotSOAP
					}
				}
			}
			path = path[:len(path)-1]
			text.Reset()
		}
	}
	if len(out) == 0 {
		return nil, errNotSOAP
	}
	return out, nil
}
