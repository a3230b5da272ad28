package gateway

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
)

// query returns the call's query without the parameters that carried a credential. What
// stays is forwarded as it was sent.
func (c *call) query() string {
	q := c.x.Head().Query
	if len(c.op.dropQuery) == 0 || q == "" {
		return q
	}
	m := c.mark()
	for part := range strings.SplitSeq(q, "&") {
		name, _, _ := strings.Cut(part, "=")
		if strings.ContainsAny(name, "%+") {
			if plain, err := url.QueryUnescape(name); err == nil {
				name = plain
			}
		}
		if slices.Contains(c.op.dropQuery, name) {
			continue
		}
		if len(c.text) > m {
			c.text = append(c.text, '&')
		}
		c.text = append(c.text, part...)
	}
	return c.value(m)
}

// cookies returns the value of a Cookie field without the cookies that carried a
// credential.
func (c *call) cookies(v string) string {
	m := c.mark()
	for part := range strings.SplitSeq(v, ";") {
		part = strings.TrimSpace(part)
		name, _, _ := strings.Cut(part, "=")
		if part == "" || slices.Contains(c.op.dropCookie, strings.TrimSpace(name)) {
			continue
		}
		if len(c.text) > m {
			c.text = append(c.text, "; "...)
		}
		c.text = append(c.text, part...)
	}
	return c.value(m)
}

// certificate tells the backend the client certificate that was checked: the base64 of its
// DER, percent-encoded, in the field in which trusted proxies tell it to us. One that a trusted
// proxy has told goes on as it came.
func (c *call) certificate(trusted bool) {
	if c.who == nil || len(c.who.Certificate) == 0 || trusted && c.x.Header(fieldCertCanonical) != "" {
		return
	}
	m := c.mark()
	// Base64 first, then "+", "/" and "=" of it, behind it in the same buffer.
	c.text = base64.StdEncoding.AppendEncode(c.text, c.who.Certificate)
	plain := len(c.text)
	for i := m; i < plain; i++ {
		switch b := c.text[i]; b {
		case '+':
			c.text = append(c.text, "%2B"...)
		case '/':
			c.text = append(c.text, "%2F"...)
		case '=':
			c.text = append(c.text, "%3D"...)
		default:
			c.text = append(c.text, b)
		}
	}
	c.add(fieldCert, c.value(plain))
}

// fieldCertCanonical is fieldCert as [policy.Call] wants names.
const fieldCertCanonical = "X-Wso2-Client-Certificate"
