package lora

import (
	"context"
	"math"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// Divergence compares the next-token distributions of two models.
type Divergence struct {
	KL     float64 `json:"kl"`     // mean over tokens of Σ p_ref·(log p_ref - log p), in nats
	Max    float64 `json:"max"`    // largest of a token
	Top1   float64 `json:"top1"`   // share of tokens with the same most likely next token
	Tokens int64   `json:"tokens"` // compared
}

// Compare measures m against ref on the tokens of batches that have a target;
// where no token has one, on all. Both must have the same vocabulary.
func Compare(ctx context.Context, ref, m *model.Model, batches []data.Batch) (Divergence, error) {
	var d Divergence
	if ref.Spec.V != m.Spec.V {
		return d, fail.Inputf("kl", "", "the models have %d and %d tokens", ref.Spec.V, m.Spec.V)
	}
	sum, same := 0.0, 0.0
	for _, b := range batches {
		if err := ctx.Err(); err != nil {
			return d, err
		}
		kl, top, err := compareBatch(ref, m, b)
		if err != nil {
			return d, err
		}
		for i := range kl {
			if b.Supervised > 0 && b.Target[i] < 0 {
				continue
			}
			sum, same = sum+float64(kl[i]), same+float64(top[i])
			d.Max = math.Max(d.Max, float64(kl[i]))
			d.Tokens++
		}
	}
	if d.Tokens == 0 {
		return d, fail.Inputf("kl", "give data to measure on", "there is no token to measure the KL on")
	}
	d.KL, d.Top1 = sum/float64(d.Tokens), same/float64(d.Tokens)
	return d, nil
}

// logitRows is how many tokens' logits are in memory at once: a function of
// the vocabulary alone.
func logitRows(v int) int { return max(16, 1<<23/v) }

// compareBatch returns KL and top-1 agreement of every token of b.
func compareBatch(ref, m *model.Model, b data.Batch) (kl, top []float32, err error) {
	n, v := len(b.IDs), m.Spec.V
	kl, top = make([]float32, n), make([]float32, n)
	dev := m.Dev
	in := model.Inputs{IDs: b.IDs, Pos: b.Pos, Seq: b.Seq}
	err = dev.Run(func() error {
		t := &autograd.Tape{Dev: dev}
		defer t.Free()
		hr, hm := ref.Hidden(t, in), m.Hidden(t, in)
		for i := 0; i < n && t.Err() == nil; i += logitRows(v) {
			rows := min(logitRows(v), n-i)
			if err := compareRows(ref, m, t.View(hr, i, rows), t.View(hm, i, rows), kl[i:i+rows], top[i:i+rows]); err != nil {
				return err
			}
		}
		return t.Err()
	})
	return kl, top, err
}

func compareRows(ref, m *model.Model, hr, hm *autograd.Tensor, kl, top []float32) error {
	dev := m.Dev
	t := &autograd.Tape{Dev: dev}
	defer t.Free()
	lr, lm := ref.Logits(t, hr), m.Logits(t, hm)
	k, s := t.New(len(kl)), t.New(len(kl))
	if t.Err() != nil {
		return t.Err()
	}
	dev.LogitStats(kernels.To(k.Data), kernels.To(s.Data), &kernels.LogitStatsArgs{N: len(kl), V: m.Spec.V, Logits: lm.Data, Ref: lr.Data})
	if err := dev.Download(f32bytes(kl), k.Data); err != nil {
		return err
	}
	return dev.Download(f32bytes(top), s.Data)
}

// CheckKL is the gate max_kl: an error of kind fail.Gate above it.
func (d Divergence) CheckKL(where string, limit float64) error {
	if limit > 0 && !(d.KL <= limit) {
		return fail.Gatef(where, "dtype: f32 rounds less; or raise max_kl", "KL between base+adapter and merged is %.3g, max_kl is %.3g (%d tokens)", d.KL, limit, d.Tokens)
	}
	return nil
}
