package eval

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Score is what one sample gave. Sums are over its positions.
type Score struct {
	Targets int     `json:"n"`
	NLL     float64 `json:"nll"`           // Σ -log p(token)
	Pos     int     `json:"pos,omitempty"` // positions compared with a reference
	KL      float64 `json:"kl,omitempty"`  // Σ KL(reference ‖ model), nats
	Same    float64 `json:"same,omitempty"`
	// KLs are the single divergences, for percentiles.
	KLs []float32 `json:"-"`
}

// ScoreOptions say how samples are run.
type ScoreOptions struct {
	BF16     bool // products rounded as in bf16 arithmetic
	Progress func(done, total int64)
}

// compareRows is how many rows of logits are held at a time.
const compareRows = 128

// Run scores every sample on m and, when ref is not nil, compares the two
// models' distributions at every position that counts. The models must have
// one vocabulary.
func Run(ctx context.Context, m, ref *model.Model, samples []Sample, o ScoreOptions) ([]Score, error) {
	size := func(s Sample) int { return len(s.IDs) }
	var total, done int64
	for _, s := range samples {
		total += int64(size(s))
	}
	out := make([]Score, len(samples))
	at := 0
	for _, pass := range model.Passes(samples, size) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := scorePass(m, ref, pass, out[at:at+len(pass)], o); err != nil {
			return nil, err
		}
		at += len(pass)
		for _, s := range pass {
			done += int64(size(s))
		}
		if o.Progress != nil {
			o.Progress(done, total)
		}
	}
	return out, nil
}

// scorePass scores samples. Where memory is short, fewer blocks of the models stay
// in it, which changes no score.
func scorePass(m, ref *model.Model, samples []Sample, out []Score, o ScoreOptions) error {
	for {
		scores := make([]Score, len(samples))
		err := scoreBatch(m, ref, samples, scores, o)
		if errors.Is(err, kernels.ErrOutOfMemory) && (ref != nil && ref.Evict() || m.Evict()) {
			continue
		}
		copy(out, scores)
		return err
	}
}

// batch is a packed pass: rows are the positions that count.
type batch struct {
	in     model.Inputs
	rows   []int32 // index into the packed tokens
	target []int32 // token to predict, -1 for none
	owner  []int   // sample of each row
}

func newBatch(samples []Sample) batch {
	var b batch
	var seqs [][]int32
	var from []int32 // what is predicted first: an encoder reads what lies before it
	base := int32(0)
	for i, s := range samples {
		seqs = append(seqs, s.IDs)
		for _, r := range s.At {
			for p := r[0]; p < r[1]; p++ {
				t := int32(-1)
				if int(p)+1 < len(s.IDs) {
					t = s.IDs[p+1]
				}
				b.rows, b.target, b.owner = append(b.rows, base+p), append(b.target, t), append(b.owner, i)
			}
		}
		base += int32(len(s.IDs))
		from = append(from, s.At[0][0]+1)
	}
	b.in = model.Pack(seqs...)
	b.in.From = from
	return b
}

func scoreBatch(m, ref *model.Model, samples []Sample, out []Score, o ScoreOptions) error {
	b := newBatch(samples)
	return m.Dev.Run(func() error {
		t := &autograd.Tape{Dev: m.Dev, BF16: o.BF16}
		defer t.Free()
		idx := t.Upload(b.rows, len(b.rows))
		h := t.Rows(m.Hidden(t, b.in), idx)
		if t.Err() != nil {
			return t.Err()
		}
		lp, err := t.Values(m.LogProb(t, h, b.target, nil).LogP)
		if err != nil {
			return err
		}
		for i, own := range b.owner {
			if b.target[i] >= 0 {
				if !finite(lp[i]) {
					return notFinite("log-probability", lp[i])
				}
				out[own].Targets++
				out[own].NLL -= float64(lp[i])
			}
		}
		if ref == nil {
			return nil
		}
		hr := t.Rows(ref.Hidden(t, b.in), idx)
		return compare(t, m, ref, h, hr, b.owner, out)
	})
}

