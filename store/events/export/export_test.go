package export_test

import (
	"archive/zip"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"tidegate/store/events/batch"
	"tidegate/store/events/eventstest"
	"tidegate/store/events/export"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	began  = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	device = [16]byte{0xde, 1}
)

// batches packs each group of events into a batch of its own.
func batches(t testing.TB, groups ...[]batch.Event) export.Batches {
	t.Helper()
	var all []batch.Batch
	for i, events := range groups {
		var b batch.Builder
		for j := range events {
			b.Add(&events[j], began, batch.Stamp{Unix: began, Quality: batch.Holdover})
		}
		bs, err := b.Pack()
		if err != nil {
			t.Fatal(err)
		}
		bs[0].Epoch, bs[0].Seq = batch.Epoch{7}, uint64(i)+1
		all = append(all, bs...)
	}
	return func(yield func(*batch.Batch, error) bool) {
		for i := range all {
			if !yield(&all[i], nil) {
				return
			}
		}
	}
}

func call() batch.Event {
	return batch.Event{
		Time: began.Add(1500 * time.Microsecond), API: "meters", Version: "1.0.0", Context: "/meters/1.0.0", Method: "GET",
		Template: "/readings/{id}", Operation: "readReading", Publisher: "admin", Upstream: "http://10.0.0.5:8080", Plan: "Gold",
		ApplicationID: "12", ApplicationName: "line-4", ApplicationOwner: "integrator@plant.example", ApplicationTier: "Unlimited",
		ConsumerKey: "Xk3Tz0pQn7uVfw1Yb", KeyType: "PRODUCTION", User: "ann@carbon.super", Status: 200, Protocol: batch.HTTPS,
		Flags: batch.TokenCached, Total: 12_345 * time.Microsecond, Backend: 11_000 * time.Microsecond,
		Security: 1_100 * time.Microsecond, Throttling: 2 * time.Microsecond, BytesOut: 512,
		Client: netip.MustParseAddr("10.20.3.0"), RequestID: [16]byte{0x11, 15: 0x22},
	}
}

func refused(status uint16, fault uint32, level batch.Level) batch.Event {
	e := call()
	e.Status, e.Fault, e.Level = status, fault, level
	return e
}

func TestNDJSON(t *testing.T) {
	bare := batch.Event{Time: began.Add(time.Second), Status: 401, Fault: 900902, Level: batch.LevelAuth, User: "<\"é\u2028>"}
	losses := []batch.Loss{
		{Class: batch.Detail, Epoch: batch.Epoch{7}, From: 3, To: 9, Known: true, Calls: 120, First: began, Last: began.Add(time.Minute), Reason: batch.ReasonCap},
		{Class: batch.Detail, Epoch: batch.Epoch{7}, First: began, Last: began, Reason: batch.ReasonUnclean},
	}
	var out bytes.Buffer
	tally, err := export.NDJSON(&out, losses, batches(t, []batch.Event{call(), bare}), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if tally.Events != 2 {
		t.Errorf("tally %+v, want 2 events", tally)
	}
	want := `{"loss":"cap","class":"detail","calls":120,"first":"2026-11-25T12:00:00Z","last":"2026-11-25T12:01:00Z","epoch":"0700000000000000","from":3,"to":9}
{"loss":"unclean","class":"detail","first":"2026-11-25T12:00:00Z","last":"2026-11-25T12:00:00Z","epoch":"0700000000000000"}
{"time":"2026-11-25T12:00:00.001500Z","clock":"holdover","api":"meters","version":"1.0.0","context":"/meters/1.0.0","method":"GET","template":"/readings/{id}","operation":"readReading","publisher":"admin","status":200,"application_id":"12","application":"line-4","application_owner":"integrator@plant.example","application_plan":"Unlimited","consumer_key":"Xk3Tz0pQn7uVfw1Yb","key_type":"PRODUCTION","plan":"Gold","user":"ann@carbon.super","client":"10.20.3.0","protocol":"https","upstream":"http://10.0.0.5:8080","total_us":12345,"backend_us":11000,"security_us":1100,"throttling_us":2,"bytes_out":512,"token_cached":1,"request_id":"11000000000000000000000000000022","epoch":"0700000000000000","batch":1}
{"time":"2026-11-25T12:00:01.000000Z","clock":"holdover","status":401,"fault":900902,"refused_by":"auth","user":"<\"é\u2028>","protocol":"http","epoch":"0700000000000000","batch":1,"index":1}
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("lines differ (-want +got):\n%s", diff)
	}
	for line := range strings.Lines(out.String()) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Errorf("%v: %s", err, line)
		}
	}
}

func TestCSV(t *testing.T) {
	odd := call()
	odd.User, odd.API, odd.Template, odd.UserAgent = `=HYPERLINK("http://x")`, "-1+1", "/a,b\"c\n", " @sum"
	var out bytes.Buffer
	if _, err := export.CSV(&out, batches(t, []batch.Event{call(), odd}), time.Time{}); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(out.Bytes())).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 3 {
		t.Fatalf("%d rows, want a head and 2", len(rows))
	}
	got := map[string]string{}
	for i, name := range rows[0] {
		got[name] = rows[2][i]
	}
	for name, want := range map[string]string{
		"user": `'=HYPERLINK("http://x")`, "api": "'-1+1", "template": "/a,b\"c\n", "user_agent": "' @sum",
		"total_us": "12345", "status": "200", "time": "2026-11-25T12:00:00.001500Z",
	} {
		if got[name] != want {
			t.Errorf("cell %s is %q, want %q", name, got[name], want)
		}
	}
	if n := strings.Count(out.String(), "\r\n"); n < 3 {
		t.Errorf("%d lines end with CR LF, want all", n)
	}
}

