package train

import (
	"math"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
)

// dpo is direct preference optimization (Rafailov et al. 2023,
// arXiv:2305.18290) and the losses that read the same four numbers of a pair:
// the log-probabilities of both answers, summed over their supervised tokens,
// under the model and under the reference. A log ratio is the first less the
// second, a reward β times that.
type dpo struct {
	losses     []string
	weights    []float64
	beta       float64
	smoothing  float64 // label_smoothing
	tail       float64 // ld_alpha
	tau        float64 // discopop_tau
	divergence func(ratio float64) (score, slope float64)
	likely     bool // use_weighting
}

var dpoLosses = []string{"sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"}

var dpoOptions = map[string]float64{"beta": 0.1, "label_smoothing": 0, "ld_alpha": noDefault, "f_alpha_divergence_coef": 0.5, "discopop_tau": 0.05}

var dpoOnly = map[string][]string{
	"label_smoothing": {"robust", "exo_pair", "aot", "aot_unpaired"},
	"discopop_tau":    {"discopop"},
}

func newDPO(c Config) Objective {
	d := dpo{losses: c.LossType, weights: c.LossWeights, beta: *c.Beta, smoothing: *c.LabelSmoothing, tail: 1, tau: *c.DiscoPOPTau,
		divergence: divergences(*c.FAlphaDivergenceCoef)[c.FDivergenceType], likely: c.UseWeighting}
	if d.weights == nil {
		d.weights = slices.Repeat([]float64{1}, len(d.losses))
	}
	if c.LDAlpha != nil {
		d.tail = *c.LDAlpha
	}
	return d
}

// checkDPO refuses numbers that a loss cannot work with.
func (c Config) checkDPO(given Config) error {
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(c.LossType, n) })
	}
	if n := len(c.LossWeights); c.LossWeights != nil && n != len(c.LossType) {
		return fail.Usagef("train.loss_weights", "give one weight for each of loss_type", "loss_weights has %d numbers for %d losses", n, len(c.LossType))
	}
	for _, w := range c.LossWeights {
		if !finite(w) {
			return fail.Usagef("train.loss_weights", "", "loss_weights: %v", w)
		}
	}
	if *c.Beta == 0 && has("ipo", "sppo_hard") {
		return fail.Usagef("train.beta", "", "beta is 0, and loss_type: %s divides by it", strings.Join(c.LossType, ", "))
	}
	if s := *c.LabelSmoothing; has("exo_pair") && (s == 0 || s == 1) {
		return fail.Usagef("train.label_smoothing", "the paper takes 0.001", "loss_type: exo_pair needs a label_smoothing between 0 and 1, found %g", s)
	} else if has("robust") && s >= 0.5 {
		return fail.Usagef("train.label_smoothing", "the paper takes 0.1", "loss_type: robust needs a label_smoothing below 0.5, found %g", s)
	}
	if c.UseWeighting && has("aot", "aot_unpaired", "sft") {
		return fail.Usagef("train.use_weighting", "leave one of both out", "use_weighting weighs pairs, and loss_type: %s compares answers of several, or learns from chosen tokens alone", strings.Join(c.LossType, ", "))
	}
	if given.FAlphaDivergenceCoef != nil && *given.FAlphaDivergenceCoef != dpoOptions["f_alpha_divergence_coef"] && c.FDivergenceType != "alpha_divergence" {
		return fail.Usagef("train.f_alpha_divergence_coef", "leave it out", "f_alpha_divergence_coef belongs to f_divergence_type: alpha_divergence")
	}
	return nil
}

func (dpo) Reads() Reads { return ReadsReference }

func (d dpo) sharpened() bool { return d.likely }

func (dpo) Samples() int { return 2 }

func (dpo) Unit() string { return "pair" }

func (dpo) Count(b *data.Batch) int64 { return int64(len(b.Seq)-1) / 2 }

// side is one answer of a pair.
type side struct {
	policy, reference float64 // log-probabilities
	ratio             float64 // policy less reference
	score, slope      float64 // of the ratio, by the divergence, and the score's derivative
	tokens            float64 // supervised, at least 1
	nll               float64 // -log p of all tokens alike
	likely            float64 // of use_weighting: how likely the answer is, beside what the model would write itself
}

// pair is two answers, and the derivatives of the pair's loss by their ratios.
type pair struct {
	c, r   side
	dc, dr float64
	token  float64 // and by -log p of each of the chosen one's tokens, of a mean over tokens
}

func (d dpo) Weigh(b *data.Batch, p LogProbs, total int64) []float32 {
	out := make([]float32, len(b.Target))
	pairs, _, _ := d.pairs(b, p)
	for k, x := range pairs {
		d.weigh(b, out, 2*k, -x.dc/float64(total))
		d.weigh(b, out, 2*k+1, -x.dr/float64(total))
		if x.token != 0 {
			weighTargets(b, out, 2*k, x.token/float64(p.Tokens))
		}
	}
	return out
}

