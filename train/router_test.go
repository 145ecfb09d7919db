package train

import (
	"math"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
)

// TestRouterLossIsSaid: a loss that config.json turns on is never left out without a word.
func TestRouterLossIsSaid(t *testing.T) {
	j := optimJob(t, "adamw", t.TempDir(), device(t))
	j.Model.Spec.RouterLoss = true
	if _, err := Run(t.Context(), j); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "output_router_logits") {
		t.Errorf("without a weight: %v", err)
	}
	none := 0.0
	j.Config.RouterAuxLossCoef = &none
	if _, err := Run(t.Context(), j); err != nil {
		t.Errorf("with weight 0: %v", err)
	}
}

// TestRouterLosses compares loss, gradient norm and a router's gradient of a first step of all
// weights with Transformers' own losses over routers:
// python3 cmd/tune/interop/trl_losses.py ../shared/data/golden/train routers (Transformers 5.23.0).
func TestRouterLosses(t *testing.T) {
	var cases []struct {
		Aux      float64 `json:"router_aux_loss_coef"`
		Z        float64 `json:"router_z_loss_coef"`
		Loss     float64
		GradNorm float64   `json:"grad_norm"`
		Router   []float64 // gradient of the first expert's row of the first router
	}
	readJSON(t, "testdata/router_loss.json", &cases)
	if len(cases) != 3 {
		t.Errorf("%d cases", len(cases))
	}
	for _, c := range cases {
		for _, recompute := range []bool{false, true} {
			j, _, _ := goldenJob(t, variant{name: "moe_aux", full: true, recompute: recompute, aux: &c.Aux})
			j.Config.RouterZLossCoef = &c.Z
			r, m := firstStep(t, j)
			if math.Abs(m.Loss-c.Loss) > 1e-5 || math.Abs(m.GradNorm/c.GradNorm-1) > 1e-4 {
				t.Errorf("%+v: loss %v, gradient norm %v", c, m.Loss, m.GradNorm)
			}
			seen := false
			for _, q := range r.opt.params {
				if j.Model.TensorOf(q.Param).Role != arch.Router || !strings.Contains(q.Name, "layers.0.") {
					continue
				}
				seen = true
				for i, got := range values(t, r.dev, q.Grad)[:len(c.Router)] {
					if want := c.Router[i]; math.Abs(float64(got)-want) > 1e-4*math.Abs(want)+1e-6 {
						t.Errorf("%+v: gradient %d of %s is %v, want %v", c, i, q.Name, got, want)
					}
				}
			}
			if !seen {
				t.Error("no router")
			}
		}
	}
}

// TestRouterLossRefused: a model without experts has no loss over routers.
func TestRouterLossRefused(t *testing.T) {
	j := optimJob(t, "adamw", t.TempDir(), device(t))
	j.Config.RouterZLossCoef = ptr(0.1)
	if _, err := Run(t.Context(), j); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "router_z_loss_coef is 0.1, and the model has no experts") {
		t.Errorf("%v", err)
	}
}
