package admin

import (
	"cmp"
	"fmt"
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

// counters answers with counts: by plan and key, or with sort=share the fullest first.
func (a *API) counters(w http.ResponseWriter, r *http.Request) error {
	limit, err := number(r, "limit", 10_000)
	if err != nil {
		return err
	}
	var order func(x, y CounterView) int
	switch sort := r.URL.Query().Get("sort"); sort {
	case "", "plan":
		order = byPlan
	case "share":
		order = byShare
	default:
		return &badRequestError{fmt.Errorf("sort %q is not one of plan, share", sort)}
	}
	plan := r.URL.Query().Get("plan")
	out := []CounterView{}
	cut := func() {
		slices.SortFunc(out, order)
		out = out[:min(len(out), limit)]
	}
	a.d.Ledger.Rows(func(row counters.Row) bool {
		if plan != "" && row.Plan != plan {
			return true
		}
		if out = append(out, counterView(row)); len(out) >= 2*limit+1024 {
			cut() // what is kept is bounded, however many counts there are
		}
		return true
	})
	cut()
	writeJSON(w, http.StatusOK, out)
	return nil
}

func byPlan(x, y CounterView) int {
	return cmp.Or(strings.Compare(x.Plan, y.Plan), strings.Compare(x.Level, y.Level), strings.Compare(x.Key, y.Key))
}

func byShare(x, y CounterView) int {
	return cmp.Or(cmp.Compare(y.share(), x.share()), byPlan(x, y))
}

// share is how much of the limit is used.
func (v *CounterView) share() float64 {
	if v.Limit <= 0 {
		return 0
	}
	return float64(v.Used) / float64(v.Limit)
}

func counterView(row counters.Row) CounterView {
	v := CounterView{Key: row.Key.String(), Plan: row.Plan, Limit: row.Limit, Used: row.Used, Durable: row.Durable, Shared: row.Shared}
	if row.Plan != "" {
		v.Level, v.Kind = row.Level.String(), row.Kind.String()
	}
	if !row.End.IsZero() {
		v.Start, v.End = &row.Start, &row.End
	}
	return v
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