func (d dpo) Score(b *data.Batch, p LogProbs) Score {
	s := Score{Values: pairValues()}
	var pairs []pair
	pairs, s.Loss, s.Tokens = d.pairs(b, p)
	for _, x := range pairs {
		s.addPair(d.beta*x.c.ratio, d.beta*x.r.ratio, x.c.policy, x.r.policy)
	}
	return s
}

// pairs reads the pairs of b and adds up their losses: those over pairs, and
// those over the tokens of chosen answers.
func (d dpo) pairs(b *data.Batch, p LogProbs) (pairs []pair, loss, tokens float64) {
	for s := 0; s+2 < len(b.Seq); s += 2 {
		shared := min(targetsOf(b, s), targetsOf(b, s+1))
		pairs = append(pairs, pair{c: d.side(b, p, s, shared), r: d.side(b, p, s+1, shared)})
	}
	for i, name := range d.losses {
		w := d.weights[i]
		switch name {
		case "sft":
			for k := range pairs {
				pairs[k].token += w
				tokens += w * pairs[k].c.nll
			}
		case "aot", "aot_unpaired":
			loss += w * d.transport(pairs, name == "aot", w)
		default:
			for k := range pairs {
				x := &pairs[k]
				v, dc, dr := d.loss(name, x.c, x.r)
				w := w * x.c.likely * x.r.likely
				loss += w * v
				x.dc += w * dc
				x.dr += w * dr
			}
		}
	}
	return pairs, loss, tokens
}

// side reads sample s of b, of whose supervised tokens the first shared ones
// count whole and those after them ld_alpha (LD-DPO, Liu et al. 2024, arXiv:2409.06411).
// What a pair weighs (WPO, Zhou et al. 2024, arXiv:2406.11827, eq. 2, with the
// alignment of its section 3.2) has no gradient: log p less log Σp² of a token is its
// log-probability at temperature ½ less that at 1.
func (d dpo) side(b *data.Batch, p LogProbs, s, shared int) side {
	x := side{tokens: math.Max(1, float64(targetsOf(b, s))), nll: -sumOf(b, p.Policy, s), likely: 1}
	if d.likely {
		x.likely = math.Exp((sumOf(b, p.Sharp, s) - sumOf(b, p.Policy, s)) / x.tokens)
	}
	d.each(b, s, shared, func(i int32, w float64) {
		x.policy += w * float64(p.Policy[i])
		x.reference += w * float64(p.Reference[i])
	})
	x.ratio = x.policy - x.reference
	x.score, x.slope = d.divergence(x.ratio)
	return x
}

// each calls f with the targets of sample s of b and what they count.
func (d dpo) each(b *data.Batch, s, shared int, f func(i int32, w float64)) {
	n := 0
	for i := b.Seq[s]; i < b.Seq[s+1]; i++ {
		if b.Target[i] < 0 {
			continue
		}
		n++
		if n <= shared {
			f(i, 1)
		} else {
			f(i, d.tail)
		}
	}
}

// weigh adds w to the weights of sample s of b, as the sums of side count them.
func (d dpo) weigh(b *data.Batch, out []float32, s int, w float64) {
	d.each(b, s, min(targetsOf(b, s), targetsOf(b, s^1)), func(i int32, tail float64) { out[i] += float32(w * tail) })
}

