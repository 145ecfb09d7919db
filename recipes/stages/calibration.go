package stages

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/quant"
	"github.com/tunekit/tunekit/quant/gguf"
	"github.com/tunekit/tunekit/recipes"
)

// calibrationText is the text a quantizer sees: the training rows of an ingest
// stage in order, or a file, put together and cut into samples of length
// tokens.
func calibrationText(ctx context.Context, x *recipes.Env, j *recipes.Job, ref recipes.Ref, src *arch.Source, samples, length int) ([][]int32, error) {
	if ref.Stage != "" {
		ds, err := dataset(ctx, x, ref, recipes.Ref{}, "")
		if err != nil {
			return nil, err
		}
		if src.Spec.Encoder > 0 {
			return pairs(ds.Train, samples)
		}
		return cut(ds.Train, samples, min(length, src.Spec.MaxPos))
	}
	return calibrationFile(ctx, data.Source{Path: ref.Path}, x.Dir(j), src, samples, length)
}

// calibrationFile reads calibration text from a file with the model's own
// tokenizer, in samples of at most length tokens and the model's context. beside is as
// EvalFile has it.
func calibrationFile(ctx context.Context, file data.Source, beside string, src *arch.Source, samples, length int) ([][]int32, error) {
	tok, err := tokenizer.Open(src.Reader)
	if err != nil {
		return nil, err
	}
	length = min(length, src.Spec.MaxPos)
	rows, text, err := EvalFile(ctx, file, beside, tok, length, &src.Spec, samples*length, noteTo(nil))
	if err != nil {
		return nil, err
	}
	if rows.Len() == 0 {
		rows = data.InMemory(data.Example{IDs: text})
	}
	if src.Spec.Encoder > 0 && len(text) == 0 {
		return pairs(rows, samples)
	}
	out, err := cut(rows, samples, length)
	if err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, fail.Inputf(file.Path, "give more text, or a smaller max_length", "fewer than %d tokens", length)
	}
	return out, nil
}

// pairs are the first samples of rows, whole, with the border of prompt and answer. (Of a
// plain text an encoder reads the first half of every piece.)
func pairs(ex data.Examples, samples int) ([][]int32, error) {
	rows, err := ex.Read(samples)
	if err != nil {
		return nil, err
	}
	var out [][]int32
	for _, e := range rows {
		prompt, answer := e.Answer()
		out = append(out, slices.Concat(prompt, []int32{model.Border}, answer))
	}
	return out, nil
}

// cut joins rows and cuts them into at most samples pieces of length tokens;
// a last shorter piece is used only when there is no other.
func cut(ex data.Examples, samples, length int) ([][]int32, error) {
	rows, err := ex.ReadTokens(samples * length)
	if err != nil {
		return nil, err
	}
	var out [][]int32
	var piece []int32
	for _, e := range rows {
		for ids := e.IDs; len(ids) > 0 && len(out) < samples; {
			n := min(length-len(piece), len(ids))
			piece, ids = append(piece, ids[:n]...), ids[n:]
			if len(piece) == length {
				out, piece = append(out, slices.Clip(piece)), nil
			}
		}
	}
	if len(out) == 0 && len(piece) > 0 {
		out = append(out, piece)
	}
	return out, nil
}

// calibrationPlan is how much text a walk over the blocks sees, and what the
// layers of one input cost.
type calibrationPlan struct {
	samples, length int
	work            func(tokens, in, out float64) float64
}

// planCalibration adds the time of a walk over the blocks with calibration text,
// and returns text of that size, nil before a run has looked at the rows: each block runs on all tokens before and after it
// is quantized, and every input of a linear map gives a Hessian or a statistic.
func planCalibration(p *recipes.Planner, ref recipes.Ref, s *recipes.StagePlan, src *arch.Source, c calibrationPlan) ([][]int32, error) {
	tokens := c.samples * c.length
	if ref.Stage != "" {
		rows, err := rowsOf(p, ref.Stage)
		switch {
		case err != nil || p.Quick && rows.unknown != "":
			return nil, err
		case rows.unknown == "":
			tokens = int(min(int64(tokens), max(rows.trainTokens, 1)))
		}
	}
	m, err := dryModel(dry.New(dry.Options{}), src)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	var spent, widest float64
	for _, b := range m.Blocks {
		for _, step := range b.Steps() {
			in, out := float64(step.Linears[0].In()), 0.0
			for _, l := range step.Linears {
				out += float64(l.W.Rows)
			}
			spent += c.work(float64(tokens), in, out)
			widest = max(widest, in)
		}
	}
	s.Seconds += p.Rates.Seconds(dry.Work{Matrix: spent}, false)
	if float64(tokens) < 4*widest {
		s.Note("%s calibration tokens are few for %d columns: 4 times as many are a good start", humanize.Comma(int64(tokens)), int(widest))
	}
	seq := make([]int32, min(c.length, tokens))
	return slices.Repeat([][]int32{seq}, tokens/len(seq)), nil
}

// CollectImatrix is `quant imatrix`, of the model at path, for a file beside output, over samples of the text behind
// its first skip ones; head collects for the output layer, too.
func CollectImatrix(ctx context.Context, dev kernels.Backend, path, output string, calibration data.Source, head bool, skip, samples, length int, progress func(done, total int64)) (*gguf.Imatrix, error) {
	src, err := OpenSource(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	cal, err := calibrationFile(ctx, calibration, output, src, skip+samples, length)
	if err != nil {
		return nil, err
	}
	if skip >= len(cal) {
		return nil, fail.Inputf(calibration.Path, "leave fewer out, or give more text", "it makes %d samples of %d tokens, and %d are left out", len(cal), length, skip)
	}
	cal = cal[skip:]
	return collectImatrix(ctx, dev, src, cal, filepath.Base(calibration.Path), head, progress)
}

// collectImatrix runs calibration text through a model as llama-imatrix does:
// a model whose texts begin with a BOS sees one at the start of every sample.
func collectImatrix(ctx context.Context, dev kernels.Backend, src *arch.Source, cal [][]int32, name string, head bool, progress func(done, total int64)) (*gguf.Imatrix, error) {
	tok, err := tokenizer.Open(src.Reader)
	if err != nil {
		return nil, err
	}
	o := quant.ImatrixOptions{Datasets: []string{name}, Output: head, Progress: progress, HasBOS: tok.AddsBOS() && tok.BOS() >= 0, BOS: tok.BOS()}
	if err := room(dev, src.Reader.Path(), func(dev *dry.Dry) error {
		shapes, err := shapesOf(src)
		if err == nil {
			_, err = quant.CollectImatrix(ctx, dev, shapes, cal, quant.ImatrixOptions{Output: head, HasBOS: o.HasBOS, BOS: o.BOS})
		}
		return err
	}); err != nil {
		return nil, err
	}
	return quant.CollectImatrix(ctx, dev, src, cal, o)
}
