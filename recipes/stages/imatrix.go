package stages

import (
	"context"
	"path/filepath"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/quant/gguf"
	"github.com/tunekit/tunekit/recipes"
)

// imatrixLength is the tokens of a sample an importance matrix is collected
// over, as llama-imatrix's default.
const imatrixLength = 512

// importance finds the importance matrix of an export stage: a file, or the
// training rows of an ingest stage or a text run through the unquantized
// model. nil when none is asked for. What was collected is kept beside the
// exported files.
func importance(ctx context.Context, x *recipes.Env, j *recipes.Job) (*gguf.Imatrix, error) {
	ref, ok := j.In("imatrix")
	if !ok || j.Options.(*Export).Format == "safetensors" {
		return nil, nil
	}
	if ext := filepath.Ext(ref.Path); ref.Stage == "" && (ext == ".gguf" || ext == ".dat") {
		return gguf.ReadImatrix(ref.Path)
	}
	kept := filepath.Join(x.Dir(j), x.Name()+"-imatrix.gguf")
	if exists(kept) {
		return gguf.ReadImatrix(kept)
	}
	mref, _ := j.In("model")
	src, err := OpenSource(x.Path(mref))
	if err != nil {
		return nil, err
	}
	defer src.Close()
	cal, err := calibrationText(ctx, x, j, ref, src, j.Options.(*Export).Samples, imatrixLength)
	if err != nil {
		return nil, err
	}
	if len(cal) == 0 {
		return nil, fail.Inputf(ref.String(), "give more text", "no text for the importance matrix")
	}
	im, err := collectImatrix(ctx, x.Device(), src, cal, ref.String(), false, x.Progress("tokens"))
	if err != nil {
		return nil, err
	}
	if err := gguf.WriteImatrix(kept, im); err != nil {
		return nil, err
	}
	return gguf.ReadImatrix(kept) // as a later run will read it
}
