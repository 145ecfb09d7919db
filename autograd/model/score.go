package model

import (
	"context"

	"github.com/tunekit/tunekit/autograd"
)

// Scores are per-token results over a text.
type Scores struct {
	LogP   []float32 // log p of each token given those before it in its window; 0 for the first of a window
	Argmax []int32   // the token the model thought most likely there; -1 for the first of a window
	Count  int       // tokens that were predicted
}

// Score predicts every token of ids from those before it in consecutive
// windows that do not overlap (the first token of each is not predicted).
// bf16 rounds products as in training.
func (m *Model) Score(ctx context.Context, ids []int32, window int, bf16 bool, progress func(done, total int64)) (*Scores, error) {
	out := &Scores{LogP: make([]float32, len(ids)), Argmax: make([]int32, len(ids))}
	for i := 0; i < len(ids); i += window {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		w := ids[i:min(i+window, len(ids))]
		out.Argmax[i] = -1
		if err := m.Dev.Run(func() error { return m.score(w, bf16, out.LogP[i:], out.Argmax[i:]) }); err != nil {
			return nil, err
		}
		out.Count += len(w) - 1
		if progress != nil {
			progress(int64(i+len(w)), int64(len(ids)))
		}
	}
	return out, nil
}

// score writes the results of one window; logp[j], arg[j] are about token j.
func (m *Model) score(ids []int32, bf16 bool, logp []float32, arg []int32) error {
	n := len(ids) - 1
	if n == 0 {
		return nil
	}
	t := &autograd.Tape{Dev: m.Dev, BF16: bf16}
	defer t.Free()
	h := m.Hidden(t, Inputs{IDs: ids[:n]})
	if t.Err() != nil {
		return t.Err()
	}
	r := m.LogProb(t, h, ids[1:], nil)
	lp, err := t.Values(r.LogP)
	if err != nil {
		return err
	}
	am, err := t.Ints(r.Argmax)
	copy(logp[1:], lp)
	copy(arg[1:], am)
	return err
}
