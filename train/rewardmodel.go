package train

import (
	"math"

	"github.com/tunekit/tunekit/data"
)

// rewardModel trains one on pairs (Bradley and Terry 1952; Ouyang et al.
// 2022, arXiv:2203.02155): the mean of -log σ(chosen - rejected - margin), where
// a text's reward is what the model's head, of one row, says of its last token
// and the margin is the pair's own (Touvron et al. 2023, arXiv:2307.09288). With
// center_rewards_coefficient that times (chosen + rejected)² is added (Eisenstein
// et al. 2023, arXiv:2312.09244).
//
// It reads LogProbs.Policy as the rewards of a batch's samples [S], and weighs
// these: Weigh is how the loss falls with each.
type rewardModel struct{ center float64 }

func newReward(c Config) Objective {
	if c.CenterRewards == nil {
		return rewardModel{}
	}
	return rewardModel{*c.CenterRewards}
}

func (rewardModel) Reads() Reads { return ReadsPolicy }

func (rewardModel) Samples() int { return 2 }

func (rewardModel) Unit() string { return "pair" }

func (rewardModel) Count(b *data.Batch) int64 { return int64(len(b.Seq)-1) / 2 }

func (o rewardModel) Weigh(b *data.Batch, p LogProbs, total int64) []float32 {
	out := make([]float32, len(b.Seq)-1)
	for s := 0; s+1 < len(out); s += 2 {
		c, r := float64(p.Policy[s]), float64(p.Policy[s+1])
		pull, center := sigmoid(float64(b.Mark[s])-(c-r)), 2*o.center*(c+r)
		out[s], out[s+1] = float32((pull-center)/float64(total)), float32((-pull-center)/float64(total))
	}
	return out
}

func (o rewardModel) Score(b *data.Batch, p LogProbs) Score {
	s := Score{Values: Values{{"min_reward", math.Inf(1)}, {"mean_reward", 0}, {"max_reward", math.Inf(-1)}, {"accuracy", 0}, {"margin", 0}}, Of: make([]float64, 5)}
	for k := 0; k+2 < len(b.Seq); k += 2 {
		c, r := float64(p.Policy[k]), float64(p.Policy[k+1])
		s.Loss += softplus(float64(b.Mark[k])-(c-r)) + o.center*(c+r)*(c+r)
		for i, v := range []struct{ v, of float64 }{{min(c, r), 1}, {c + r, 2}, {max(c, r), 1}, {b2f(c > r), 1}, {c - r, 1}} {
			s.Values[i].V = fold(s.Values[i].Name, s.Values[i].V, v.v)
			s.Of[i] += v.of
		}
	}
	return s
}

// rewards is pass for a reward model.
func (r *run) rewards(b *data.Batch, w whole) (s Score, err error) {
	err = r.dev.Run(func() error {
		t := r.tape(w.units > 0)
		defer t.Free()
		h := r.Model.Hidden(t, r.inputs(b, t.Record))
		y := r.Model.Rewards(t, h, b.Seq)
		t.Done(h)
		if t.Err() != nil {
			return t.Err()
		}
		p := LogProbs{}
		if p.Policy, err = t.Values(y); err != nil {
			return err
		}
		s = r.objective.Score(b, p)
		s.parts = r.bySource(b, p)
		r.suspect(b, p.Policy)
		if w.units > 0 {
			weights := r.scaled(r.objective.Weigh(b, p, w.units))
			for i := range weights {
				weights[i] = -weights[i]
			}
			t.SetGrad(y, weights)
		}
		t.Done(y)
		return t.Backward()
	})
	return s, err
}
