package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// Series is one line or cloud of a chart.
type Series struct {
	Name  string
	X, Y  []float64
	Class string // s1 … s7: its colour
	Faint bool   // behind the others
	Dots  bool   // points instead of a line
	Marks bool   // points on the line
	Notes []string
}

// Chart is drawn as SVG: no script, colours from the page's style sheet.
type Chart struct {
	Title  string
	X      string // what lies on the x axis
	Series []Series
	Zero   bool // the y axis begins at 0
	Log    bool // logarithmic y axis
	Format Format
	Wide   bool
}

// Format says how a chart writes its numbers.
type Format string

// The formats of a chart's numbers.
const (
	ThreeDigits Format = ""
	TwoDigits   Format = "2"
	Thousands   Format = "k" // three digits, and k from 10,000 on
)

// number writes v as the chart does.
func (c *Chart) number(v float64) string {
	switch {
	case c.Format == TwoDigits:
		return Sig(v, 2)
	case c.Format == Thousands && v >= 1e4:
		return Sig(v/1e3, 3) + "k"
	}
	return Sig(v, 3)
}

const (
	chartH      = 230.0
	chartLeft   = 62.0
	chartRight  = 14.0
	chartTop    = 10.0
	chartBottom = 34.0
	mostPoints  = 400
)

func (c Chart) width() float64 {
	if c.Wide {
		return 1080
	}
	return 520
}

// svg draws the chart; a chart without a point is empty.
func (c Chart) svg() template.HTML {
	x0, x1, y0, y1, any := c.bounds()
	if !any {
		return ""
	}
	var b strings.Builder
	w := c.width()
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, w, chartH, html.EscapeString(c.Title))
	px := func(x float64) float64 { return chartLeft + (x-x0)/(x1-x0)*(w-chartLeft-chartRight) }
	py := func(y float64) float64 {
		if c.Log {
			y = math.Log10(y)
		}
		return chartH - chartBottom - (y-y0)/(y1-y0)*(chartH-chartTop-chartBottom)
	}
	c.axes(&b, px, py, x0, x1, y0, y1)
	for _, s := range c.Series {
		c.draw(&b, s, px, py)
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}

// usable reports whether a point can be drawn.
func (c *Chart) usable(x, y float64) bool {
	return !math.IsNaN(x+y) && !math.IsInf(x+y, 0) && !(c.Log && y <= 0)
}

func (c *Chart) bounds() (x0, x1, y0, y1 float64, any bool) {
	x0, y0, x1, y1 = math.Inf(1), math.Inf(1), math.Inf(-1), math.Inf(-1)
	for _, s := range c.Series {
		for i := range s.X {
			if !c.usable(s.X[i], s.Y[i]) {
				continue
			}
			y := s.Y[i]
			if c.Log {
				y = math.Log10(y)
			}
			x0, x1, y0, y1, any = min(x0, s.X[i]), max(x1, s.X[i]), min(y0, y), max(y1, y), true
		}
	}
	if c.Zero {
		y0, y1 = min(y0, 0), y1*1.05
	} else if pad := (y1 - y0) * 0.05; pad > 0 {
		y0, y1 = y0-pad, y1+pad
	}
	if x1 == x0 {
		x0, x1 = x0-0.5, x1+0.5
	}
	if y1 == y0 {
		d := math.Abs(y0) * 0.1
		if y0, y1 = y0-d, y1+d; !(y1 > y0) { // 0 all along
			y1 = y0 + 1
		}
	}
	return x0, x1, y0, y1, any
}

// ticks are round numbers between lo and hi, about n of them.
func ticks(lo, hi float64, n int) []float64 {
	raw := (hi - lo) / float64(n)
	if !(raw > 0) {
		return nil
	}
	mag := math.Pow(10, math.Floor(math.Log10(raw)))
	step := mag
	for _, m := range []float64{1, 2, 2.5, 5, 10} {
		if step = m * mag; step >= raw {
			break
		}
	}
	var out []float64
	for k := math.Ceil(lo/step-1e-9) + 0; k*step <= hi+step*1e-9; k++ {
		out = append(out, k*step+0) // no -0
	}
	return out
}

func (c *Chart) axes(b *strings.Builder, px, py func(float64) float64, x0, x1, y0, y1 float64) {
	right := c.width() - chartRight
	at := c.yTicks(y0, y1)
	words := c.labels(at)
	for i, t := range at {
		y := py(t)
		fmt.Fprintf(b, `<line class="gl" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`,
			chartLeft, right, y, y, chartLeft-7, y+4, html.EscapeString(words[i]))
	}
	last := math.Inf(-1)
	for _, t := range ticks(x0, x1, 6) {
		if t != math.Trunc(t) || t == last {
			continue
		}
		last = t
		fmt.Fprintf(b, `<text x="%.1f" y="%g" text-anchor="middle">%s</text>`, px(t), chartH-chartBottom+17, html.EscapeString(AxisNumber(t)))
	}
	fmt.Fprintf(b, `<line class="axis" x1="%g" x2="%g" y1="%g" y2="%g"/>`, chartLeft, right, chartH-chartBottom, chartH-chartBottom)
	fmt.Fprintf(b, `<text class="name" x="%g" y="%g" text-anchor="end">%s</text>`, right, chartH-3, html.EscapeString(c.X))
}

