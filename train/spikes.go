package train

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data"
)

// A value of a step is a spike where it is more than spikeTimes standard deviations above
// the median of the steps before. The deviation is taken from the median absolute
// deviation (MAD), so that spikes do not hide the next ones, and is at least
// spikeLeast of the median, so that a flat curve has none.
const (
	spikeWindow = 64     // steps looked back at
	spikeFirst  = 16     // as many there must be
	spikeTimes  = 6.0    // standard deviations
	spikeLeast  = 0.01   // of the median
	madToSigma  = 1.4826 // of a normal distribution
)

// Spike is a value of a step far above those of the steps before.
type Spike struct {
	Name   string  `json:"name"` // loss or grad_norm
	Median float64 `json:"median"`
	Limit  float64 `json:"limit"` // what is above is a spike
}

// spikes remembers the last values of a run.
type spikes struct {
	loss, norm []float64
}

// spikeLimit is the median of the values and what is a spike above it; ok is false where
// there are too few.
func spikeLimit(values []float64) (median, limit float64, ok bool) {
	if len(values) < spikeFirst {
		return 0, 0, false
	}
	median = medianOf(values)
	off := make([]float64, len(values))
	for i, v := range values {
		off[i] = math.Abs(v - median)
	}
	return median, median + spikeTimes*max(madToSigma*medianOf(off), spikeLeast*math.Abs(median)), true
}

// medianOf is the middle of the values, or the mean of the two there.
func medianOf(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// see takes the values of a step and says which are spikes. A step that was left out has
// none, and no gradient norm to compare others with.
func (s *spikes) see(m *Metrics, loss bool) (out []Spike) {
	if m.Skipped {
		return nil
	}
	look := func(name string, window *[]float64, v float64) {
		if median, limit, ok := spikeLimit(*window); ok && v > limit {
			out = append(out, Spike{name, median, limit})
		}
		*window = append(*window, v)
		*window = (*window)[max(0, len(*window)-spikeWindow):]
	}
	if loss { // that of answers to reward has no level
		look("loss", &s.loss, m.Loss)
	}
	look("grad_norm", &s.norm, m.GradNorm)
	return out
}

// recall takes the steps that an earlier run logged.
func (r *run) recall(steps []Metrics) {
	for _, m := range steps[max(0, len(steps)-spikeWindow):] {
		r.spikes.see(&m, !r.asks())
		r.spiked = len(m.Spikes) > 0
	}
}

// mark adds to m which of its values are spikes, and says so of the first of several
// steps.
func (r *run) mark(m *Metrics) {
	m.Spikes = r.spikes.see(m, !r.asks())
	if len(m.Spikes) > 0 && !r.spiked {
		var what []string
		for _, s := range m.Spikes {
			v := m.Loss
			if s.Name == "grad_norm" {
				v = m.GradNorm
			}
			what = append(what, fmt.Sprintf("%s %.4g (median %.4g, spikes begin at %.4g)", s.Name, v, s.Median, s.Limit))
		}
		r.log("step %d is a spike: %s; it learned from %s", m.Step, strings.Join(what, ", "), r.rows)
	}
	r.spiked = len(m.Spikes) > 0
}

// shownRows is how many rows of a step a message names.
const shownRows = 8

// rowsOf names the first rows of a step.
func rowsOf(micro []data.Batch) string {
	var from []data.RowRef
	for i := range micro {
		from = append(from, micro[i].From...)
	}
	return nameRows(from)
}

// nameRows names the first of some rows, those of a file together.
func nameRows(from []data.RowRef) string {
	from = slices.CompactFunc(slices.Clone(from), func(a, b data.RowRef) bool { return a == b }) // the answers of a pair are of one
	var out []string
	file := ""
	for i, f := range from[:min(len(from), shownRows)] {
		switch {
		case f.Row == 0 || i == 0 || f.File != file:
			out = append(out, f.String())
		default:
			out[len(out)-1] += fmt.Sprintf(", %d", f.Row)
		}
		file = f.File
	}
	text := strings.Join(out, "; ")
	if more := len(from) - shownRows; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// suspect remembers the rows whose values are not finite, of tokens or, where there is one
// for each sample, of samples.
func (r *run) suspect(b *data.Batch, values []float32) {
	for s := 0; s+1 < len(b.Seq); s++ {
		lo, hi := int(b.Seq[s]), int(b.Seq[s+1])
		if len(values) == len(b.Seq)-1 {
			lo, hi = s, s+1
		}
		if slices.ContainsFunc(values[lo:min(hi, len(values))], func(v float32) bool { return !finite(float64(v)) }) {
			r.suspects = append(r.suspects, b.From[s])
		}
	}
}