func TestSince(t *testing.T) {
	mix := eventstest.Mix(300, began, 1)
	since := mix[120].Time
	var out bytes.Buffer
	tally, err := export.NDJSON(&out, nil, batches(t, mix[:100], mix[100:200], mix[200:]), since)
	if err != nil {
		t.Fatal(err)
	}
	if tally.Events != 180 || tally.Earlier != 120 || strings.Count(out.String(), "\n") != 180 {
		t.Errorf("tally %+v with %d lines, want 180 events and 120 earlier", tally, strings.Count(out.String(), "\n"))
	}
	// Files of usage data hold whole batches.
	files, tally := usage(t, export.Stream300, batches(t, mix[:100], mix[100:200], mix[200:]), since)
	if len(files) != 2 || tally.Earlier != 100 || tally.Events+tally.Refused != 200 {
		t.Errorf("%d files, tally %+v; want the two batches that reach beyond", len(files), tally)
	}
}

func TestAReadErrorEndsAnExport(t *testing.T) {
	broken := errors.New("disk gone")
	src := func(yield func(*batch.Batch, error) bool) { yield(nil, broken) }
	x := export.WSO2{Create: func(string) (io.WriteCloser, error) { return nil, errors.New("not reached") }}
	_, ndjson := export.NDJSON(io.Discard, nil, src, time.Time{})
	_, table := export.CSV(io.Discard, src, time.Time{})
	_, wso2 := x.Export(src, time.Time{})
	for name, err := range map[string]error{"ndjson": ndjson, "csv": table, "wso2": wso2} {
		if !errors.Is(err, broken) {
			t.Errorf("%s: error %v, want %v", name, err, broken)
		}
	}
}

type file struct{ bytes.Buffer }

func (*file) Close() error { return nil }

// usage exports and returns the zips by name.
func usage(t testing.TB, v export.StreamVersion, src export.Batches, since time.Time) (map[string][]byte, export.Tally) {
	t.Helper()
	made := map[string]*file{}
	x := export.WSO2{Device: device, Stream: v, Host: "site-42", Label: "plant", Create: func(name string) (io.WriteCloser, error) {
		made[name] = new(file)
		return made[name], nil
	}}
	tally, err := x.Export(src, since)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for name, f := range made {
		files[name] = f.Bytes()
	}
	if len(files) != tally.Files {
		t.Errorf("%d files, the tally says %d", len(files), tally.Files)
	}
	return files, tally
}

// content returns the lines of the only file.
func content(t testing.TB, files map[string][]byte) []string {
	t.Helper()
	for _, b := range files {
		z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if len(z.File) != 1 || z.File[0].Name != "api-usage-data.dat" {
			t.Fatalf("zip holds %v", z.File)
		}
		f, err := z.File[0].Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return strings.SplitAfter(strings.TrimSuffix(string(data), "\n"), "\n")
	}
	t.Fatal("no file")
	return nil
}

