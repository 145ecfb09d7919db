package train

import "github.com/tunekit/tunekit/data"

// kto is Kahneman-Tversky optimization (Ethayarajh et al. 2024,
// arXiv:2402.01306), which learns from answers that are marked as wanted or
// unwanted, or from pairs, of which the first is wanted. A log ratio is an
// answer's log-probability less the reference's, summed over its supervised
// tokens; the loss is desirable_weight·(1 - σ(β·(ratio - z))) of a wanted and
// undesirable_weight·(1 - σ(β·(z - ratio))) of an unwanted answer, where z is the
// baseline: an estimate of the divergence from the reference, or 0 for
// apo_zero_unpaired (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7).
type kto struct {
	beta, wanted, unwanted float64
}

func newKTO(c Config) Objective { return kto{*c.Beta, *c.DesirableWeight, *c.UndesirableWeight} }

func ktoBaseline(c Config) baseline {
	if c.LossType[0] == "kto" {
		return mismatched
	}
	return noBaseline
}

func (kto) Reads() Reads { return ReadsReference }

func (kto) Samples() int { return 0 }

func (kto) Unit() string { return "answer" }

func (kto) Count(b *data.Batch) int64 { return int64(len(b.Seq) - 1) }

func (o kto) Weigh(b *data.Batch, p LogProbs, total int64) []float32 {
	out := make([]float32, len(b.Target))
	for s := range len(b.Seq) - 1 {
		sign, weight := o.of(b, s)
		q := sigmoid(sign * o.beta * (ratioOf(b, p, s) - p.Baseline))
		weighTargets(b, out, s, sign*weight*o.beta*q*(1-q)/float64(total))
	}
	return out
}

func (o kto) Score(b *data.Batch, p LogProbs) Score {
	s := answersScore("kl")
	for k := range len(b.Seq) - 1 {
		sign, weight := o.of(b, k)
		ratio := ratioOf(b, p, k)
		s.Loss += weight * sigmoid(-sign*o.beta*(ratio-p.Baseline))
		s.addAnswer(sign > 0, o.beta*ratio, sumOf(b, p.Policy, k), p.Baseline)
	}
	return s
}

// of is 1 for a wanted sample of b, -1 for an unwanted one, and its weight.
func (o kto) of(b *data.Batch, s int) (sign, weight float64) {
	if wanted(b, s) {
		return 1, o.wanted
	}
	return -1, o.unwanted
}

// wanted reports whether sample s of b is wanted: by its mark, or as the first of
// its group.
func wanted(b *data.Batch, s int) bool {
	if b.Group[s] != 0 {
		return s == 0 || b.Group[s-1] != b.Group[s]
	}
	return b.Mark[s] > 0
}

// ratioOf is the log-probability of sample s of b less the reference's.
func ratioOf(b *data.Batch, p LogProbs, s int) float64 {
	return sumOf(b, p.Policy, s) - sumOf(b, p.Reference, s)
}

// answersScore has the values of losses of single answers, which call their
// baseline so.
func answersScore(baseline string) Score {
	return Score{Values: Values{{Name: "rewards/chosen"}, {Name: "rewards/rejected"}, {Name: margins}, {Name: "logps/chosen"}, {Name: "logps/rejected"}, {Name: baseline}},
		Of: make([]float64, 6)}
}

// addAnswer adds an answer to the values of answersScore.
func (s *Score) addAnswer(wanted bool, reward, logp, baseline float64) {
	at := 0
	if !wanted {
		at = 1
	}
	for _, x := range []struct {
		i int
		v float64
	}{{at, reward}, {2, 0}, {3 + at, logp}, {5, baseline}} { // margins are made of the first two
		s.Values[x.i].V += x.v
		s.Of[x.i]++
	}
}
