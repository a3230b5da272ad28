package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A sample is one measurement.
type sample struct {
	Part     string  `json:"part"`
	Program  string  `json:"program"`
	Scenario string  `json:"scenario"`
	Round    int     `json:"round"`
	Conns    int     `json:"connections"`
	Rate     float64 `json:"rate,omitempty"`
	Calls    uint64  `json:"calls"`
	Failed   uint64  `json:"failed"`
	CPU      float64 `json:"cpu_us"` // of the program, per call
	PerSec   float64 `json:"calls_per_second"`
	P50      float64 `json:"p50_us"`
	P90      float64 `json:"p90_us"`
	P99      float64 `json:"p99_us"`
	P999     float64 `json:"p999_us"`
	Most     float64 `json:"max_us"`
	RSS      float64 `json:"rss_mib"`
	Size     int     `json:"size,omitempty"` // what grows
}

// report is everything that is written down.
type report struct {
	Date    string             `json:"date"`
	CPU     string             `json:"cpu"`
	Cores   int                `json:"cores"`
	Kernel  string             `json:"kernel"`
	Load    string             `json:"load_average"` // at the start: what else the machine did
	Samples []sample           `json:"samples"`
	Figures map[string]float64 `json:"figures"` // single ones, by name
}

func (r *report) begin() {
	r.Date = time.Now().UTC().Format(time.RFC3339)
	r.Cores = runtime.NumCPU()
	r.Figures = map[string]float64{}
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			r.CPU = strings.TrimSpace(v)
			break
		}
	}
	if out, err := exec.Command("uname", "-r").Output(); err == nil {
		r.Kernel = strings.TrimSpace(string(out))
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.Load = strings.TrimSpace(string(b))
	}
	fmt.Printf("%s · %s, %d cores · Linux %s · load average %s\n", r.Date, r.CPU, r.Cores, r.Kernel, r.Load)
}

func (r *report) write(name string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, b, 0o644)
}

// median returns the median of one figure over the rounds; 0 without a sample.
func (r *report) median(part, program, scenario string, size int, of func(*sample) float64) float64 {
	return medianOf(r.values(part, program, scenario, size, of))
}

// least returns the least of one figure over the rounds, the one that was disturbed least; 0 without a sample.
func (r *report) least(part, program, scenario string, size int, of func(*sample) float64) float64 {
	v := r.values(part, program, scenario, size, of)
	if len(v) == 0 {
		return 0
	}
	return slices.Min(v)
}

func (r *report) values(part, program, scenario string, size int, of func(*sample) float64) (v []float64) {
	for i := range r.Samples {
		s := &r.Samples[i]
		if s.Part == part && s.Program == program && s.Scenario == scenario && s.Size == size {
			v = append(v, of(s))
		}
	}
	return v
}

func medianOf(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// table prints rows under a head, in Markdown.
func (w *world) table(head []string, rows [][]string) {
	w.say("| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, r := range rows {
		w.say("| %s |\n", strings.Join(r, " | "))
	}
}

// num prints a figure, a dash for none.
func num(v float64, digits int) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.*f", digits, v)
}
