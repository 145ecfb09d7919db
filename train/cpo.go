package train

import (
	"math"
	"slices"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
)

// cpo is contrastive preference optimization (Xu et al. 2024, arXiv:2401.08417)
// and SimPO (Meng et al. 2024, arXiv:2405.14734): losses of pairs without a
// reference. A reward is β times an answer's log-probability, summed over its
// supervised tokens, or their mean with simpo and ipo. cpo_alpha times the mean
// loss of the tokens of chosen answers is added.
type cpo struct {
	loss        string
	mean        bool // of log-probabilities
	beta, gamma float64
	alpha       float64 // of the reward (AlphaPO, Gupta et al. 2025, arXiv:2501.03884)
	smoothing   float64
	chosenLoss  float64 // cpo_alpha
}

var cpoLosses = []string{"sigmoid", "hinge", "ipo", "simpo", "alphapo"}

var cpoOnly = map[string][]string{
	"label_smoothing": {"sigmoid", "simpo", "alphapo"},
	"simpo_gamma":     {"simpo", "alphapo"},
	"cpo_alpha":       {"sigmoid", "hinge", "ipo", "simpo"},
}

func newCPO(c Config) Objective {
	o := cpo{loss: c.LossType[0], beta: *c.Beta, gamma: *c.SimPOGamma, alpha: *c.Alpha, smoothing: *c.LabelSmoothing, chosenLoss: *c.CPOAlpha}
	if o.loss == "alphapo" { // TRL's name for two settings
		o.loss, o.chosenLoss = "simpo", 0
	}
	o.mean = o.loss == "simpo" || o.loss == "ipo"
	return o
}

func (cpo) Reads() Reads { return ReadsPolicy }

func (cpo) Samples() int { return 2 }

func (cpo) Unit() string { return "pair" }

func (cpo) Count(b *data.Batch) int64 { return int64(len(b.Seq)-1) / 2 }

func (o cpo) Weigh(b *data.Batch, p LogProbs, total int64) []float32 {
	out := make([]float32, len(b.Target))
	for s := 0; s+2 < len(b.Seq); s += 2 {
		c, r := o.answer(b, p, s), o.answer(b, p, s+1)
		_, dz := o.of(o.beta * (c.reward - r.reward))
		weighTargets(b, out, s, -dz*o.beta*c.slope/float64(total)+o.chosenLoss/float64(p.Tokens))
		weighTargets(b, out, s+1, dz*o.beta*r.slope/float64(total))
	}
	return out
}

func (o cpo) Score(b *data.Batch, p LogProbs) Score {
	s := Score{Values: pairValues("nll_loss"), Of: make([]float64, 7)}
	for k := 0; k+2 < len(b.Seq); k += 2 {
		c, r := o.answer(b, p, k), o.answer(b, p, k+1)
		loss, _ := o.of(o.beta * (c.reward - r.reward))
		s.Loss += loss
		nll := -sumOf(b, p.Policy, k)
		s.Tokens += o.chosenLoss * nll
		if o.chosenLoss == 0 { // as TRL, which does not compute it
			nll = 0
		}
		s.addPair(o.beta*c.reward, o.beta*r.reward, c.logp, r.logp)
		s.Values[6].V += nll
		s.Of[6] += float64(targetsOf(b, k))
	}
	return s
}

// scored is an answer: its log-probability, its reward less β, and the reward's
// derivative by the log-probability of each token.
type scored struct{ logp, reward, slope float64 }

func (o cpo) answer(b *data.Batch, p LogProbs, s int) scored {
	x := scored{logp: sumOf(b, p.Policy, s), slope: 1}
	if o.mean {
		n := math.Max(1, float64(targetsOf(b, s)))
		x.logp, x.slope = x.logp/n, 1/n
	}
	x.reward = x.logp
	if o.alpha != 0 {
		e := math.Exp(-o.alpha * x.logp)
		x.reward, x.slope = (1-e)/o.alpha, x.slope*e
	}
	return x
}

// of is the loss of z, the difference of rewards, and its derivative.
func (o cpo) of(z float64) (loss, dz float64) {
	switch o.loss {
	case "hinge":
		return math.Max(0, 1-z), -b2f(z < 1)
	case "ipo":
		e := z/o.beta - 1/(2*o.beta)
		return e * e, 2 * e / o.beta
	case "simpo":
		z -= o.gamma
	}
	e := o.smoothing
	return (1-e)*softplus(-z) + e*softplus(z), e*sigmoid(z) - (1-e)*sigmoid(-z)
}

// checkCPO refuses numbers that a loss cannot work with.
func (c Config) checkCPO(Config) error {
	if *c.Beta == 0 && slices.Contains(c.LossType, "ipo") {
		return fail.Usagef("train.beta", "", "beta is 0, and loss_type: ipo divides by it")
	}
	return nil
}

// pairValues are the names of what losses of pairs have in common, and more.
func pairValues(more ...string) Values {
	out := Values{{Name: "rewards/chosen"}, {Name: "rewards/rejected"}, {Name: "rewards/accuracies"}, {Name: margins}, {Name: "logps/chosen"}, {Name: "logps/rejected"}}
	for _, name := range more {
		out = append(out, Value{Name: name})
	}
	return out
}

// addPair adds a pair to the values that pairValues names first.
func (s *Score) addPair(chosen, rejected, logpChosen, logpRejected float64) {
	for i, v := range []float64{chosen, rejected, b2f(chosen > rejected), chosen - rejected, logpChosen, logpRejected} {
		s.Values[i].V += v
		if s.Of != nil {
			s.Of[i]++
		}
	}
}
