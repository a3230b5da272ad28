package admin

import (
	"net/http"
	"strconv"
	"tidegate/appliance/gateway"
	"tidegate/policy"
)

// APIView is one API that is served.
type APIView struct {
	Name       string          `json:"name"`
	Version    string          `json:"version"`
	BasePath   string          `json:"base_path"`
	Default    string          `json:"default_path,omitempty"`
	Plan       string          `json:"plan,omitempty"`
	Production string          `json:"production,omitempty"` // name of the endpoint group
	Sandbox    string          `json:"sandbox,omitempty"`
	Operations []OperationView `json:"operations"`
}

// OperationView is one operation with its counts since the start.
type OperationView struct {
	Method   string            `json:"method"`
	Template string            `json:"template"`
	ID       string            `json:"operation_id,omitempty"`
	Secured  bool              `json:"secured"`
	Scopes   []string          `json:"scopes,omitempty"`
	Plan     string            `json:"plan,omitempty"`
	Answers  map[string]uint64 `json:"answers"` // by class: "2xx"
	MeanMS   float64           `json:"mean_ms"`
}

func (a *API) apis(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, APIs(a.d.Gateway))
	return nil
}

// APIs describes what a gateway serves.
func APIs(g *gateway.Gateway) []APIView {
	out := []APIView{}
	set := g.Active()
	if set == nil {
		return out
	}
	counts := map[gateway.OpName]*gateway.OpCounts{}
	g.Stats().Each(func(o *gateway.OpStats) { counts[o.OpName] = o.Counts() })
	group := func(r policy.EndpointRef) string {
		if r == 0 {
			return ""
		}
		return set.Endpoints[r-1].Name
	}
	for i := range set.APIs {
		p := &set.APIs[i]
		v := APIView{Name: p.Name, Version: p.Version, BasePath: orRoot(p.BasePath), Default: p.DefaultPath, Plan: p.Plan, Production: group(p.Production), Sandbox: group(p.Sandbox), Operations: []OperationView{}}
		for k := range p.Operations {
			o := &p.Operations[k]
			ov := OperationView{Method: o.Method, Template: o.Template, ID: o.ID, Secured: len(o.Security) > 0, Scopes: o.Scopes, Plan: o.Plan, Answers: map[string]uint64{}}
			if c := counts[gateway.OpName{API: p.Name, Version: p.Version, Method: o.Method, Template: o.Template}]; c != nil {
				var n uint64
				for class := range c.Classes {
					if k := c.Classes[class].Load(); k > 0 {
						ov.Answers[strconv.Itoa(class)+"xx"] = k
						n += k
					}
				}
				if n > 0 {
					ov.MeanMS = float64(c.Micros.Load()) / float64(n) / 1000
				}
			}
			v.Operations = append(v.Operations, ov)
		}
		out = append(out, v)
	}
	return out
}

func orRoot(p string) string {
	if p == "" {
		return "/"
	}
	return p
}
