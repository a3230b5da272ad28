package apimtest

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"tidegate/policy/wso2/wso2test"
)

// versions are where each version has its API.
var versions = map[string]struct{ register, publisher, admin string }{
	"2.6": {"v0.14", "v0.14", "v0.14"}, "3.0": {"v0.15", "v1.0", "v0.15"}, "3.1": {"v0.16", "v1.1", "v0.16"}, "3.2": {"v0.17", "v1.2", "v0.17"},
	"4.0": {"v0.17", "v2", "v2"}, "4.1": {"v0.17", "v3", "v3"}, "4.2": {"v0.17", "v4", "v4"},
}

const token = "7e0c2a64-1111-3222-8333-94444a5b6c7d"

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if s.fault(w, r) {
		return
	}
	v := versions[s.Version]
	p := r.URL.Path
	switch {
	case strings.HasPrefix(p, "/client-registration/"):
		s.register(w, r, v.register)
	case p == "/oauth2/token":
		s.token(w, r)
	case p == "/oauth2/jwks" && r.Method == http.MethodGet:
		if s.NoKeys {
			http.NotFound(w, r)
			return
		}
		reply(w, JWKS())
	case strings.HasPrefix(p, "/internal/data/v1/"):
		s.data(w, r)
	case strings.HasPrefix(p, "/api/am/publisher/"), strings.HasPrefix(p, "/api/am/admin/"):
		if r.Method != http.MethodGet || r.Header.Get("Authorization") != "Bearer "+token {
			s.violation(w, r, "want GET with the token")
			return
		}
		if rest, ok := strings.CutPrefix(p, "/api/am/publisher/"+v.publisher+"/apis"); ok {
			s.publisher(w, r, rest)
		} else if rest, ok := strings.CutPrefix(p, "/api/am/admin/"+v.admin+"/throttling/"); ok {
			s.admin(w, r, rest)
		} else {
			http.NotFound(w, r) // another version's
		}
	default:
		s.violation(w, r, "no such call")
	}
}

func (s *Server) register(w http.ResponseWriter, r *http.Request, version string) {
	if !strings.HasPrefix(r.URL.Path, "/client-registration/"+version+"/") {
		http.NotFound(w, r)
		return
	}
	var body struct {
		CallbackURL string `json:"callbackUrl"`
		ClientName  string `json:"clientName"`
		Owner       string `json:"owner"`
		SaasApp     bool   `json:"saasApp"`
		GrantType   string `json:"grantType"`
		TokenScope  string `json:"tokenScope"`
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	user, password, ok := r.BasicAuth()
	name := "Micro_Gateway_Cli"
	if version == "v0.14" {
		name = "Micro Gateway Cli"
	}
	switch err := d.Decode(&body); {
	case r.Method != http.MethodPost || r.URL.Path != "/client-registration/"+version+"/register" || r.Header.Get("Content-Type") != "application/json" || !ok:
		s.violation(w, r, "want POST …/register, Basic, application/json")
	case err != nil:
		s.violation(w, r, "%v", err)
	case user != User || password != Password:
		http.Error(w, "", http.StatusUnauthorized)
	case body.CallbackURL != "https://wso2.org" || body.ClientName != name || body.Owner != User || !body.SaasApp || body.GrantType != "password" || body.TokenScope != "PRODUCTION":
		s.violation(w, r, "body %+v", body)
	default:
		s.mu.Lock()
		s.kept++
		secret := s.client
		s.mu.Unlock()
		var answer map[string]any
		_ = json.Unmarshal(wso2test.Reply("dcr.json"), &answer) // ours
		answer["clientSecret"] = secret
		reply(w, answer)
	}
}

func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.Method != http.MethodPost || err != nil || t != "application/x-www-form-urlencoded" || r.URL.RawQuery != "" {
		s.violation(w, r, "want a POST of a form")
		return
	}
	if err := r.ParseForm(); err != nil {
		s.violation(w, r, "%v", err)
		return
	}
	if got := slices.Sorted(maps.Keys(r.PostForm)); !slices.Equal(got, []string{"grant_type", "password", "scope", "username"}) || r.PostForm.Get("grant_type") != "password" {
		s.violation(w, r, "form %v", got)
		return
	}
	for _, need := range []string{"apim:tier_view", "apim:api_view", "apim:bl_view"} {
		if !slices.Contains(strings.Fields(r.PostForm.Get("scope")), need) {
			s.violation(w, r, "scope %q lacks %s", r.PostForm.Get("scope"), need)
			return
		}
	}
	id, secret, _ := r.BasicAuth()
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	if id != "kQ1nV7bGm0eT3xZy9sUaW4rD2hLc" || secret != client {
		http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
		return
	}
	if r.PostForm.Get("username") != User || r.PostForm.Get("password") != Password {
		http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
		return
	}
	scope := s.Scope
	if scope == "" {
		scope = r.PostForm.Get("scope")
	}
	reply(w, map[string]any{"access_token": token, "refresh_token": "x", "scope": scope, "token_type": "Bearer", "expires_in": 3600})
}

