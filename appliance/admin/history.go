package admin

import (
	"fmt"
	"io"
	"net/http"
	"tidegate/store/audit"
	"tidegate/sync/bundle"
	"tidegate/sync/envelope"
	"tidegate/sync/trust"
	"time"
)

// HistoryView is one entry of the audit log.
type HistoryView struct {
	N      uint64    `json:"n"`
	Floor  time.Time `json:"floor"`
	System time.Time `json:"system,omitzero"`
	Uptime float64   `json:"uptime_seconds"`
	Event  string    `json:"event"`
	Code   string    `json:"code,omitempty"`
	Digest string    `json:"digest,omitempty"`
	Source string    `json:"source,omitempty"`
	Detail string    `json:"detail,omitempty"`
	Count  uint64    `json:"count,omitempty"`
	Hash   string    `json:"hash"`
}

func (a *API) history(w http.ResponseWriter, r *http.Request) error {
	n, err := number(r, "limit", 100)
	if err != nil {
		return err
	}
	records, err := audit.Tail(a.d.State, min(n, 1000))
	if err != nil {
		return err
	}
	out := []HistoryView{}
	for _, e := range records {
		out = append(out, HistoryView{
			N: e.N, Floor: e.Floor.UTC(), System: e.Wall, Uptime: e.Uptime.Seconds(), Event: string(e.Event), Code: string(e.Word),
			Digest: hexOf(e.Digest), Source: e.Source, Detail: e.Detail, Count: e.Count, Hash: hexOf(e.Hash[:]),
		})
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (a *API) exportHistory(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/vnd.tidegate.audit+cbor-seq")
	_, err := audit.Export(a.d.State, w)
	return err
}

func (a *API) enrol(w http.ResponseWriter, _ *http.Request) error {
	b, err := a.d.Enrol()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/vnd.tidegate.enroll+cbor-seq")
	_, err = w.Write(b)
	return err
}

func (a *API) trust(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, a.d.Status().Trust)
	return nil
}

func (a *API) installTrust(w http.ResponseWriter, r *http.Request) error {
	file, err := io.ReadAll(io.LimitReader(r.Body, bundle.MaxRoots*envelope.MaxRoot+4096))
	if err != nil {
		return err
	}
	var print trust.Digest
	if s := r.URL.Query().Get("fingerprint"); s != "" {
		d, err := bundle.ParseDigest(s)
		if err != nil {
			return err
		}
		print = trust.Digest(d)
	}
	report, err := a.d.Desk.InstallRoot(r.Context(), file, print)
	if err != nil {
		return err
	}
	a.note(source(r), fmt.Sprintf("trust root %s: version %d", report.Phase, a.d.Desk.Status().Root))
	writeJSON(w, http.StatusOK, OutcomeOf(report))
	return nil
}
