package train

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/par"
)

// Teach gives the samples of ex what a teacher expects of each of their supervised
// tokens: its LossTopK most likely ones, at c's temperature, of the v tokens that the
// model in training has. What the file at path has of
// them for the teacher that key names is taken; else ask opens the teacher, which has
// them written there.
func Teach(ctx context.Context, c Config, path, key string, ex data.Examples, v int, ask func() (*model.Model, error), progress func(done, total int64)) (data.Examples, error) {
	key = fmt.Sprint(key, " ", c.LossTopK, " ", *c.Temperature)
	taught, err := data.WithTaught(path, key, ex, c.LossTopK, v)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, data.ErrOtherTeacher) {
		m, merr := ask()
		if merr != nil {
			return ex, merr
		}
		if err := sameTokens(m.Spec.V, v); err != nil {
			return ex, err
		}
		if c.LossTopK > m.Spec.V {
			return ex, fail.Usagef("train.loss_top_k", "leave it out to compare with all", "loss_top_k: %d of a teacher of %d tokens", c.LossTopK, m.Spec.V)
		}
		done := int64(0)
		err = data.WriteTaught(path, key, ex, func(e data.Example) ([]int32, []float32, error) {
			if err := ctx.Err(); err != nil {
				return nil, nil, err
			}
			done++
			progress(done, int64(ex.Len()))
			return expected(m, e, c.LossTopK, float32(*c.Temperature), c.DType == "bf16" || c.DType == "auto" && m.Dev.Info().FastBF16)
		})
		if err == nil {
			taught, err = data.WithTaught(path, key, ex, c.LossTopK, v)
		}
	}
	return taught, err
}

// teachRows is how many rows of a teacher's logits are looked at at a time.
const teachRows = 64

// expected are the k likeliest tokens in place of each supervised one of e, most
// likely first and ties to the lowest id, and their log-probabilities at temperature.
func expected(m *model.Model, e data.Example, k int, temperature float32, bf16 bool) (ids []int32, logp []float32, err error) {
	l, err := data.NewLoader(data.InMemory(e), data.LoaderOptions{Packing: "none"})
	if err != nil {
		return nil, nil, err
	}
	s, err := l.Step(0)
	if err != nil {
		return nil, nil, err
	}
	b := &s.Micro[0]
	var rows []int32
	for i, t := range b.Target {
		if t >= 0 {
			rows = append(rows, int32(i))
		}
	}
	err = m.Dev.Run(func() error {
		t := &autograd.Tape{Dev: m.Dev, BF16: bf16}
		defer t.Free()
		h := m.Hidden(t, inputs(b))
		for lo := 0; lo < len(rows) && t.Err() == nil; lo += teachRows {
			n := min(teachRows, len(rows)-lo)
			x := t.Rows(h, t.Upload(rows[lo:lo+n], n, 1))
			logits := m.Logits(t, x)
			z, err := t.Values(logits)
			if err != nil {
				return err
			}
			v := m.Spec.V
			at, p := make([]int32, n*k), make([]float32, n*k)
			par.For(n, 1, func(from, to int) {
				for i := from; i < to; i++ {
					mostLikely(at[i*k:(i+1)*k], p[i*k:(i+1)*k], z[i*v:(i+1)*v], float64(temperature))
				}
			})
			ids, logp = append(ids, at...), append(logp, p...)
			t.Done(logits)
			t.Done(x)
		}
		return t.Err()
	})
	return ids, logp, err
}

// mostLikely sets ids to the indices of the largest logits of z, the largest first, and logp
// to their log-probabilities at temperature. What these leave to all others is a small
// difference of 1, so the sum is in float64.
func mostLikely(ids []int32, logp, z []float32, temperature float64) {
	copy(ids, likeliest(z, len(ids)))
	top, sum := float64(z[ids[0]]), 0.0
	for _, x := range z {
		sum += math.Exp((float64(x) - top) / temperature)
	}
	for i, id := range ids {
		logp[i] = float32(min(0, (float64(z[id])-top)/temperature-math.Log(sum)))
	}
}

// likeliest are the indices of the k largest of z, the largest first.
func likeliest(z []float32, k int) []int32 {
	h := &smallest{z: z}
	for i := range z {
		switch {
		case len(h.ids) < k:
			heap.Push(h, int32(i))
		case z[i] > z[h.ids[0]]:
			h.ids[0] = int32(i)
			heap.Fix(h, 0)
		}
	}
	out := make([]int32, len(h.ids))
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = heap.Pop(h).(int32)
	}
	return out
}

// smallest is a heap of indices of z with the smallest, of equals the last, on top.
type smallest struct {
	z   []float32
	ids []int32
}

func (h *smallest) Len() int { return len(h.ids) }
func (h *smallest) Less(i, j int) bool {
	a, b := h.ids[i], h.ids[j]
	return h.z[a] < h.z[b] || h.z[a] == h.z[b] && a > b
}
func (h *smallest) Swap(i, j int) { h.ids[i], h.ids[j] = h.ids[j], h.ids[i] }
func (h *smallest) Push(x any)    { h.ids = append(h.ids, x.(int32)) }
func (h *smallest) Pop() any {
	last := h.ids[len(h.ids)-1]
	h.ids = h.ids[:len(h.ids)-1]
	return last
}
