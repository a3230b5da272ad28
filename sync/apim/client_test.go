package apim_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/policy/wso2"
	"tidegate/sync/apim"
	"tidegate/sync/apim/apimtest"

	"github.com/google/go-cmp/cmp"
)

func client(t *testing.T, s *apimtest.Server) *apim.Client {
	t.Helper()
	h, err := apim.NewHTTPClient(s.CA, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.CloseIdleConnections)
	return &apim.Client{Server: s.URL, HTTP: h, User: apimtest.User, Password: apimtest.Password, Version: apim.Auto}
}

func TestCallsOf26AreThoseOfTheOriginalInItsOrder(t *testing.T) {
	s := apimtest.New(t, "2.6")
	if _, err := client(t, s).Fetch(t.Context(), apim.Selector{Label: "quay-7"}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"POST /client-registration/v0.14/register",
		"POST /oauth2/token",
		"GET /api/am/publisher/v0.14/apis?query=label:quay-7%20status:PUBLISHED&expand=true&limit=500",
		"GET /api/am/admin/v0.14/throttling/policies/application",
		"GET /api/am/admin/v0.14/throttling/policies/subscription",
		"GET /api/am/admin/v0.14/throttling/policies/advanced",
		"GET /api/am/admin/v0.14/throttling/policies/custom",
		"GET /api/am/admin/v0.14/throttling/blacklist",
		"GET /oauth2/jwks",
	}
	if d := cmp.Diff(want, s.Calls()); d != "" {
		t.Error(d)
	}
}

func TestVersionIsFoundOrNamed(t *testing.T) {
	for _, v := range apim.Versions()[1:] {
		for _, asked := range []string{"auto", v} {
			s := apimtest.New(t, v)
			c := client(t, s)
			c.Version = apim.Version(asked)
			x, err := c.Fetch(t.Context(), apim.Selector{Label: "quay-7"})
			if err != nil {
				t.Errorf("%s as %s: %v", v, asked, err)
				continue
			}
			if x.Version != v {
				t.Errorf("%s as %s: took it for %s", v, asked, x.Version)
			}
		}
	}
}

func TestPagingGoesToTheEnd(t *testing.T) {
	for name, prepare := range map[string]func(*apimtest.Server){
		"with pagination":                              func(*apimtest.Server) {},
		"without, full pages":                          func(s *apimtest.Server) { s.NoPagination = true },
		"without, by next":                             func(s *apimtest.Server) { s.NoPagination, s.PageSize = true, 100 },
		"smaller pages":                                func(s *apimtest.Server) { s.PageSize = 173 },
		"a last page that is full":                     func(s *apimtest.Server) { s.APIs = s.APIs[:1000] },
		"a last page that is full, without pagination": func(s *apimtest.Server) { s.APIs, s.NoPagination = s.APIs[:1000], true },
	} {
		for _, version := range []string{"2.6", "3.2"} {
			if version == "3.2" && name != "with pagination" {
				continue // the same code; its two calls for each API take long
			}
			s := apimtest.New(t, version)
			s.Many(1001, 1)
			prepare(s)
			if version == "3.2" {
				s.APIs = s.APIs[:min(len(s.APIs), 501)] // two more calls for each
			}
			x, err := client(t, s).Fetch(t.Context(), apim.Selector{Label: "quay-7"})
			if err != nil {
				t.Errorf("%s, %s: %v", version, name, err)
				continue
			}
			if len(x.APIs) != len(s.APIs) {
				t.Errorf("%s, %s: got %d APIs, want %d", version, name, len(x.APIs), len(s.APIs))
			}
		}
	}
}

func TestServerThatIgnoresOffsetIsNotTrusted(t *testing.T) {
	s := apimtest.New(t, "2.6")
	s.Many(600, 1)
	s.IgnoreOffset = true
	_, err := client(t, s).Fetch(t.Context(), apim.Selector{Label: "quay-7"})
	if !refusal.Is(err, refusal.Format) || !strings.Contains(err.Error(), "comes twice") {
		t.Errorf("got %v", err)
	}
}

func TestNameMustBeEqual(t *testing.T) {
	s := apimtest.New(t, "2.6")
	s.Many(60, 1) // more than a page of the server's own size
	for i := range s.APIs {
		s.APIs[i]["name"] = fmt.Sprintf("Meter%d", i)
	}
	x, err := client(t, s).Fetch(t.Context(), apim.Selector{Name: "Meter5", Version: "1.0"})
	if err != nil {
		t.Fatal(err)
	}
	if len(x.APIs) != 1 || x.APIs[0].Object.Text("name") != "Meter5" {
		t.Errorf("got %d APIs", len(x.APIs))
	}
}

func TestReplyThatIsTooLargeIsRefused(t *testing.T) {
	s := apimtest.New(t, "2.6")
	s.Fail("GET /api/am/publisher/", apimtest.Fault{Status: 200, Body: `{"list":[], "x":"` + strings.Repeat("a", apim.MaxReply) + `"}`})
	_, err := client(t, s).Fetch(t.Context(), apim.Selector{Label: "quay-7"})
	if !refusal.Is(err, refusal.Limit) {
		t.Errorf("got %v", err)
	}
}

func TestCancelledFetchEnds(t *testing.T) {
	s := apimtest.New(t, "2.6")
	ctx, cancel := context.WithCancel(t.Context())
	c := client(t, s)
	c.Progress = func(string) { cancel() }
	if _, err := c.Fetch(ctx, apim.Selector{Label: "quay-7"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestPlansThatAreNotGivenOutAreNamed(t *testing.T) {
	s := apimtest.New(t, "4.0")
	s.Fail("GET /api/am/admin/v2/throttling/policies/advanced", apimtest.Fault{Status: 403})
	s.NoKeys = true
	x, err := client(t, s).Fetch(t.Context(), apim.Selector{Label: "quay-7"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(x.Unfetched, wso2.KindResource) || x.JWKS != nil || len(x.Warnings) != 1 {
		t.Errorf("unfetched %v, warnings %v", x.Unfetched, x.Warnings)
	}
}

func TestAddressOfAServer(t *testing.T) {
	for in, want := range map[string]string{
		"https://apim.example:9443":      "https://apim.example:9443",
		"https://apim.example:9443/":     "https://apim.example:9443",
		"https://proxy.example/apim/":    "https://proxy.example/apim",
		"http://apim.example":            "",
		"apim.example:9443":              "",
		"https://":                       "",
		"https://u:p@apim.example":       "",
		"https://apim.example?x=1":       "",
		"https://apim.example:9443/#top": "",
		"https://apim.example:port":      "",
	} {
		got, err := apim.CheckURL(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
	}
}

func TestAuthorityMustBePEM(t *testing.T) {
	if _, err := apim.NewHTTPClient([]byte("not PEM"), false); err == nil {
		t.Error("taken")
	}
}