// publisher answers below …/apis.
func (s *Server) publisher(w http.ResponseWriter, r *http.Request, rest string) {
	switch {
	case rest == "" && r.URL.RawQuery == "limit=1" && s.Version >= "3.2":
		reply(w, map[string]any{"count": 0, "list": []any{}})
	case rest == "" && s.Version < "4":
		s.search(w, r)
	case rest == "/export" && s.Version >= "4":
		s.export(w, r)
	case strings.HasPrefix(rest, "/") && s.Version >= "3" && s.Version < "4" && r.URL.RawQuery == "":
		id, definition := strings.CutSuffix(strings.TrimPrefix(rest, "/"), "/swagger")
		for _, a := range s.APIs {
			if a["id"] != id {
				continue
			}
			if definition {
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(a["apiDefinition"].(string)))
				return
			}
			reply(w, s.detail(a))
			return
		}
		http.NotFound(w, r)
	default:
		s.violation(w, r, "no such call of %s", s.Version)
	}
}

// search answers the list, by label or by name, in pages.
func (s *Server) search(w http.ResponseWriter, r *http.Request) {
	raw := r.URL.RawQuery
	if strings.Contains(raw, "+") {
		s.violation(w, r, "spaces are %%20")
		return
	}
	q, err := url.ParseQuery(raw)
	terms := strings.Split(q.Get("query"), " ")
	expand := s.Version == "2.6"
	if err != nil || q.Get("expand") != strconv.FormatBool(expand) || terms[len(terms)-1] != "status:PUBLISHED" {
		s.violation(w, r, "query, expand")
		return
	}
	limit := 500
	for key, v := range q {
		n, err := strconv.Atoi(v[0])
		switch {
		case key == "query" || key == "expand":
		case key == "limit" && err == nil && n == 500, key == "offset" && err == nil && n > 0:
		default:
			s.violation(w, r, "%s=%s", key, v[0])
			return
		}
	}
	if !q.Has("limit") && strings.HasPrefix(terms[0], "name:") {
		limit = 25 // the server's own default
	}
	if s.PageSize > 0 {
		limit = min(limit, s.PageSize)
	}
	var found []map[string]any
	for _, a := range s.APIs {
		if s.match(a, terms[:len(terms)-1]) {
			found = append(found, a)
		}
	}
	offset, _ := strconv.Atoi(q.Get("offset"))
	if s.IgnoreOffset {
		offset = 0
	}
	page := found[min(offset, len(found)):min(offset+limit, len(found))]
	out := make([]any, 0, len(page))
	for _, a := range page {
		if expand {
			out = append(out, a)
		} else {
			out = append(out, map[string]any{"id": a["id"], "name": a["name"], "version": a["version"], "context": a["context"], "lifeCycleStatus": a["status"]})
		}
	}
	answer := map[string]any{"count": len(out), "list": out, "next": "", "previous": ""}
	if offset+limit < len(found) {
		answer["next"] = "/apis?offset=" + strconv.Itoa(offset+limit)
	}
	if !s.NoPagination {
		answer["pagination"] = map[string]any{"total": len(found), "offset": offset, "limit": limit}
	}
	reply(w, answer)
}

