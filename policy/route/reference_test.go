package route_test

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"tidegate/policy"
	"tidegate/policy/fault"
	"tidegate/policy/route"

	"pgregory.net/rapid"
)

// reference is the rule as one would say it: of all templates that fit, the one with the
// most exact first segment, then second, and so on. It is slow and shares no code with the table.
func reference(ops []policy.Operation, path string) (template string, bad bool) {
	segs := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if segs[len(segs)-1] == "" {
		segs = segs[:len(segs)-1]
	}
	for i, s := range segs {
		s, _, _ = strings.Cut(s, ";")
		d, err := url.PathUnescape(s)
		if err != nil {
			return "", true
		}
		if d == "." || d == ".." {
			return "", true
		}
		if d == "" {
			return "", false
		}
		segs[i] = d
	}
	best := ""
	var bestRank []int
	for _, o := range ops {
		r, ok := rankOf(ops, o.Template, segs)
		if ok && (bestRank == nil || slices.Compare(r, bestRank) < 0) {
			best, bestRank = o.Template, r
		}
	}
	return best, false
}

func rankOf(ops []policy.Operation, tpl string, segs []string) ([]int, bool) {
	parts := strings.Split(strings.TrimPrefix(tpl, "/"), "/")
	if parts[len(parts)-1] == "" {
		parts = parts[:len(parts)-1]
	}
	rank := []int{}
	for i, p := range parts {
		if p == "*" {
			return append(rank, 1<<30), i < len(segs) || i == 0
		}
		if i >= len(segs) {
			return nil, false
		}
		switch {
		case !strings.Contains(p, "{"):
			if p != segs[i] {
				return nil, false
			}
			rank = append(rank, 0)
		case regexp.MustCompile(`^\{\w+\}$`).MatchString(p):
			rank = append(rank, 1<<29)
		default:
			lit := regexp.MustCompile(`\{\w+\}`).Split(p, -1)
			var re strings.Builder
			n := 0
			for k, l := range lit {
				if k > 0 {
					re.WriteString("(?s:.+?)")
				}
				re.WriteString(regexp.QuoteMeta(l))
				n += len(l)
			}
			if !regexp.MustCompile("^" + re.String() + "$").MatchString(segs[i]) {
				return nil, false
			}
			// More literal bytes first, then the order in which the patterns appear at this place.
			order := 0
			for k, o := range ops {
				if strings.HasPrefix(o.Template+"/", "/"+strings.Join(parts[:i+1], "/")+"/") {
					order = k
					break
				}
			}
			rank = append(rank, 10000-100*n+order)
		}
	}
	return rank, len(parts) == len(segs)
}

func TestTableAgreesWithTheReference(t *testing.T) {
	tplSeg := rapid.SampledFrom([]string{"a", "b", "ab", "{p}", "{p}.j", "r.{p}", "{p}-{q}"})
	reqSeg := rapid.SampledFrom([]string{"a", "b", "ab", "c", "%61", "a;m=1", "x.j", "r.j", "r.x", "1-2", "a%2Fb", "%2e", "..;x", "", "x%2Ej", "-", "1-", ".j", ";v"})
	rapid.Check(t, func(t *rapid.T) {
		var ops []policy.Operation
		for range rapid.IntRange(1, 8).Draw(t, "templates") {
			segs := rapid.SliceOfN(tplSeg, 0, 3).Draw(t, "template")
			for i := range segs { // names once per template
				segs[i] = strings.NewReplacer("{p}", "{p"+string(rune('0'+i))+"}", "{q}", "{q"+string(rune('0'+i))+"}").Replace(segs[i])
			}
			tpl := "/" + strings.Join(segs, "/")
			if rapid.Bool().Draw(t, "asterisk") {
				tpl = strings.TrimSuffix(tpl, "/") + "/*"
			}
			if !slices.ContainsFunc(ops, func(o policy.Operation) bool { return o.Template == tpl }) {
				ops = append(ops, policy.Operation{Method: "GET", Template: tpl})
			}
		}
		tab, err := route.New(&policy.Set{APIs: []policy.API{{Name: "a", Version: "1", Operations: ops}}})
		if err != nil {
			t.Fatal(err)
		}
		path := "/" + strings.Join(rapid.SliceOfN(reqSeg, 0, 4).Draw(t, "path"), "/")
		agree(t, tab, ops, path)
	})
}

type failer interface {
	Fatalf(format string, args ...any)
}

func agree(t failer, tab *route.Table, ops []policy.Operation, path string) {
	want, bad := reference(ops, path)
	m, err := tab.Match("h", "GET", path, false)
	var f *fault.Error
	switch {
	case bad:
		// The table stops at the first segment nothing matches: 404 is as good as 400 there.
		if !errors.As(err, &f) {
			t.Fatalf("%s: accepted as %s, the reference refuses it", path, m.Op.Template)
		}
	case want == "":
		if !errors.As(err, &f) || f.Fault.Status != 404 {
			t.Fatalf("%s: got %+v, %v; the reference finds nothing", path, m.Op, err)
		}
	case err != nil:
		t.Fatalf("%s: %v; the reference finds %s", path, err, want)
	case m.Op.Template != want:
		t.Fatalf("%s: got %s; the reference finds %s", path, m.Op.Template, want)
	}
}

func FuzzMatch(f *testing.F) {
	a := petstore()
	a.BasePath = ""
	var ops []policy.Operation
	for _, o := range a.Operations {
		if o.Method == "GET" && !strings.Contains(o.Template, "%") {
			ops = append(ops, o)
		}
	}
	a.Operations = ops
	tab, err := route.New(&policy.Set{APIs: []policy.API{a}})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"/", "/pet/7", "/pet/%2e%2e", "/files/a//b", "/1-2-3.x", "/a;b/c", "/%", "/report.%6a", "/x.json/d", "/;", "/.;/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if !strings.HasPrefix(path, "/") {
			return
		}
		if _, err := url.PathUnescape(path); err != nil {
			// An engine refuses bad escapes; the table only has to survive them.
			_, _ = tab.Match("h", "GET", path, false)
			return
		}
		agree(t, tab, ops, path)
	})
}
