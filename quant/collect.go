package quant

import (
	"context"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/quant/gguf"
)

// ImatrixOptions say how an importance matrix is collected.
type ImatrixOptions struct {
	// Chunk cuts the calibration text, all sequences put together, into passes
	// of this many tokens and drops the rest, as llama-imatrix does with its
	// context size; 0 runs every sequence by itself.
	Chunk int
	// BOS replaces the first token of every chunk when HasBOS is set, as
	// llama-imatrix does for models whose texts begin with one.
	BOS      int32
	HasBOS   bool
	Output   bool                    // the head too, where it is a matrix of its own
	Datasets []string                // names for the file
	Progress func(done, total int64) // tokens
}

// CollectImatrix runs the model as it is over calibration text and sums the
// squares of the input columns of every linear map of its blocks, under GGUF
// names. Like llama-imatrix it leaves the head out, unless Output is set (--process-output).
// The chunk size of the result is the length of its longest sequence.
func CollectImatrix(ctx context.Context, dev kernels.Backend, src *arch.Source, calibration [][]int32, o ImatrixOptions) (*gguf.Imatrix, error) {
	seqs, err := chunks(calibration, o)
	if err != nil {
		return nil, err
	}
	m, err := model.Load(dev, src, model.Options{})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	c := &collector{m: m, sums: map[*autograd.Param][]*columnSums{}, output: o.Output && !src.Spec.Tied}
	im := &gguf.Imatrix{Datasets: o.Datasets, Chunks: len(seqs)}
	var done, total int64
	for _, s := range seqs {
		total += int64(len(s))
		im.ChunkSize = max(im.ChunkSize, len(s))
	}
	for _, pass := range passes(seqs) {
		if ctx.Err() != nil {
			return nil, fail.Interruptedf("imatrix", "run the same command again; an importance matrix is collected from the beginning", "stopped after %d of %d tokens", done, total)
		}
		if err := dev.Run(func() error { return c.pass(pass) }); err != nil {
			return nil, err
		}
		for _, s := range pass {
			done += int64(len(s))
		}
		if o.Progress != nil {
			o.Progress(done, total)
		}
	}
	weights := []*autograd.Param{}
	for l := range m.Linears() {
		weights = append(weights, l.W)
	}
	if c.output {
		weights = append(weights, m.Head.W)
	}
	for _, w := range weights {
		for _, f := range m.TensorOf(w).AsGGUF() {
			if e := c.entry(w, f); len(e.Counts) > 0 {
				im.Entries = append(im.Entries, e)
			}
		}
	}
	if err := im.Check(); err != nil {
		return nil, fail.Numericf(src.Reader.Path(), "does the model compute finite values on this text?", "importance matrix: %w", err)
	}
	return im, nil
}

// chunks are the sequences to run.
func chunks(calibration [][]int32, o ImatrixOptions) ([][]int32, error) {
	var out [][]int32
	n := 0
	for _, s := range calibration {
		n += len(s)
		if len(s) > 0 {
			out = append(out, s)
		}
	}
	if o.Chunk > 0 {
		out = out[:0:0]
		all := make([]int32, 0, n)
		for _, s := range calibration {
			all = append(all, s...)
		}
		for i := 0; i+o.Chunk <= n; i += o.Chunk {
			out = append(out, all[i:i+o.Chunk])
		}
	}
	if len(out) == 0 {
		return nil, fail.Inputf("calibration", "give more text, or a smaller chunk", "%d tokens make no chunk of %d", n, o.Chunk)
	}
	if o.HasBOS {
		for i, s := range out {
			out[i] = append([]int32{o.BOS}, s[1:]...)
		}
	}
	return out, nil
}

// passes are sequences, in order, packed for passes over a model.
func passes(seqs [][]int32) [][][]int32 {
	return model.Passes(seqs, func(s []int32) int { return len(s) })
}

// columnSums are Σx² of the input columns of layers that share an input.
type columnSums struct {
	v    []float64
	rows int64
}

type collector struct {
	m    *model.Model
	sums map[*autograd.Param][]*columnSums // of each expert, or one

	output bool // the head's too
}

// pass adds the sums of one packed pass.
func (c *collector) pass(seqs [][]int32) error {
	dev := c.m.Dev
	t := &autograd.Tape{Dev: dev}
	defer t.Free()
	var last *autograd.Tensor // layers that share an input follow one another
	var shared []*columnSums
	t.Tap = func(w *autograd.Param, x *autograd.Tensor, r *autograd.Routed) {
		if x == last {
			c.sums[w] = shared
			return
		}
		for len(c.sums[w]) < r.Experts() {
			c.sums[w] = append(c.sums[w], &columnSums{v: make([]float64, w.Cols)})
		}
		last, shared = x, c.sums[w]
		t.Fail(addRows(t, shared, x, r))
	}
	h := c.m.Hidden(t, model.Pack(seqs...))
	if w := c.m.Head.W; c.output && t.Err() == nil {
		if c.sums[w] == nil {
			c.sums[w] = []*columnSums{{v: make([]float64, w.Cols)}}
		}
		t.Fail(c.sums[w][0].add(t.Dev, h))
	}
	return t.Err()
}

// entry is what was seen of a weight, for one of the tensors that a GGUF keeps it in.
// The parts of the heads of latent attention read one input; of their transposed
// keys llama.cpp counts another, the queries, so that there is nothing to say.
func (c *collector) entry(w *autograd.Param, f arch.FileTensor) gguf.ImatrixEntry {
	e := gguf.ImatrixEntry{Name: f.Name}
	sums := c.sums[w]
	for i := range f.Matrices() {
		s := sums[i%len(sums)]
		of := make([]float32, len(s.v))
		for i, v := range s.v {
			of[i] = float32(v)
		}
		e.Sums = append(e.Sums, f.Columns(of)...)
		e.Counts = append(e.Counts, float32(s.rows))
	}
	return e
}

// addRows adds the rows of x to the sums of their experts, all to the one where
// r is nil.
func addRows(t *autograd.Tape, sums []*columnSums, x *autograd.Tensor, r *autograd.Routed) error {
	if r == nil {
		return sums[0].add(t.Dev, x)
	}
	at, err := t.Ints(r.Group)
	if err != nil {
		return err
	}
	for e, s := range sums {
		if n := int(at[e+1] - at[e]); n > 0 && err == nil {
			err = s.add(t.Dev, t.View(x, int(at[e]), n))
		}
	}
	return err
}

func (s *columnSums) add(dev kernels.Backend, x *autograd.Tensor) error {
	mem := scratch{dev: dev}
	defer mem.free()
	out := mem.alloc(dtype.F32, len(s.v))
	if mem.err != nil {
		return mem.err
	}
	dev.ColStats(kernels.To(out), &kernels.ColStatsArgs{Stat: kernels.SumSq, Rows: x.Rows(), Cols: x.Cols(), X: x.Data})
	v := make([]float32, len(s.v))
	if err := down(dev, v, out); err != nil {
		return err
	}
	for i, x := range v {
		s.v[i] += float64(x)
	}
	s.rows += int64(x.Rows())
	return nil
}

// ImatrixWork is the floating-point operations of collecting an importance
// matrix, for a group of layers with in inputs and out outputs in all.
func ImatrixWork(tokens, in, out float64) float64 { return 2 * tokens * (in*out + in) }
