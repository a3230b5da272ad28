package main

import (
	"fmt"
	"html"
	"io"
	"math"
)

// The size of a plot and of its margins, in pixels.
const (
	plotWidth, plotHeight = 640, 320
	marginLeft            = 56
	marginRight           = 24
	marginTop             = 40
	marginBottom          = 44
)

// drawSVG draws curves over a logarithmic axis of powers of ten; the other axis begins at 0.
func drawSVG(out io.Writer, title, x string, curves []curve) {
	least, most, top := math.Inf(1), 1.0, 0.0
	for _, c := range curves {
		for _, p := range c.points {
			least, most, top = min(least, p[0]), max(most, p[0]), max(top, p[1])
		}
	}
	if math.IsInf(least, 1) {
		least = 1
	}
	step := niceStep(top)
	top = max(math.Ceil(top/step), 1) * step
	from, to := math.Floor(math.Log10(least)), math.Ceil(math.Log10(most))
	to = max(to, from+1)
	right, bottom := float64(plotWidth-marginRight), float64(plotHeight-marginBottom)
	at := func(p [2]float64) (float64, float64) {
		return marginLeft + (math.Log10(p[0])-from)/(to-from)*(right-marginLeft), bottom - p[1]/top*(bottom-marginTop)
	}
	text := func(px, py float64, anchor, fill, s string) {
		fmt.Fprintf(out, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", px, py, anchor, fill, html.EscapeString(s))
	}
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", plotWidth, plotHeight)
	text(marginLeft, 18, "start", "#111", title)
	for v := 0.0; v <= top+step/2; v += step {
		_, py := at([2]float64{1, v})
		fmt.Fprintf(out, `<path d="M%d %.1fH%.1f" stroke="#ddd"/>`+"\n", marginLeft, py, right)
		text(marginLeft-6, py+4, "end", "#444", fmt.Sprintf("%g", v))
	}
	for e := from; e <= to; e++ {
		px, _ := at([2]float64{math.Pow(10, e), 0})
		fmt.Fprintf(out, `<path d="M%.1f %d V%.1f" stroke="#eee"/>`+"\n", px, marginTop, bottom)
		text(px, bottom+16, "middle", "#444", fmt.Sprintf("%g", math.Pow(10, e)))
	}
	text(right, bottom+34, "end", "#444", x)
	for i, c := range curves {
		colour := [...]string{"#0b62a4", "#c2410c", "#15803d"}[i%3]
		fmt.Fprintf(out, `<polyline fill="none" stroke="%s" stroke-width="2" points="`, colour)
		for _, p := range c.points {
			px, py := at(p)
			fmt.Fprintf(out, "%.1f,%.1f ", px, py)
		}
		fmt.Fprintln(out, `"/>`)
		for _, p := range c.points {
			px, py := at(p)
			fmt.Fprintf(out, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", px, py, colour)
		}
		text(marginLeft+float64(220*i), 34, "start", colour, c.name)
	}
	fmt.Fprintln(out, "</svg>")
}

// niceStep returns 1, 2 or 5 times a power of ten that divides most into at most six parts.
func niceStep(most float64) float64 {
	if most <= 0 {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(most/5)))
	for _, k := range []float64{1, 2, 5} {
		if most <= 6*k*p {
			return k * p
		}
	}
	return 10 * p
}
