package fault_test

import (
	"encoding/json"
	"testing"
	"tidegate/policy/fault"
)

func TestBodiesAreThoseOfWSO2(t *testing.T) {
	for _, tc := range []struct {
		f    *fault.Fault
		want string
	}{
		{fault.MissingCredentials, `{"fault":{"code":900902, "message":"Missing Credentials", "description":"Missing Credentials. Make sure your API request provides required credentials"}}`},
		{fault.ResourceForbidden, `{"fault":{"code":900908, "message":"Resource forbidden ", "description":"Resource forbidden "}}`},
		{fault.InvalidFormat, `{"fault":{"code":900912, "message":"Invalid Format", "description":"Invalid Format. Make sure you have given the credentials in correct format with \":\" character"}}`},
		{fault.ThrottledSubscription, `{"fault":{"code":900804, "message":"Message throttled out", "description":"You have exceeded your quota"}}`},
		{fault.NoSandboxBackend, `{"ERROR_CODE":"900901", "ERROR_MESSAGE":"Sandbox key offered to the API with no sandbox endpoint"}`},
		{fault.BackendBroken, `{"fault":{"code":101503, "message":"Runtime Error", "description":"Error connecting to the back end"}}`},
		{fault.NotFound, `{"code":404, "type":"Status report", "message":"Runtime Error", "description":"No matching resource found for given API Request"}`},
		{fault.MethodNot, `{"code":405, "type":"Status report", "message":"Runtime Error", "description":"Method not allowed for given API resource"}`},
	} {
		got := string(tc.f.AppendWSO2(nil))
		if got != tc.want {
			t.Errorf("code %d:\n got %s\nwant %s", tc.f.Code, got, tc.want)
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(got), &v); err != nil {
			t.Errorf("code %d: not JSON: %v", tc.f.Code, err)
		}
	}
}

func TestProblemIsJSONWhateverTheDescription(t *testing.T) {
	f := fault.BadRequest.With("a \"quoted\"\n<tag>\x01")
	var v struct {
		Type, Title, Detail string
		Status, Code        int
	}
	if err := json.Unmarshal(f.AppendProblem(nil), &v); err != nil {
		t.Fatal(err)
	}
	if v.Type != "urn:tidegate:fault:400" || v.Status != 400 || v.Detail != "a \"quoted\"\n<tag>\x01" {
		t.Errorf("got %+v", v)
	}
}
