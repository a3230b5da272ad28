package admin

import (
	"net/http"
	"slices"
	"strings"
	"tidegate/policy/throttle"
	"tidegate/store/audit"
	"tidegate/store/counters"
	"time"
)

// CounterView is one count of a limit.
type CounterView struct {
	Key     string     `json:"key"`
	Plan    string     `json:"plan,omitempty"`
	Level   string     `json:"level,omitempty"`
	Kind    string     `json:"kind,omitempty"`
	Limit   int64      `json:"limit"`
	Used    int64      `json:"used"`
	Durable int64      `json:"durable"` // units that are on disk
	Start   *time.Time `json:"window_start,omitempty"`
	End     *time.Time `json:"window_end,omitempty"`
	Shared  bool       `json:"shared,omitempty"`
}

func (a *API) counters(w http.ResponseWriter, r *http.Request) error {
	limit, err := number(r, "limit", 10_000)
	if err != nil {
		return err
	}
	plan := r.URL.Query().Get("plan")
	out := []CounterView{}
	a.d.Ledger.Rows(func(row counters.Row) bool {
		if plan != "" && row.Plan != plan {
			return true
		}
		v := CounterView{Key: row.Key.String(), Plan: row.Plan, Limit: row.Limit, Used: row.Used, Durable: row.Durable, Shared: row.Shared}
		if row.Plan != "" {
			v.Level, v.Kind = row.Level.String(), row.Kind.String()
		}
		if !row.End.IsZero() {
			v.Start, v.End = &row.Start, &row.End
		}
		out = append(out, v)
		return len(out) < limit
	})
	slices.SortFunc(out, func(x, y CounterView) int {
		if c := strings.Compare(x.Plan, y.Plan); c != 0 {
			return c
		}
		return strings.Compare(x.Key, y.Key)
	})
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (a *API) resetCounter(w http.ResponseWriter, r *http.Request) error {
	text := r.URL.Query().Get("key")
	key, err := throttle.ParseKey(text)
	if err != nil {
		return &badRequestError{err}
	}
	n, err := a.d.Ledger.Reset(a.d.Instant(), key)
	if err != nil {
		return err
	}
	if err := a.d.Audit(audit.Entry{Event: audit.Operator, Source: source(r), Detail: "counters reset: " + key.String()}); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"key": key.String(), "reset": n})
	return nil
}
