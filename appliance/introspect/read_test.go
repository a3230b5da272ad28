package introspect

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/auth"
	"time"
)

// envelope is an answer as API Manager 2.6 writes it.
func envelope(inside string) string {
	return `<?xml version='1.0' encoding='utf-8'?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>` +
		`<ns:validateKeyResponse xmlns:ns="http://org.apache.axis2/xsd" xmlns:ax="http://dto.impl.apimgt.carbon.wso2.org/xsd">` +
		`<ns:return xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="ax:APIKeyValidationInfoDTO">` + inside +
		`</ns:return></ns:validateKeyResponse></soapenv:Body></soapenv:Envelope>`
}

func TestIntrospectionAnswers(t *testing.T) {
	r, err := rfc7662{}.read([]byte(`{"active":true,"username":"fitter1@ship.example","sub":"uuid","client_id":"c1","scope":"a b","exp":1900000000,"jti":"j","keytype":"SANDBOX","aud":["x"],"realm_access":{"roles":["r"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if !r.Active || r.Subject != "fitter1@ship.example" || r.Tenant != "ship.example" || r.ConsumerKey != "c1" || len(r.Scopes) != 2 || r.ID != "j" ||
		r.KeyType != policy.Sandbox || r.Expires.Unix() != 1_900_000_000 || r.Claims.Text("aud") != "x" || r.Decided {
		t.Errorf("got %+v", r)
	}
	for body, bad := range map[string]bool{
		`{"active":true}`: false, `{"active":false,"exp":"x"}`: false, `{"active":true,"exp":1900000000000}`: false, `{"active":true,"exp":null}`: false,
		`{"active":true,"exp":"1900000000"}`: false,
		``:                                   true, `[]`: true, `{}`: true, `{"active":"true"}`: true, `{"active":1}`: true, `{"active":null}`: true, `{"Active":true}`: true,
		`{"active":true,"active":false}`: true, `{"active":true,"exp":-1}`: true, `{"active":true,"exp":"soon"}`: true, `{"active":true,"exp":1e99}`: true,
		`<html>`: true, `{"active":true} x`: true, "{\"active\":true,\"sub\":\"\xff\"}": true,
	} {
		if _, err := (rfc7662{}).read([]byte(body)); (err != nil) != bad {
			t.Errorf("%s: got %v", body, err)
		}
	}
}

func TestSOAPAnswers(t *testing.T) {
	r, err := soap{}.read([]byte(envelope(`<ax:apiName>meters</ax:apiName><ax:applicationId>2</ax:applicationId><ax:applicationName>Tablet &amp; co</ax:applicationName>
		<ax:applicationTier>50PerMin</ax:applicationTier><ax:authorized>true</ax:authorized><ax:authorizedDomains xsi:nil="true"/><ax:consumerKey>ck</ax:consumerKey>
		<ax:endUserName>admin@carbon.super</ax:endUserName><ax:endUserToken>a.b.c</ax:endUserToken><ax:issuedTime>1800000000000</ax:issuedTime>
		<ax:scopes>read</ax:scopes><ax:scopes>write</ax:scopes><ax:subscriber>fitter1</ax:subscriber><ax:tier>Gold</ax:tier><ax:type>PRODUCTION</ax:type>
		<ax:validationStatus>0</ax:validationStatus><ax:validityPeriod>3600000</ax:validityPeriod>`)))
	if err != nil {
		t.Fatal(err)
	}
	want := auth.Introspected{
		Active: true, Decided: true, Subject: "admin@carbon.super", Tenant: "carbon.super", ConsumerKey: "ck", SubscriptionPlan: "Gold",
		ApplicationID: "2", ApplicationName: "Tablet & co", ApplicationOwner: "fitter1", ApplicationPlan: "50PerMin", EndUserToken: "a.b.c",
	}
	if strings.Join(r.Scopes, " ") != "read write" || !r.Expires.Equal(time.Unix(1_800_003_600, 0)) {
		t.Errorf("got %+v", r)
	}
	r.Scopes, r.Expires = nil, time.Time{}
	if fmt.Sprintf("%+v", *r) != fmt.Sprintf("%+v", want) {
		t.Errorf("got %+v\nwant %+v", *r, want)
	}
	r, err = soap{}.read([]byte(envelope(`<ax:authorized>false</ax:authorized><ax:validationStatus>900908</ax:validationStatus>`)))
	if err != nil || r.Active || r.Code != 900908 || !r.Decided {
		t.Errorf("refused: got %+v, %v", r, err)
	}
	for period, never := range map[string]bool{"9223372036854775807": true, "-1": true, "0": true, "1000": false} {
		r, err := soap{}.read([]byte(envelope(`<ax:authorized>true</ax:authorized><ax:issuedTime>1800000000000</ax:issuedTime><ax:validityPeriod>` + period + `</ax:validityPeriod>`)))
		if err != nil || r.Expires.IsZero() != never {
			t.Errorf("period %s: got %+v, %v", period, r, err)
		}
	}
}

func TestSOAPAnswersThatSayNothing(t *testing.T) {
	ok := `<ax:authorized>true</ax:authorized>`
	for name, body := range map[string]string{
		"empty":              ``,
		"HTML":               `<html><body>login</body></html>`,
		"fault":              `<e:Envelope xmlns:e="x"><e:Body><e:Fault><faultcode>e:Client</faultcode><faultstring>no</faultstring></e:Fault></e:Body></e:Envelope>`,
		"no word":            envelope(`<ax:tier>Gold</ax:tier>`),
		"both words":         envelope(ok + `<ax:authorized>false</ax:authorized>`),
		"another word":       envelope(`<ax:authorized>maybe</ax:authorized>`),
		"cut off":            envelope(ok)[:300],
		"document type":      `<!DOCTYPE x [<!ENTITY a "b">]>` + envelope(ok),
		"entity":             envelope(`<ax:authorized>&tru;</ax:authorized>`),
		"two results":        strings.Replace(envelope(ok), "</ns:return>", `</ns:return><ns:return><ax:authorized>true</ax:authorized></ns:return>`, 1),
		"in the wrong place": `<Envelope><Header><validateKeyResponse><return><authorized>true</authorized></return></validateKeyResponse></Header></Envelope>`,
		"deep":               strings.Repeat("<a>", 100),
		"time in words":      envelope(ok + `<ax:issuedTime>now</ax:issuedTime><ax:validityPeriod>1</ax:validityPeriod>`),
	} {
		if r, err := (soap{}).read([]byte(body)); err == nil {
			t.Errorf("%s: got %+v", name, r)
		}
	}
}

func TestSOAPQuestion(t *testing.T) {
	q := question(`<&"'>`)
	h, body := soap{}.request(&q)
	if len(h) != 2 || h[1].Value != `"urn:validateKey"` {
		t.Errorf("header %v", h)
	}
	got := map[string]string{}
	d := xml.NewDecoder(strings.NewReader(string(body)))
	name := ""
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			name = tok.Name.Local
			if name == "context" && tok.Name.Space != "http://org.apache.axis2/xsd" {
				t.Errorf("name space %s", tok.Name.Space)
			}
		case xml.CharData:
			got[name] += string(tok)
		}
	}
	for k, v := range map[string]string{"context": "/meters/1.0", "version": "1.0", "accessToken": `<&"'>`, "requiredAuthenticationLevel": "Any", "clientDomain": "*", "matchingResource": "/r/{id}", "httpVerb": "GET"} {
		if got[k] != v {
			t.Errorf("%s: got %q, want %q", k, got[k], v)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(yes))
	f.Add([]byte(envelope(`<ax:authorized>true</ax:authorized><ax:issuedTime>1</ax:issuedTime><ax:validityPeriod>9223372036854775807</ax:validityPeriod>`)))
	f.Add([]byte(`{"active":true,"exp":1e400}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, p := range []protocol{rfc7662{}, soap{}} {
			r, err := p.read(b)
			if err != nil {
				continue
			}
			// What is kept reads as what was said.
			e := &entry{said: r, at: 1, until: 2}
			if !r.Active {
				continue
			}
			back, err := decode(encode(e))
			if err != nil {
				t.Fatalf("%s: %v", b, err)
			}
			if back.said.Subject != r.Subject || back.said.Claims.Text("sub") != r.Claims.Text("sub") || back.said.Expires.Unix() != r.Expires.Unix() && !r.Expires.IsZero() {
				t.Fatalf("got %+v, want %+v", back.said, r)
			}
		}
	})
}
