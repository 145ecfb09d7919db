package recipes

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
)

// quantizeViews show the error of each layer of a quantized folder.
func quantizeViews(res *Result) []layerView {
	q := res.Quantize
	if q.Report == nil || len(q.Layers) == 0 {
		return nil
	}
	r := q.Report
	v := layerView{Title: "Quantization: " + res.Stage, WorstTitle: "Worst layers", Head: []string{"layer", "error", "weights", "how"}}
	v.Line = fmt.Sprintf("%s %s, %s a weight in %s layers", r.Method, r.Scheme, sig(q.Bits, 3)+" bits", humanize.Comma(int64(len(q.Layers))))
	if r.Group != 0 {
		v.Line += fmt.Sprintf(", groups of %d columns", r.Group)
	}
	title := "‖(Wq−W)·Xᵀ‖²/‖W·Xᵀ‖² by layer"
	if r.Tokens > 0 {
		v.Line += fmt.Sprintf(", calibrated on %s tokens in %s samples", humanize.Comma(int64(r.Tokens)), humanize.Comma(int64(r.Samples)))
	} else {
		title = "‖Wq−W‖²/‖W‖² by layer"
	}
	v.Line += "."
	if len(r.Kept) > 0 {
		v.Line += fmt.Sprintf(" Left as they are: %s.", listed(r.Kept, 3))
	}
	var vals []layerValue
	fallen := 0
	for _, l := range q.Layers {
		how := l.Method
		switch {
		case l.Fallback != "":
			how += ": " + l.Fallback
			fallen++
		case l.Damp > 0:
			how += fmt.Sprintf(", damp %s", sig(l.Damp, 2))
		case l.Ratio > 0:
			how += fmt.Sprintf(", ratio %s", sig(l.Ratio, 2))
		}
		vals = append(vals, layerValue{l.Layer, l.Relative, []string{sig(l.Relative, 3), sig(l.Weight, 3), how}})
	}
	if fallen > 0 {
		v.Line += fmt.Sprintf(" %d layers fell back to round-to-nearest.", fallen)
	}
	v.Chart, v.Worst = layered(title, vals), worst(vals)
	return []layerView{v}
}

// listed names the first few of a list.
func listed(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:n], ", ") + fmt.Sprintf(" and %d more", len(names)-n)
}
