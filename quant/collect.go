package quant

import (
	"context"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/kernels"
)

// ImatrixOptions say how an importance matrix is collected.
type ImatrixOptions struct {
	// Chunk cuts the calibration text, all sequences put together, into passes
	// of this many tokens and drops the rest, as llama-imatrix does with its
	// context size; 0 runs every sequence by itself.
	Chunk int
	// BOS replaces the first token of every chunk when HasBOS is set, as
	// llama-imatrix does for models that begin with one.
	BOS      int32
	HasBOS   bool
	Datasets []string // names for the file
	Progress func(done, total int64)
}

// CollectImatrix runs the model over calibration text and sums the squares of the input
// columns of every linear map of its blocks, under GGUF names. Like
// llama-imatrix (without --process-output) it leaves the head out.
func CollectImatrix(ctx context.Context, dev kernels.Backend, src *arch.Source, calibration [][]int32, o ImatrixOptions) (*Imatrix, error) {
	panic("quant: not yet")
}
