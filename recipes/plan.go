package recipes

import (
	"context"
	"io"
)

// StagePlan is what one stage would do.
type StagePlan struct {
	Stage string `json:"stage"`
}

// Plan is what a run would do.
type Plan struct {
	Stages []StagePlan `json:"stages"`
}

// Plan computes it.
func (r *Recipe) Plan(ctx context.Context, o RunOptions) (*Plan, error) { return &Plan{}, nil }

// Print writes it.
func (p *Plan) Print(w io.Writer, full bool) {}

func planIngest(x *run, j *Job, p *StagePlan) error   { return nil }
func planTrain(x *run, j *Job, p *StagePlan) error    { return nil }
func planMerge(x *run, j *Job, p *StagePlan) error    { return nil }
func planQuantize(x *run, j *Job, p *StagePlan) error { return nil }
func planExport(x *run, j *Job, p *StagePlan) error   { return nil }
func planEval(x *run, j *Job, p *StagePlan) error     { return nil }
