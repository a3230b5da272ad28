package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"tidegate/policy"
	"tidegate/policy/project"
	"time"
)

// announce prints where the project is served, a token, and what to try.
func (d *dev) announce(p *project.Project) {
	var out bytes.Buffer
	var st deviceStatus
	if err := d.tidegate(context.Background(), &out, "status", "--json"); err == nil {
		_ = json.Unmarshal(out.Bytes(), &st)
	}
	if st.Listen.HTTP != "" {
		d.api = "http://" + local(st.Listen.HTTP)
	}
	fmt.Fprintf(d.Out, "serving %s\n  http   %s\n", d.dir, d.api)
	if st.Listen.HTTPS != "" {
		fmt.Fprintf(d.Out, "  https  https://%s\n", local(st.Listen.HTTPS))
	}
	if st.Listen.Admin != "" {
		fmt.Fprintf(d.Out, "  admin  http://%s\n", local(st.Listen.Admin))
	}
	fmt.Fprintf(d.Out, "  status tidegate status --socket %s\n", d.sock)
	token, err := d.token(p)
	if err != nil {
		d.Say("tidectl: token: %v", err)
		return
	}
	fmt.Fprintf(d.Out, "token (1 h, every API and scope)\n  %s\n", token)
	if d.try {
		for _, line := range tries(p.Set, d.api, token) {
			fmt.Fprintln(d.Out, "try: "+line)
		}
	}
}

// local turns an address of all interfaces into one that a client on this machine can use.
func local(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// token returns a token for every API of the project.
func (d *dev) token(p *project.Project) (string, error) {
	s := tokenSpec{issuer: devIssuer, subject: "developer", consumer: "dev", application: "dev:dev:Unlimited:developer", keyType: "PRODUCTION", life: time.Hour, scopes: scopes(p.Set)}
	for i := range p.Set.APIs {
		api := &p.Set.APIs[i]
		plan := policy.Unlimited
		if len(api.Plans) > 0 {
			plan = api.Plans[0]
		}
		s.subscriptions = append(s.subscriptions, api.Name+":"+api.Version+":"+plan)
	}
	text, _, err := s.sign(d.issuer, time.Now())
	return text, err
}

// scopes returns every scope that an operation asks for.
func scopes(set *policy.Set) []string {
	seen := map[string]bool{}
	var out []string
	for i := range set.APIs {
		for k := range set.APIs[i].Operations {
			for _, s := range set.APIs[i].Operations[k].Scopes {
				if !seen[s] {
					seen[s] = true
					out = append(out, s)
				}
			}
		}
	}
	return out
}

// tries returns shell commands that show a 200, a 401 and a 429.
func tries(set *policy.Set, base, token string) []string {
	var out []string
	auth := " -H 'Authorization: Bearer " + token + "'"
	var limited string
	for i := range set.APIs {
		api := &set.APIs[i]
		for k := range api.Operations {
			op := &api.Operations[k]
			if op.Method != http.MethodGet || len(op.Security) == 0 {
				continue
			}
			url := "'" + base + api.BasePath + fill(op.Template) + "'"
			if len(out) == 0 && op.Plan == "" {
				out = append(out, "curl -i "+url+auth, "curl -i "+url)
			}
			if limited == "" {
				if n := smallLimit(set, api, op); n > 0 {
					limited = fmt.Sprintf("for i in $(seq %d); do curl -s -o /dev/null -w '%%{http_code}\\n' %s%s; done", n+1, url, auth)
				}
			}
		}
	}
	if limited != "" {
		out = append(out, limited)
	}
	return out
}

// smallLimit returns the limit of an operation's resource plan if few calls reach it.
func smallLimit(set *policy.Set, api *policy.API, op *policy.Operation) int64 {
	name := op.Plan
	if api.Plan != "" {
		name = api.Plan
	}
	for i := range set.Plans {
		p := &set.Plans[i]
		if p.Kind == policy.ResourcePlan && p.Name == name && p.Limit.Count <= 50 && p.Limit.Unit == policy.Requests {
			return p.Limit.Count
		}
	}
	return 0
}

// fill replaces the parameters of a template by "7".
func fill(template string) string {
	var b strings.Builder
	depth := 0
	for _, r := range template {
		switch {
		case r == '{':
			depth++
			b.WriteByte('7')
		case r == '}':
			depth--
		case r == '*' && depth == 0:
			b.WriteString("any")
		case depth == 0:
			b.WriteRune(r)
		}
	}
	return b.String()
}