// yTicks are powers of ten on a logarithmic axis that spans several.
func (c *Chart) yTicks(y0, y1 float64) []float64 {
	if !c.Log {
		return ticks(y0, y1, 5)
	}
	var out []float64
	for e := math.Floor(y0); e <= y1; e++ {
		steps := []float64{1, 2, 5}
		if y1-y0 > 2 {
			steps = steps[:1]
		}
		for _, m := range steps {
			if v := m * math.Pow(10, e); math.Log10(v) >= y0 && math.Log10(v) <= y1 {
				out = append(out, v)
			}
		}
	}
	if len(out) < 3 { // a short range: round numbers do better
		out = ticks(math.Pow(10, y0), math.Pow(10, y1), 4)
	}
	return out
}

// labels writes the ticks of the y axis: as many decimals as tell them apart, the same for all.
func (c *Chart) labels(at []float64) []string {
	out := make([]string, len(at))
	if c.Log || len(at) < 2 {
		for i, v := range at {
			out[i] = c.number(v)
		}
		return out
	}
	most := max(math.Abs(at[0]), math.Abs(at[len(at)-1]))
	by, unit := 1.0, ""
	switch {
	case most >= 1e6:
		by, unit = 1e6, "M"
	case most >= 1e4:
		by, unit = 1e3, "k"
	case most < 1e-3:
		e := math.Floor(math.Log10(most))
		by, unit = math.Pow(10, e), fmt.Sprintf("e%g", e)
	}
	digits := 0
	for step := (at[1] - at[0]) / by; digits < 6 && math.Abs(step-math.Round(step)) > 1e-6*step; digits++ {
		step *= 10
	}
	for i, v := range at {
		if out[i] = "0"; v != 0 {
			out[i] = fmt.Sprintf("%.*f", digits, v/by) + unit
		}
	}
	return out
}

// AxisNumber is v in thousands (k) or millions (M) where that is short.
func AxisNumber(v float64) string {
	switch {
	case math.Abs(v) >= 1e6:
		return fmt.Sprintf("%gM", v/1e6)
	case math.Abs(v) >= 1e4:
		return fmt.Sprintf("%gk", v/1e3)
	}
	return fmt.Sprintf("%g", v)
}

func (c *Chart) draw(b *strings.Builder, s Series, px, py func(float64) float64) {
	class := s.Class
	if s.Faint {
		class += " faint"
	}
	var path strings.Builder
	for _, i := range Spread(len(s.X), mostPoints) {
		if !c.usable(s.X[i], s.Y[i]) {
			continue
		}
		fmt.Fprintf(&path, "%.1f,%.1f ", px(s.X[i]), py(s.Y[i]))
	}
	if !s.Dots {
		fmt.Fprintf(b, `<polyline class="line %s" points="%s"/>`, class, strings.TrimSpace(path.String()))
	}
	if s.Faint {
		return
	}
	r, kind := 2.6, "dot"
	if !s.Dots && !s.Marks {
		r, kind = 6, "hover"
	}
	for _, i := range Spread(len(s.X), mostPoints) {
		if !c.usable(s.X[i], s.Y[i]) {
			continue
		}
		note := fmt.Sprintf("%s %s: %s %s", c.X, AxisNumber(s.X[i]), s.Name, c.number(s.Y[i]))
		if s.Notes != nil {
			note = s.Notes[i]
		}
		fmt.Fprintf(b, `<circle class="%s %s" cx="%.1f" cy="%.1f" r="%g"><title>%s</title></circle>`, kind, class, px(s.X[i]), py(s.Y[i]), r, html.EscapeString(note))
	}
}

// Spread chooses at most most of n indices, evenly, the last one included.
func Spread(n, most int) []int {
	var out []int
	if n <= most {
		for i := range n {
			out = append(out, i)
		}
		return out
	}
	for k := range most {
		out = append(out, k*(n-1)/(most-1))
	}
	return out
}

// Smooth is a centred mean over about a fiftieth of the points.
func Smooth(y []float64) []float64 {
	half := len(y) / 50
	out := make([]float64, len(y))
	for i := range y {
		n := 0.0
		for _, v := range y[max(0, i-half):min(len(y), i+half+1)] {
			if !math.IsNaN(v) { // a value that is missing
				out[i], n = out[i]+v, n+1
			}
		}
		out[i] /= n
	}
	return out
}

// bars draws a histogram with a label below each bar.
func bars(title string, list []Bar) template.HTML {
	most := int64(0)
	for _, b := range list {
		most = max(most, b.Count)
	}
	if most == 0 {
		return ""
	}
	var b strings.Builder
	const w, h, base, top = 520.0, 190.0, 160.0, 20.0
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, w, h, html.EscapeString(title))
	each := min(90, w/float64(len(list)))
	for i, bar := range list {
		n := bar.Count
		tall := (base - top) * float64(n) / float64(most)
		if n > 0 {
			tall = max(tall, 1.5)
		}
		x := float64(i) * each
		fmt.Fprintf(&b, `<rect class="bar" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2"><title>%s</title></rect>`, x+3, base-tall, each-6, tall,
			html.EscapeString(fmt.Sprintf("%s tokens: %d rows", bar.Label, n)))
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">%d</text><text x="%.1f" y="%g" text-anchor="middle">%s</text>`,
			x+each/2, base-tall-5, n, x+each/2, base+16, html.EscapeString(bar.Label))
	}
	fmt.Fprintf(&b, `<line class="axis" x1="0" x2="%g" y1="%g" y2="%g"/></svg>`, each*float64(len(list)), base, base)
	return template.HTML(b.String())
}
