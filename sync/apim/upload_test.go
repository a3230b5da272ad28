package apim_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"tidegate/sync/apim"
	"tidegate/sync/apim/apimtest"
)

func usageFile(t *testing.T, lines string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	f, err := z.Create("api-usage-data.dat")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(lines)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUploadIsRepeatedUntilTheReceiverHasTheFile(t *testing.T) {
	const name = "api-usage-data.dat.1.00000000-0000-5000-8000-000000000001.zip"
	for what, tc := range map[string]struct {
		plan     []apimtest.Answer
		attempts int
		had      bool
		want     string // of the error
		posted   int
		stored   int
	}{
		"stored":                 {nil, 3, false, "", 1, 1},
		"duplicate":              {[]apimtest.Answer{{Status: 500, Body: `{"message":"A duplicate entry found for the file x"}`}}, 3, true, "", 1, 0},
		"500, then stored":       {[]apimtest.Answer{{Status: 500, Body: "database down"}}, 3, false, "", 2, 1},
		"500 for good":           {[]apimtest.Answer{{Status: 500}, {Status: 500}}, 2, false, "status 500", 2, 0},
		"lost, then stored":      {[]apimtest.Answer{{Lose: true}}, 2, false, "", 2, 1},
		"stored, answer lost":    {[]apimtest.Answer{{Cut: func() {}}}, 2, true, "", 2, 1},
		"201 is the only thanks": {[]apimtest.Answer{{Status: 200}}, 1, false, "status 200", 1, 0},
		"refused user":           {[]apimtest.Answer{{Status: 401}}, 5, false, "invalid user credentials", 1, 0},
		"one attempt":            {[]apimtest.Answer{{Lose: true}}, 1, false, "cannot connect", 1, 0},
	} {
		r := apimtest.NewReceiver(t)
		r.Plan(tc.plan...)
		h, err := apim.NewHTTPClient(r.CA, false)
		if err != nil {
			t.Fatal(err)
		}
		u := &apim.Uploader{
			URL: r.URL, HTTP: h, User: apimtest.User, Password: apimtest.Password, Attempts: tc.attempts,
			Wait: func(context.Context, int) error { return nil },
		}
		had, err := u.Send(t.Context(), name, usageFile(t, "a line\n"))
		h.CloseIdleConnections()
		switch {
		case tc.want == "" && err != nil, tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: error %v, want %q", what, err, tc.want)
		case had != tc.had:
			t.Errorf("%s: had it: %t", what, had)
		}
		if r.Posted() != tc.posted || len(r.Lines()) != tc.stored {
			t.Errorf("%s: %d uploads and %d lines stored, want %d and %d", what, r.Posted(), len(r.Lines()), tc.posted, tc.stored)
		}
	}
}

func TestUploadThatIsCalledOffEndsInItsWait(t *testing.T) {
	r := apimtest.NewReceiver(t)
	r.Plan(apimtest.Answer{Status: 500}, apimtest.Answer{Status: 500})
	h, err := apim.NewHTTPClient(r.CA, false)
	if err != nil {
		t.Fatal(err)
	}
	defer h.CloseIdleConnections()
	ctx, cancel := context.WithCancel(t.Context())
	u := &apim.Uploader{
		URL: r.URL, HTTP: h, User: apimtest.User, Password: apimtest.Password, Attempts: 9,
		Wait: func(ctx context.Context, _ int) error { cancel(); return ctx.Err() },
	}
	if _, err := u.Send(ctx, "x.zip", usageFile(t, "x\n")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
