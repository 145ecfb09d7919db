package train

import (
	"math"

	"github.com/tunekit/tunekit/data"
)

// orpo is odds ratio preference optimization (Hong et al. 2024,
// arXiv:2403.07691), which needs no reference: the mean loss over all tokens of
// prompt and chosen answer, less beta times the mean over pairs of
// log σ(log odds(chosen) - log odds(rejected)), where an answer's probability is
// the exponential of its mean log-probability a token.
type orpo struct{ beta float64 }

func newORPO(c Config) Objective { return orpo{*c.Beta} }

func (orpo) Reads() Reads { return ReadsPolicy }

func (orpo) Samples() int { return 2 }

func (orpo) Unit() string { return "pair" }

func (orpo) Count(b *data.Batch) int64 { return int64(len(b.Seq)-1) / 2 }

// readTokens counts the tokens of b's chosen samples that have one before them.
func readTokens(b *data.Batch) (n int64) {
	for s := 0; s+2 < len(b.Seq); s += 2 {
		n += int64(b.Seq[s+1] - b.Seq[s] - 1)
	}
	return n
}

// readTargets are b's targets and, in chosen samples, the prompt's.
func readTargets(b *data.Batch) []int32 {
	out := append([]int32(nil), b.Target...)
	for s := 0; s+2 < len(b.Seq); s += 2 {
		for i := b.Seq[s]; i+1 < b.Seq[s+1]; i++ {
			out[i] = b.IDs[i+1]
		}
	}
	return out
}

func (o orpo) Weigh(b *data.Batch, p LogProbs, total int64) []float32 {
	out := make([]float32, len(b.Target))
	for s := 0; s+2 < len(b.Seq); s += 2 {
		x := o.odds(b, p, s)
		w := o.beta * sigmoid(-x.log) / float64(total)
		weighTargets(b, out, s, w*x.slopeChosen)
		weighTargets(b, out, s+1, -w*x.slopeRejected)
		for i := b.Seq[s]; i+1 < b.Seq[s+1]; i++ {
			out[i] += float32(1 / float64(p.Tokens))
		}
	}
	return out
}

func (o orpo) Score(b *data.Batch, p LogProbs) Score {
	s := Score{Values: pairValues("nll_loss", "log_odds_ratio", "log_odds_chosen"), Of: make([]float64, 9)}
	for k := 0; k+2 < len(b.Seq); k += 2 {
		x := o.odds(b, p, k)
		ratio := -softplus(-x.log)
		s.Loss -= o.beta * ratio
		s.addPair(o.beta*x.chosen, o.beta*x.rejected, x.chosen, x.rejected)
		nll := 0.0
		for i := b.Seq[k]; i+1 < b.Seq[k+1]; i++ {
			nll -= float64(p.Policy[i])
		}
		s.Tokens += nll
		for i, v := range []float64{nll, ratio, x.log} {
			s.Values[6+i].V += v
			s.Of[6+i] += []float64{float64(b.Seq[k+1] - b.Seq[k] - 1), 1, 1}[i] // the first is a mean over tokens
		}
	}
	return s
}

// odds is a pair: the mean log-probabilities of both answers, the log of the ratio of
// their odds, and its derivatives by the log-probability of each token.
type odds struct{ chosen, rejected, log, slopeChosen, slopeRejected float64 }

func (o orpo) odds(b *data.Batch, p LogProbs, s int) odds {
	n, m := math.Max(1, float64(targetsOf(b, s))), math.Max(1, float64(targetsOf(b, s+1)))
	x := odds{chosen: sumOf(b, p.Policy, s) / n, rejected: sumOf(b, p.Policy, s+1) / m}
	lc, sc := logOdds(x.chosen)
	lr, sr := logOdds(x.rejected)
	x.log, x.slopeChosen, x.slopeRejected = lc-lr, sc/n, sr/m
	return x
}

// surest is the log-probability above which odds are taken to grow no more: that of
// the float32 next to 1.
const surest = -6e-8

// logOdds is log(p/(1-p)) of log p, and its derivative.
func logOdds(logp float64) (log, slope float64) {
	logp = math.Min(logp, surest)
	other := -math.Expm1(logp) // 1-p
	return logp - math.Log(other), 1 / other
}
