package train

import (
	"fmt"
	"math"
	"testing"

	"github.com/tunekit/tunekit/data"
)

// lossConfigs are every objective of log-probabilities with every loss, and what shapes losses.
func lossConfigs(t *testing.T) []Config {
	var out []Config
	add := func(text string) {
		c, err := parse(t, text).Resolve(1)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		out = append(out, c)
	}
	for _, name := range names(objectives) {
		kind := objectives[ObjectiveName(name)]
		if kind.asks || kind.teacher || name == "sft" { // which read more than log-probabilities, or weigh all alike: grpo_test.go, distill_test.go, dpo_test.go
			continue
		}
		if len(kind.losses) == 0 && kind.options != nil {
			add(fmt.Sprintf("{objective: %s}", name))
			if kind.reward {
				add("{objective: reward, center_rewards_coefficient: 0.1}")
			}
		}
		for _, loss := range kind.losses {
			extra := ""
			if loss == "exo_pair" || loss == "robust" || loss == "aot" || loss == "aot_unpaired" || loss == "simpo" {
				extra = ", label_smoothing: 0.2"
			}
			if _, ok := kind.options["beta"]; ok {
				extra += ", beta: 0.3"
			}
			add(fmt.Sprintf("{objective: %s, loss_type: %s%s}", name, loss, extra))
		}
	}
	for _, divergence := range []string{"forward_kl", "js_divergence", "alpha_divergence"} {
		add(fmt.Sprintf("{objective: dpo, loss_type: [sigmoid, apo_down, ipo], loss_weights: [0.5, 2, 0.1], f_divergence_type: %s, ld_alpha: 0.4}", divergence))
	}
	add("{objective: cpo, loss_type: alphapo, alpha: 0.25, beta: 0.7}")
	add("{objective: kto, desirable_weight: 0.5, undesirable_weight: 1.5}")
	return out
}

// TestWeighIsGradient: Weigh is the derivative of Score's loss, for every loss, by
// differences of the log-probabilities.
func TestWeighIsGradient(t *testing.T) {
	var ex []data.Example
	var numbers []int32
	for i, n := range []int{5, 3, 4, 6, 7, 7} {
		e := data.Example{ID: uint64(i), Group: uint32(i/2 + 1), Loss: [][2]int32{{2, int32(n + 2)}}}
		for k := range n + 2 {
			e.IDs = append(e.IDs, int32(10*i+k))
		}
		ex, numbers = append(ex, e), append(numbers, int32(i))
	}
	b := data.NewBatch(ex, numbers)
	for _, c := range lossConfigs(t) {
		kind := objectives[c.Objective]
		o, targets := kind.make(c), b.Target
		if kind.targets != nil {
			targets = kind.targets(&b)
		}
		p := LogProbs{Policy: make([]float32, len(b.IDs)), Reference: make([]float32, len(b.IDs)), Baseline: 0.2}
		if kind.tokens != nil {
			p.Tokens = kind.tokens(&b)
		}
		for i, x := range targets {
			if x >= 0 {
				p.Policy[i], p.Reference[i] = -0.2-float32(i*7%5)/4, -0.3-float32(i*3%4)/4
			}
		}
		if kind.reward { // by sample
			p.Policy, b.Mark[0], targets = []float32{1, 0.5, -0.3, 0.2, 2, 3}, 0.7, make([]int32, len(ex))
		}
		units := o.Count(&b)
		loss := func() float64 { return o.Score(&b, p).mean(units, p.Tokens).Loss }
		for i, w := range o.Weigh(&b, p, units) {
			before := p.Policy[i]
			const h = 1.0 / 1024
			p.Policy[i] = before + h
			up := loss()
			p.Policy[i] = before - h
			slope := (up - loss()) / float64(2*h)
			p.Policy[i] = before
			if d := math.Abs(float64(w) + slope); !(d <= 2e-5*max(1, math.Abs(slope))) {
				t.Errorf("%s %v: weight %v of token %d, loss falls by %v", c.Objective, c.LossType, w, i, -slope)
			}
			if targets[i] < 0 && w != 0 {
				t.Errorf("%s %v: token %d has no target and weight %v", c.Objective, c.LossType, i, w)
			}
		}
	}
}