// match is as loose as the server's: parts of names match.
func (s *Server) match(a map[string]any, terms []string) bool {
	for _, t := range terms {
		key, value, _ := strings.Cut(t, ":")
		switch key {
		case "label":
			found := false
			for _, l := range a["labels"].([]any) {
				found = found || l.(map[string]any)["name"] == value
			}
			if !found {
				return false
			}
		case "name", "version":
			if !strings.Contains(a[key].(string), value) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// detail is an API as 3.x describes it.
func (s *Server) detail(a map[string]any) map[string]any {
	out := map[string]any{
		"id": a["id"], "name": a["name"], "version": a["version"], "context": a["context"], "provider": a["provider"], "description": a["description"],
		"lifeCycleStatus": a["status"], "policies": a["tiers"], "apiThrottlingPolicy": a["apiLevelPolicy"], "transport": a["transport"], "type": a["type"],
		"isDefaultVersion": a["isDefaultVersion"], "corsConfiguration": a["corsConfiguration"], "authorizationHeader": a["authorizationHeader"],
		"responseCachingEnabled": a["responseCaching"] == "Enabled", "cacheTimeout": a["cacheTimeout"], "securityScheme": []any{"oauth2", "oauth_basic_auth_api_key_mandatory"},
	}
	var labels []any
	for _, l := range a["labels"].([]any) {
		labels = append(labels, l.(map[string]any)["name"])
	}
	out["labels"] = labels
	var config map[string]any
	_ = json.Unmarshal([]byte(a["endpointConfig"].(string)), &config) // ours
	security, _ := a["endpointSecurity"].(map[string]any)
	if s.Version != "3.0" {
		if security != nil {
			both := map[string]any{"enabled": true, "type": "BASIC", "username": security["username"], "password": security["password"]}
			config["endpoint_security"] = map[string]any{"production": both, "sandbox": both}
		}
		out["endpointConfig"] = config
		return out
	}
	var endpoints []any
	for _, side := range []string{"production", "sandbox"} {
		urls := []any{}
		switch e := config[side+"_endpoints"].(type) {
		case map[string]any:
			urls = append(urls, map[string]any{"url": e["url"]})
		case []any:
			for _, x := range e {
				urls = append(urls, map[string]any{"url": x.(map[string]any)["url"]})
			}
		}
		kind := "SINGLE"
		if config["endpoint_type"] == "load_balance" {
			kind = "LOAD_BALANCED"
		}
		endpoints = append(endpoints, map[string]any{"type": strings.ToUpper(side[:1]) + side[1:], "inline": map[string]any{
			"type": "http", "endpointConfig": map[string]any{"endpointType": kind, "list": urls},
		}})
	}
	out["endpoint"] = endpoints
	out["endpointSecurity"] = security
	return out
}

// export answers with the archives of an environment.
func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	q := strings.Split(r.URL.RawQuery, "&")
	if len(q) != 3 || !strings.HasPrefix(q[0], "name=") || !strings.HasPrefix(q[1], "version=") || !strings.HasPrefix(q[2], "gatewayEnvironment=") {
		s.violation(w, r, "want name, version, gatewayEnvironment")
		return
	}
	env, err := base64.StdEncoding.DecodeString(r.URL.Query().Get("gatewayEnvironment"))
	if err != nil {
		s.violation(w, r, "gatewayEnvironment: %v", err)
		return
	}
	if string(env) != "quay-7" || !strings.Contains("MeterReadings", r.URL.Query().Get("name")) {
		http.NotFound(w, r)
		return
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, body := range map[string][]byte{
		"MeterReadings_1.2.0.zip": wso2test.Archive("archive-4.x"),
		"deployments.json":        []byte(`{"type":"deployments","version":"v4.2.0","data":{"deployments":[{"apiFile":"MeterReadings_1.2.0.zip","environments":[{"name":"quay-7","vhost":"gw.example"}]}]}}`),
	} {
		f, err := z.Create(name)
		if err == nil {
			_, err = f.Write(body)
		}
		if err != nil {
			s.t.Error(err)
		}
	}
	if err := z.Close(); err != nil {
		s.t.Error(err)
	}
	w.Header().Set("Content-Type", "application/zip")
	_, _ = w.Write(b.Bytes())
}

// admin answers below …/throttling/.
func (s *Server) admin(w http.ResponseWriter, r *http.Request, rest string) {
	if r.URL.RawQuery != "" {
		s.violation(w, r, "no query")
		return
	}
	list := func(l []map[string]any) { reply(w, map[string]any{"count": len(l), "list": s.nested(l)}) }
	switch {
	case rest == "policies/application":
		list(s.Application)
	case rest == "policies/subscription":
		list(s.Subscription)
	case rest == "policies/advanced":
		short := []map[string]any{}
		for _, p := range s.Advanced {
			c := maps.Clone(p)
			if s.ShortAdvanced {
				delete(c, "conditionalGroups")
			}
			short = append(short, c)
		}
		list(short)
	case strings.HasPrefix(rest, "policies/advanced/"):
		for _, p := range s.Advanced {
			if p["policyId"] == strings.TrimPrefix(rest, "policies/advanced/") {
				reply(w, s.nested([]map[string]any{p})[0])
				return
			}
		}
		http.NotFound(w, r)
	case rest == "policies/custom":
		list(s.Custom)
	case rest == "blacklist" && s.Version <= "3.1", rest == "deny-policies" && s.Version >= "3.2":
		reply(w, map[string]any{"count": len(s.Blocked), "list": s.Blocked})
	case rest == "blacklist" || rest == "deny-policies":
		http.NotFound(w, r)
	default:
		s.violation(w, r, "no such call")
	}
}

// nested writes limits as 3.2 and later do: in an object named after their type.
func (s *Server) nested(l []map[string]any) []map[string]any {
	if s.Version < "3.2" {
		return l
	}
	out := []map[string]any{}
	for _, p := range l {
		c := maps.Clone(p)
		if d, ok := c["defaultLimit"].(map[string]any); ok && d["type"] == "RequestCountLimit" {
			c["defaultLimit"] = map[string]any{"type": "REQUESTCOUNTLIMIT", "requestCount": d, "bandwidth": nil}
		} else if ok && d["type"] == "BandwidthLimit" {
			c["defaultLimit"] = map[string]any{"type": "BANDWIDTHLIMIT", "bandwidth": d, "requestCount": nil}
		}
		out = append(out, c)
	}
	return out
}

// data answers the internal data API.
func (s *Server) data(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/internal/data/v1/")
	user, password, ok := r.BasicAuth()
	if r.Method != http.MethodGet || !ok || s.Version < "3.2" || !slices.Contains([]string{"apis", "applications", "subscriptions", "application-key-mappings"}, name) {
		s.violation(w, r, "no such call of %s", s.Version)
		return
	}
	if user != User || password != Password {
		http.Error(w, "", http.StatusUnauthorized)
		return
	}
	reply(w, map[string]any{"list": append([]map[string]any{}, s.Data[name]...)})
}
