package recipes

import (
	"context"

	"github.com/tunekit/tunekit/quant"
)

// importance finds the importance matrix of an export stage: a file, or the
// rows of an ingest stage run through the model. nil when none is asked for.
func (x *run) importance(ctx context.Context, j *Job) (*quant.Imatrix, error) {
	return nil, nil
}