func TestWSO2Lines(t *testing.T) {
	src := batches(t, []batch.Event{
		call(), refused(429, 900804, batch.LevelSubscription), refused(504, 101504, batch.LevelUpstream),
		refused(401, 900901, batch.LevelAuth), refused(404, 404, batch.LevelRoute),
	})
	files, tally := usage(t, export.Stream300, src, time.Time{})
	if tally.Events != 3 || tally.Refused != 2 {
		t.Errorf("tally %+v, want 3 events and 2 without a place", tally)
	}
	for name := range files {
		if want := "api-usage-data.dat." + strconv.FormatInt(began.UnixMilli(), 10) + "."; !strings.HasPrefix(name, want) || !strings.HasSuffix(name, ".zip") {
			t.Errorf("file %s, want %s<uuid>.zip", name, want)
		}
	}
	const id = "11000000-0000-0000-0000-000000000022"
	head := func(stream, key string) string {
		return "streamId-KS-org.wso2.apimgt.statistics." + stream + ":3.0.0-ES-timestamp-KS-1795608000001-ES-metadata-KS-{\"" + key +
			"\":\"PRODUCTION\",\"correlationID\":\"" + id + "\"}-ES-correlationData-KS-null-ES-payLoadData-KS-"
	}
	want := []string{
		head("request", "clientType") + strings.Join([]string{
			"Xk3Tz0pQn7uVfw1Yb", "line-4", "12", "integrator@plant.example",
			"/meters/1.0.0", "meters", "1.0.0", "/readings/{id}", "/readings/{id}", "GET", "admin", "carbon.super", "Gold", "site-42",
			"ann@carbon.super", "carbon.super", "10.20.3.0", "__unknown__", "1795608000001", "false", "12", "1", "11", "false", "512",
			"https", "200", "http://10.0.0.5:8080", "1", "0", "0", "0", "11", "0", "MICRO", "plant",
		}, "-OS-") + "\n",
		head("throttle", "keyType") + strings.Join([]string{
			"ann@carbon.super", "carbon.super", "meters", "1.0.0", "/meters/1.0.0",
			"admin", "carbon.super", "12", "line-4", "integrator@plant.example", "SUBSCRIPTION_LIMIT_EXCEEDED", "MICRO",
			"1795608000001", "site-42",
		}, "-OS-") + "\n",
		head("fault", "keyType") + strings.Join([]string{
			"Xk3Tz0pQn7uVfw1Yb", "meters", "1.0.0", "/meters/1.0.0", "/readings/{id}",
			"GET", "admin", "ann@carbon.super", "carbon.super", "carbon.super", "site-42", "12", "line-4", "https", "101504",
			"Connection timed out", "1795608000001",
		}, "-OS-"),
	}
	if diff := cmp.Diff(want, content(t, files)); diff != "" {
		t.Errorf("lines differ (-want +got):\n%s", diff)
	}
}

func TestWSO2FieldsPerVersion(t *testing.T) {
	for version, want := range map[export.StreamVersion][]int{
		export.Stream300: {36, 14, 17}, export.Stream310: {37, 15, 18}, export.Stream320: {37, 17, 20},
	} {
		files, _ := usage(t, version, batches(t, []batch.Event{
			call(), refused(429, 900803, batch.LevelApplication), refused(503, 303001, batch.LevelUpstream),
		}), time.Time{})
		for i, line := range content(t, files) {
			if got := strings.Count(line, "-OS-") + 1; got != want[i] {
				t.Errorf("%s line %d has %d fields, want %d", version, i, got, want[i])
			}
			if !strings.Contains(line, ":"+string(version)+"-ES-") {
				t.Errorf("%s line %d names another version: %s", version, i, line)
			}
		}
	}
}

func TestARepeatedWSO2ExportIsTheSame(t *testing.T) {
	mix := eventstest.Mix(200, began, 4)
	first, _ := usage(t, export.Stream300, batches(t, mix[:100], mix[100:]), time.Time{})
	again, _ := usage(t, export.Stream300, batches(t, mix[:100], mix[100:]), time.Time{})
	if len(first) != 2 {
		t.Errorf("%d files of two batches", len(first))
	}
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("exports differ:\n%s", diff)
	}
}

func FuzzWSO2ValuesKeepTheirPlace(f *testing.F) {
	f.Add("a-OS-b", "c-KS", "-ES-\r\n")
	f.Add("-KS-ES-OS-", "x-O", "S-y")
	f.Add("-KS-KS-KS", "-", "OS-")
	f.Fuzz(func(t *testing.T, name, user, template string) {
		e := call()
		e.ApplicationName, e.User, e.Template = name, user, template
		files, _ := usage(t, export.Stream300, batches(t, []batch.Event{e}), time.Time{})
		lines := content(t, files)
		if len(lines) != 1 || strings.ContainsAny(strings.TrimSuffix(lines[0], "\n"), "\r\n") {
			t.Fatalf("%d lines: %q", len(lines), lines)
		}
		pairs := strings.Split(lines[0], "-ES-")
		if len(pairs) != 5 {
			t.Fatalf("%d parts, want 5: %q", len(pairs), lines[0])
		}
		for _, p := range pairs {
			if n := strings.Count(p, "-KS-"); n != 1 {
				t.Fatalf("%d key separators in %q", n, p)
			}
		}
		fields := strings.Split(pairs[4], "-OS-")
		if len(fields) != 36 {
			t.Fatalf("%d fields, want 36: %q", len(fields), fields)
		}
		if fields[9] != "GET" || fields[35] != "plant" {
			t.Fatalf("fields moved: %q", fields)
		}
	})
}
