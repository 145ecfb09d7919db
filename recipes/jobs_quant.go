package recipes

import (
	"context"
	"os"
	"path/filepath"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/quant"
	"github.com/tunekit/tunekit/quant/gguf"
)

// openSource opens a model by path or reference without reading weights.
func openSource(path string) (*arch.Source, error) {
	local, err := resolvePath(path)
	if err != nil {
		return nil, err
	}
	return arch.Open(local)
}

// QuantizeFolder is `quant gptq` and its siblings: one model into one folder
// with its tokenizer and quantization.json.
func QuantizeFolder(ctx context.Context, dev kernels.Backend, model string, job quant.FolderJob, calibration string, length int, progress func(done, total int64)) (*quant.Report, error) {
	src, err := openSource(model)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	if job.Files, err = modelFiles(src); err != nil {
		return nil, err
	}
	if _, err := quant.PlanFolder(src, job); err != nil { // before text is read
		return nil, err
	}
	var cal [][]int32
	if quant.Calibrated(job.Method) {
		if cal, err = CalibrationFile(ctx, calibration, src, job.Samples, length); err != nil {
			return nil, err
		}
	}
	reps, err := quant.Folder(ctx, dev, src, []quant.FolderJob{job}, cal, progress)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fail.Interruptedf(job.Path, "run the same command again to go on", "interrupted: %w", err)
		}
		return nil, err
	}
	return reps[0], atomic.WriteFile(filepath.Join(job.Path, quantReport), reps[0].Lines())
}

// CollectImatrix is `quant imatrix`.
func CollectImatrix(ctx context.Context, dev kernels.Backend, model, calibration string, samples, length int, progress func(done, total int64)) (*gguf.Imatrix, error) {
	src, err := openSource(model)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	cal, err := CalibrationFile(ctx, calibration, src, samples, length)
	if err != nil {
		return nil, err
	}
	return collectImatrix(ctx, dev, src, cal, filepath.Base(calibration), progress)
}

// collectImatrix runs calibration text through a model as llama-imatrix does:
// a model whose texts begin with a BOS sees one at the start of every sample.
func collectImatrix(ctx context.Context, dev kernels.Backend, src *arch.Source, cal [][]int32, name string, progress func(done, total int64)) (*gguf.Imatrix, error) {
	tok, err := openTokenizer(src)
	if err != nil {
		return nil, err
	}
	o := quant.ImatrixOptions{Datasets: []string{name}, Progress: progress, HasBOS: tok.AddsBOS() && tok.BOS() >= 0, BOS: tok.BOS()}
	return quant.CollectImatrix(ctx, dev, src, cal, o)
}

// AppendText adds text to a file.
func AppendText(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return fail.Limitf(path, "", "%w", err)
	}
	return atomic.WriteFile(path, append(old, text...))
}
