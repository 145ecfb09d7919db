package recipes

import "context"

// stageKind is what the runner needs of a kind of stage.
type stageKind struct {
	plan func(p *planner, j *Job, s *StagePlan) error
	run  func(ctx context.Context, x *run, j *Job, res *Result) error
}

// stageKinds is the table. A new kind is one line here, one in Stage and a
// file.
var stageKinds map[string]stageKind

func init() { // the stages refer to the table through the runner
	stageKinds = map[string]stageKind{
		"ingest":   {planIngest, runIngest},
		"train":    {planTrain, runTrain},
		"merge":    {planMerge, runMerge},
		"quantize": {planQuantize, runQuantize},
		"export":   {planExport, runExport},
		"eval":     {planEval, runEval},
	}
}
