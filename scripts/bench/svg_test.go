package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestPlotsAreWellFormedAndHoldEveryPoint(t *testing.T) {
	for _, points := range [][][2]float64{nil, {{1, 0}}, {{1, 20}, {10, 21.5}, {100_000, 25}}} {
		var b strings.Builder
		drawSVG(&b, "a < b & c", "keys", []curve{{"µs", points}, {"MiB", points}})
		circles := 0
		d := xml.NewDecoder(strings.NewReader(b.String()))
		for {
			tok, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in %s", err, b.String())
			}
			if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "circle" {
				circles++
			}
		}
		if circles != 2*len(points) || strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "Inf") {
			t.Errorf("%d circles for %d points: %s", circles, 2*len(points), b.String())
		}
	}
}

func TestStepsOfAnAxis(t *testing.T) {
	for most, want := range map[float64]float64{0: 1, 25: 5, 7: 2, 6: 1, 130: 50, 0.6: 0.1} {
		if got := niceStep(most); got < want*0.999 || got > want*1.001 {
			t.Errorf("%v: got %v, want %v", most, got, want)
		}
	}
}
