package admin_test

import (
	"net/http"
	"strings"
	"testing"
	"tidegate/appliance/admin"
	"tidegate/appliance/config"
	"tidegate/appliance/devicetest"
)

// The trace that a call belongs to (W3C Trace Context) is in its record: calls are found by it on the
// page, and it is in what is exported.
func TestTheTraceOfACallIsInItsRecord(t *testing.T) {
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	d := serving(t, func(c *config.Config) { c.Events.RequestID = true })
	devicetest.JSON[admin.CallsView](t, d, "/v1/calls") // somebody looks
	get(t, http.DefaultClient, d.URL("/echo/1.0/things/1"), "Traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	for _, broken := range []string{
		"00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01",
		"00-" + strings.ToUpper(trace) + "-00f067aa0ba902b7-01",
		trace,
	} {
		get(t, http.DefaultClient, d.URL("/echo/1.0/things/2"), "Traceparent", broken)
	}
	v := devicetest.JSON[admin.CallsView](t, d, "/v1/calls?q="+trace)
	if len(v.Calls) != 1 || v.Calls[0].TraceID != trace {
		t.Errorf("calls of the trace: %+v", v.Calls)
	}
	for _, c := range devicetest.JSON[admin.CallsView](t, d, "/v1/calls").Calls {
		if c.TraceID != "" && c.TraceID != trace {
			t.Errorf("a broken field gave the trace %q", c.TraceID)
		}
	}
	for _, format := range []string{"ndjson", "csv"} {
		if _, text := d.Socket(t, "GET", "/v1/events?format="+format, ""); strings.Count(text, trace) != 1 {
			t.Errorf("the trace is %d times in %s", strings.Count(text, trace), format)
		}
	}
}
