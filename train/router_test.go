package train

import (
	"strings"
	"testing"

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
