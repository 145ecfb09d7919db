package train

import "math"

// entropyControl is the coefficient by which entropy is rewarded, as the steps so far left
// it with use_adaptive_entropy (Skywork-OR1, arXiv:2505.22312).
type entropyControl struct {
	Coef float64  `json:"coef"`
	Last *float64 `json:"last,omitempty"` // entropy of the last step, in nats a token; nil before the first
}

// entropyCoef is how much the step in work rewards entropy.
func (r *run) entropyCoef() float64 {
	c := &r.Config
	switch {
	case c.EntropyCoef == nil:
		return 0
	case !c.UseAdaptiveEntropy:
		return *c.EntropyCoef
	case r.entropyNow.Last == nil || *r.entropyNow.Last > *c.EntropyTarget:
		return 0
	}
	return r.entropyNow.Coef
}

// controlEntropy is what a step whose tokens had so much entropy makes of the coefficient.
func (r *run) controlEntropy(step running) entropyControl {
	c, mean := &r.Config, step.mean()
	coef := math.Max(r.entropyNow.Coef-*c.EntropyCoefDelta, *c.EntropyCoefMin)
	if mean <= *c.EntropyTarget {
		coef = math.Min(r.entropyNow.Coef+*c.EntropyCoefDelta, *c.EntropyCoefMax)
	}
	return entropyControl{coef, &mean}
}
