package wso2

import (
	"testing"
	"testing/fstest"
	"tidegate/policy/refusal"
	"tidegate/policy/wso2/wso2test"
)

// foreign bytes end in a result or in an error with a word, never in a panic.
func wantWord(t *testing.T, err error) {
	t.Helper()
	if _, ok := refusal.Of(err); err != nil && !ok {
		t.Fatalf("an error without a word: %v", err)
	}
}

func FuzzReplies(f *testing.F) {
	for _, name := range []string{"apis-by-label.json", "advanced-policies.json", "subscription-policies.json", "custom-rules.json", "block-conditions.json", "v4/deny-policies.json", "v4/subscription-policies.json"} {
		f.Add(wso2test.Reply(name))
	}
	f.Add([]byte("<html>"))
	f.Add([]byte(`{"list":[{"name":"A","version":"1","context":"/a","apiDefinition":"{}","endpointConfig":"{\"endpoint_type\":\"http\"}"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		l, err := ParseList("list", body)
		wantWord(t, err)
		if err != nil {
			return
		}
		x := &Export{
			Server: "https://x", Version: "2.6", Label: "l", Application: l.Items, Subscription: l.Items, Advanced: l.Items, Custom: l.Items, Blocked: l.Items,
			DataAPIs: l.Items, Applications: l.Items, Subscriptions: l.Items, Keys: l.Items,
		}
		_, err = Convert(x, nil)
		wantWord(t, err)
		x = &Export{Server: "https://x", Version: "2.6", Label: "l"}
		for _, o := range l.Items {
			x.APIs = append(x.APIs, APISource{Object: o})
		}
		r, err := Convert(x, nil)
		wantWord(t, err)
		if err != nil {
			return
		}
		c, err := Plan(fstest.MapFS{}, r, nil, Lock{Source: "https://x"}, false)
		if err != nil {
			t.Fatal(err)
		}
		files := fstest.MapFS{}
		for _, w := range c.Write {
			files[w.Name] = &fstest.MapFile{Data: w.Body}
		}
		lock, err := ParseLock(files[LockFile].Data)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Plan(files, r, lock, Lock{Source: "https://x"}, false)
		if err != nil || again.Any() {
			t.Fatalf("the same again changes %v, %v", again, err)
		}
	})
}

func FuzzArchive(f *testing.F) {
	f.Add(wso2test.Archive("archive-2.6"))
	f.Add(wso2test.Archive("archive-4.x"))
	f.Add(wso2test.Zip(map[string]string{"p.yaml": "type: throttling policy\nsubtype: custom rule\ndata: {policyName: x}\n"}))
	f.Add(wso2test.Zip(map[string]string{"deployments.json": `{"data":{"deployments":[{"apiFile":"x.zip"}]}}`}))
	f.Fuzz(func(t *testing.T, body []byte) {
		x, err := ParseArchive("x.zip", body)
		wantWord(t, err)
		if err == nil {
			_, err = Convert(x, nil)
			wantWord(t, err)
		}
		_, err = ParseDeployments("export", body)
		wantWord(t, err)
	})
}

func FuzzConfiguration(f *testing.F) {
	f.Add(wholeConf)
	f.Add("[a]\nb=1\n[A]\nb=2\nc.d=3")
	f.Add("[[jwtTokenConfig]]\nissuer=1\nclaims=[1]")
	f.Add("jwtTokenConfig=1\nb7a=2")
	f.Fuzz(func(t *testing.T, conf string) {
		_, err := ReadMicrogateway("p", fstest.MapFS{}, "micro-gw.conf", []byte(conf), nil)
		wantWord(t, err)
	})
}
