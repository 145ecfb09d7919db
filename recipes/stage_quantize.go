package recipes

import "context"

type QuantizeResult struct{}

func runQuantize(ctx context.Context, x *run, j *Job, res *Result) error { panic("later") }