// compare adds the divergence of m from ref, a few rows of logits at a time.
func compare(t *autograd.Tape, m, ref *model.Model, h, hr *autograd.Tensor, owner []int, out []Score) error {
	n, v := len(owner), m.Spec.V
	kl, err := m.Dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), compareRows)
	if err != nil {
		return err
	}
	defer m.Dev.Free(kl)
	top, err := m.Dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), compareRows)
	if err != nil {
		return err
	}
	defer m.Dev.Free(top)
	for lo := 0; lo < n; lo += compareRows {
		rows := min(compareRows, n-lo)
		idx := make([]int32, rows)
		for i := range idx {
			idx[i] = int32(lo + i)
		}
		it := t.Upload(idx, rows)
		x, y := t.Rows(h, it), t.Rows(hr, it)
		a, r := m.Logits(t, x), ref.Logits(t, y)
		if t.Err() != nil {
			return t.Err()
		}
		m.Dev.LogitStats(kernels.To(kl), kernels.To(top), &kernels.LogitStatsArgs{N: rows, V: v, Logits: a.Data, Ref: r.Data})
		k, err := download(m.Dev, kl, rows)
		if err != nil {
			return err
		}
		s, err := download(m.Dev, top, rows)
		if err != nil {
			return err
		}
		t.Done(it, x, y, a, r)
		for i := range rows {
			if !finite(k[i]) {
				return notFinite("divergence from its reference", k[i])
			}
			sc := &out[owner[lo+i]]
			sc.Pos++
			sc.KL += float64(k[i])
			sc.Same += float64(s[i])
			sc.KLs = append(sc.KLs, k[i])
		}
	}
	return nil
}

func finite(x float32) bool { return x-x == 0 }

func notFinite(what string, x float32) error {
	return fail.Numericf("", "--dtype f32 has a wider range; does tune verify find its weights finite?", "the model's %s is %v at a token", what, x)
}

func download(dev kernels.Backend, b kernels.Buffer, n int) ([]float32, error) {
	raw := make([]byte, 4*n)
	if err := dev.Download(raw, dev.Slice(b, 0, n)); err != nil {
		return nil, err
	}
	out := make([]float32, n)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out, nil
}

// Metric is one number about one model.
type Metric struct {
	Model  string  `json:"model,omitempty"`
	Task   string  `json:"task"`
	Metric string  `json:"metric"`
	Value  float64 `json:"value"`
	StdErr float64 `json:"stderr"`
	N      int     `json:"n"`
}

// Perplexity is exp of the mean negative log-likelihood a token. Its error is
// from the spread between samples (the tokens of one are not independent).
func Perplexity(scores []Score) Metric {
	mean, se, n := ratio(scores, func(s *Score) (float64, float64) { return s.NLL, float64(s.Targets) })
	ppl := PerplexityOf(mean)
	return Metric{Task: "perplexity", Metric: "perplexity", Value: ppl, StdErr: math.Min(ppl*se, math.MaxFloat64), N: int(n)}
}

// PerplexityOf is exp(loss), at most the largest number that JSON can hold.
func PerplexityOf(loss float64) float64 { return math.Min(math.Exp(loss), math.MaxFloat64) }

// KL is the mean divergence from the reference a position, its 99 % and median
// positions, and the share of positions where both think the same token most
// likely.
func KL(scores []Score) []Metric {
	mean, se, n := ratio(scores, func(s *Score) (float64, float64) { return s.KL, float64(s.Pos) })
	var all []float32
	for _, s := range scores {
		all = append(all, s.KLs...)
	}
	slices.Sort(all)
	return []Metric{
		{Task: "kl", Metric: "kl", Value: mean, StdErr: se, N: int(n)},
		{Task: "kl", Metric: "kl_median", Value: quantile(all, 0.5), N: int(n)},
		{Task: "kl", Metric: "kl_p99", Value: quantile(all, 0.99), N: int(n)},
		{Task: "kl", Metric: "kl_max", Value: quantile(all, 1), N: int(n)},
	}
}

// Top1 is the share of positions where model and reference agree.
func Top1(scores []Score) Metric {
	mean, se, n := ratio(scores, func(s *Score) (float64, float64) { return s.Same, float64(s.Pos) })
	return Metric{Task: "top1", Metric: "top1", Value: mean, StdErr: se, N: int(n)}
}

// quantile interpolates linearly between order statistics, as NumPy does.
func quantile(sorted []float32, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	lo := int(at)
	hi := min(lo+1, len(sorted)-1)
	f := at - float64(lo)
	return float64(sorted[lo])*(1-f) + float64(sorted[hi])*f
}

// ratio is Σa/Σb with the standard error of a ratio estimator over samples.
func ratio(scores []Score, f func(*Score) (a, b float64)) (mean, se, n float64) {
	var sa, sb float64
	for i := range scores {
		a, b := f(&scores[i])
		sa, sb = sa+a, sb+b
	}
	if sb == 0 {
		return math.NaN(), math.NaN(), 0
	}
	mean = sa / sb
	var q float64
	for i := range scores {
		a, b := f(&scores[i])
		q += (a - mean*b) * (a - mean*b)
	}
	k := float64(len(scores))
	if k > 1 {
		se = math.Sqrt(q*k/(k-1)) / sb
	}
	return mean, se, sb
}
