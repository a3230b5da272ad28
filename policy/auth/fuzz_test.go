package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzParseToken(f *testing.F) {
	g := &Guard{parser: newParser()}
	issuers := map[string]*issuer{}
	for _, s := range []string{
		"", ".", "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJSUzI1NiJ9.bnVsbA.AA==", "eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJpIn0.AAAA",
		"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOjF9.AA", strings.Repeat("A", MaxToken+1),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// Nobody holds a key, so nothing may ever be accepted.
		if v, err := g.parse(s, issuers, false); err == nil || v != nil {
			t.Fatalf("accepted: %+v", v)
		}
		if g.isJWT(s) && strings.Count(s, ".") != 2 {
			t.Fatal("taken for a JWT without three parts")
		}
	})
}

// decodeObject is readObject on top of the decoder of the standard library.
func decodeObject(b []byte) (object, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errObject
	}
	o := object{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, err
		}
		if _, twice := o.find(name.(string)); twice {
			return nil, errMember
		}
		o = append(o, member{name.(string), string(raw)})
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errObject
	}
	return o, nil
}

func FuzzReadObject(f *testing.F) {
	for _, s := range []string{
		`{}`, ` { } `, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"exp":1e400}`, `{"a":[{"b":null},[ ],"]}",-1.5e3 ]}`, "{\"\xff\":1}", `{"a":1}{}`, `[`, `{"scope":["a",1,{"x":true}]}`,
		"{\t\"a\"\r:\n{ \"b\" : [ 1 , 2 ] } , \"c\" : \"\\\\\" }", `{"a":"\"","b":"\ud800"}`, `null`, ``, `{"a"}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, err := readObject([]byte(s))
		want, wantErr := decodeObject([]byte(s))
		if (err == nil) != (wantErr == nil) && utf8.ValidString(s) {
			t.Fatalf("got %v; the standard library says %v", err, wantErr)
		}
		if err != nil {
			return
		}
		if !slices.Equal(o, want) {
			t.Fatalf("got %q; want %q", o, want)
		}
		for _, m := range o {
			if at, ok, err := o.date(m.name); err == nil && ok && (at > 1<<53 || at < -1<<53) {
				t.Fatalf("time %d", at)
			}
			var elements []json.RawMessage
			isList := json.Unmarshal([]byte(m.raw), &elements) == nil && m.raw != "null"
			list, ok := readList(m.raw)
			if ok != isList || len(list) != len(elements) {
				t.Fatalf("%s: %d elements, list %v; want %d, %v", m.raw, len(list), ok, len(elements), isList)
			}
			for i := range list {
				if list[i] != string(elements[i]) {
					t.Fatalf("element %q; want %q", list[i], elements[i])
				}
			}
			var text string
			if json.Unmarshal([]byte(m.raw), &text) == nil && m.raw != "null" && o.text(m.name) != text {
				t.Fatalf("text %q; want %q", o.text(m.name), text)
			}
			o.texts(m.name)
		}
		o.claims(nil)
	})
}

func FuzzParseLogin(f *testing.F) {
	for _, s := range []string{"", "Og==", "YTpi", "YTpi\n", "YTpj==", "====", "YQ==", "w6k6cw=="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, password, ok := parseLogin(s)
		if !ok {
			return
		}
		if strings.IndexByte(name, ':') >= 0 {
			t.Fatalf("a colon in the name %q", name)
		}
		if len(name)+1+len(password) > len(s) {
			t.Fatal("longer than its text")
		}
	})
}

func FuzzParseSecret(f *testing.F) {
	for _, s := range []string{"", "$argon2id$v=19$m=64,t=1,p=1$MDEyMzQ1Njc$MDEyMzQ1NjcwMTIzNDU2Nw", "$argon2id$v=19$m=,t=,p=$$", "$2a$04$", "@sha1:{}", "@sha256:zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseSecret(s)
		if err != nil || h.kind == hashBcrypt || h.kind == hashArgon && h.time > 1 {
			return
		}
		if h.memory > maxArgonMemory {
			t.Fatalf("%d KiB", h.memory)
		}
		if ok, err := h.fits(context.Background(), lender{}, []byte("x")); err != nil || ok && len(h.sum) < 16 {
			t.Fatalf("%v %v", ok, err)
		}
	})
}

type lender struct{}

func (lender) Acquire(context.Context, int64) error { return nil }
func (lender) Release(int64)                        {}

func FuzzCertificateHeader(f *testing.F) {
	for _, s := range []string{"", "%", "-----BEGIN CERTIFICATE-----", "MIIB", "%2D%2D%2D%2D%2DBEGIN"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := parseCertificateHeader(s); err == nil && len(c.Raw) == 0 {
			t.Fatal("a certificate of nothing")
		}
	})
}
