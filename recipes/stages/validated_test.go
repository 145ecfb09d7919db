package stages

import (
	"slices"
	"testing"

	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/train"
)

// TestSpikesInCharts: a step whose loss or gradient norm is a spike is a dot on that
// curve alone, which says where spikes begin.
func TestSpikesInCharts(t *testing.T) {
	charts := trainCharts([]train.Metrics{
		{Step: 1, Loss: 2, GradNorm: 1},
		{Step: 2, Loss: 9, GradNorm: 1.5, Spikes: []train.Spike{{Name: "loss", Median: 2, Limit: 3}}},
		{Step: 3, Loss: 2, GradNorm: 30, Spikes: []train.Spike{{Name: "grad_norm", Median: 1, Limit: 2.5}}},
	}, nil)
	for _, c := range charts {
		want, note := [2]float64{}, ""
		switch c.Title {
		case "Loss":
			want, note = [2]float64{2, 9}, "step 2: loss 9.000, spikes begin at 3.000"
		case "Gradient norm before clipping":
			want, note = [2]float64{3, 30}, "step 3: grad_norm 30.00, spikes begin at 2.500"
		}
		i := slices.IndexFunc(c.Series, func(s report.Series) bool { return s.Name == "spike" })
		if (i >= 0) != (note != "") {
			t.Errorf("%s: series %d is of spikes", c.Title, i)
			continue
		}
		if i < 0 {
			continue
		}
		if s := c.Series[i]; !s.Dots || !slices.Equal(s.X, want[:1]) || !slices.Equal(s.Y, want[1:]) || !slices.Equal(s.Notes, []string{note}) {
			t.Errorf("%s: %+v, want a dot at %v with %q", c.Title, s, want, note)
		}
	}
}