// loss is that of a pair, and its derivatives by the log ratios of both answers.
func (d dpo) loss(name string, c, r side) (loss, dc, dr float64) {
	beta := d.beta
	z := beta * (c.score - r.score)
	switch name { // losses of the difference of scores, with their derivative by z
	case "sigmoid":
		return d.difference(c, r, softplus(-z), -sigmoid(-z))
	case "hinge": // SLiC-HF, Zhao et al. 2023, arXiv:2305.10425
		return d.difference(c, r, math.Max(0, 1-z), -b2f(z < 1))
	case "robust": // Chowdhury et al. 2024, arXiv:2403.00409
		e := d.smoothing
		return d.difference(c, r, ((1-e)*softplus(-z)-e*softplus(z))/(1-2*e), (-(1-e)*sigmoid(-z)-e*sigmoid(z))/(1-2*e))
	case "exo_pair": // Ji et al. 2024, arXiv:2402.00856, eq. 16
		q, right, wrong := sigmoid(z), math.Log1p(-d.smoothing), math.Log(d.smoothing)
		return d.difference(c, r, q*(-softplus(-z)-right)+(1-q)*(-softplus(z)-wrong), q*(1-q)*(z-right+wrong))
	case "discopop": // Lu et al. 2024, arXiv:2406.08414, eq. 5
		m, log, exp := sigmoid(z/d.tau), softplus(-z), math.Exp(-z)
		return d.difference(c, r, (1-m)*log+m*exp, -(1-m)*sigmoid(-z)-m*exp+m*(1-m)/d.tau*(exp-log))
	}
	cs, rs := beta*c.slope, beta*r.slope
	switch name { // losses of both rewards
	case "ipo": // Azar et al. 2023, arXiv:2310.12036, eq. 17, of means over tokens
		e := c.score/c.tokens - r.score/r.tokens - 1/(2*beta)
		return e * e, 2 * e * c.slope / c.tokens, -2 * e * r.slope / r.tokens
	case "sigmoid_norm": // the sigmoid of means over tokens
		z := beta * (c.score/c.tokens - r.score/r.tokens)
		return softplus(-z), -sigmoid(-z) * cs / c.tokens, sigmoid(-z) * rs / r.tokens
	case "nca_pair": // Chen et al. 2024, arXiv:2402.05369
		x, y := beta*c.ratio, beta*r.ratio
		return softplus(-x) + softplus(x)/2 + softplus(y)/2, (sigmoid(x)/2 - sigmoid(-x)) * beta, sigmoid(y) / 2 * beta
	case "bco_pair": // Jung et al. 2024, arXiv:2404.04656
		x, y := beta*c.ratio, beta*r.ratio
		return softplus(-x) + softplus(y), -sigmoid(-x) * beta, sigmoid(y) * beta
	case "sppo_hard": // Wu et al. 2024, arXiv:2405.00675, with certain preferences
		x, y := c.ratio-1/(2*beta), r.ratio+1/(2*beta)
		return x*x + y*y, 2 * x, 2 * y
	case "apo_zero": // D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7
		x, y := sigmoid(beta*c.ratio), sigmoid(beta*r.ratio)
		return 1 - x + y, -beta * x * (1 - x), beta * y * (1 - y)
	case "apo_down": // eq. 8
		x, q := sigmoid(beta*c.ratio), sigmoid(beta*(c.ratio-r.ratio))
		return x + 1 - q, beta * (x*(1-x) - q*(1-q)), beta * q * (1 - q)
	}
	panic("train: loss " + name)
}

// difference is a loss of z, β times the difference of scores, with slope dz.
func (d dpo) difference(c, r side, loss, dz float64) (float64, float64, float64) {
	return loss, dz * d.beta * c.slope, -dz * d.beta * r.slope
}

// transport is alignment by optimal transport (Melnyk et al. 2024,
// arXiv:2406.05882): the sigmoid loss between the sorted log ratios of the pairs
// of a batch. Paired, these are of chosen to rejected answers under the model
// and under the reference, else those of chosen and of rejected ones. Adds w
// times the derivatives to pairs and returns the sum.
func (d dpo) transport(pairs []pair, paired bool, w float64) (loss float64) {
	above, below := make([]int, len(pairs)), make([]int, len(pairs))
	for i := range pairs {
		above[i], below[i] = i, i
	}
	up := func(x *pair) float64 { return x.c.ratio }
	low := func(x *pair) float64 { return x.r.ratio }
	if paired {
		up = func(x *pair) float64 { return x.c.policy - x.r.policy }
		low = func(x *pair) float64 { return x.c.reference - x.r.reference }
	}
	sortBy(above, func(i int) float64 { return up(&pairs[i]) })
	sortBy(below, func(i int) float64 { return low(&pairs[i]) })
	for k := range pairs {
		x, y := &pairs[above[k]], &pairs[below[k]]
		z, e := d.beta*(up(x)-low(y)), d.smoothing
		loss += (1-e)*softplus(-z) + e*softplus(z)
		dz := w * d.beta * (e*sigmoid(z) - (1-e)*sigmoid(-z))
		x.dc += dz
		if paired {
			x.dr -= dz
		} else {
			y.dr -= dz
		}
	}
	return loss
}

// sortBy sorts indices by a value, equal ones in their order.
func sortBy(index []int, value func(i int) float64) {
	slices.SortStableFunc(index, func(i, j int) int {
		switch x, y := value(i), value(j); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
}

// divergences are what f_divergence_type can be (f-DPO, Wang et al. 2023,
// arXiv:2309.16240): the score of a log ratio, f′ of the ratio, which is 0 where both
// models agree, and the score's derivative by the log ratio.
func divergences(alpha float64) map[string]func(float64) (score, slope float64) {
	reverse := func(x float64) (float64, float64) { return x, 1 }
	return map[string]func(float64) (float64, float64){
		"": reverse, "reverse_kl": reverse,
		"forward_kl":    func(x float64) (float64, float64) { e := math.Exp(-x); return 1 - e, e },
		"js_divergence": func(x float64) (float64, float64) { return math.Ln2 - softplus(-x), sigmoid(-x) },
		"alpha_divergence": func(x float64) (float64, float64) {
			a := alpha - 1
			if math.Abs(a) < 1e-6 { // its limit
				return reverse(x)
			}
			if a*x > 80 { // where float32 ends
				return math.Expm1(80) / a, 0
			}
			return math.Expm1(a*x) / a, math.Exp(a * x)
		},
	}
}
