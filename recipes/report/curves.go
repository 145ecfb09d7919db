package report

import (
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/train"
)

// Training is what one train stage of a run has logged, finished or not.
type Training struct {
	Name   string              `json:"name"` // of the run's folder and the stage
	Steps  int                 `json:"steps"`
	Tokens int64               `json:"tokens"`
	Loss   *float64            `json:"loss"` // mean over the last tenth of the steps, nil where none had one
	Rate   float64             `json:"tokens_per_second"`
	Spikes int                 `json:"spikes"`
	Best   *train.EvalMetrics  `json:"best,omitempty"` // the best validation, by metric_for_best_model
	Evals  []train.EvalMetrics `json:"validations"`

	steps []train.Metrics
}

// Trainings reads the logs of a run's train stages.
func Trainings(run string) ([]Training, error) {
	var out []Training
	files, _ := fs.Glob(os.DirFS(run), "*/"+train.MetricsFile)
	unfinished, _ := fs.Glob(os.DirFS(run), ".work/*/"+train.MetricsFile)
	seen := map[string]bool{}
	for _, f := range append(files, unfinished...) {
		stage := filepath.Base(filepath.Dir(f))
		if seen[stage] {
			continue
		}
		seen[stage] = true
		steps, evals, err := train.ReadMetrics(filepath.Join(run, f))
		if err != nil {
			return nil, err
		}
		if len(steps) == 0 {
			continue
		}
		out = append(out, trainingOf(filepath.Join(filepath.Clean(run), stage), steps, evals))
	}
	if len(out) == 0 {
		return nil, fail.Usagef(run, "name a folder below runs/ with a train stage that has begun", "no training in this run")
	}
	return out, nil
}

func trainingOf(name string, steps []train.Metrics, evals []train.EvalMetrics) Training {
	t := Training{Name: name, Steps: steps[len(steps)-1].Step, Evals: evals, steps: steps}
	took, losses := 0.0, []float64(nil)
	for _, m := range steps {
		t.Tokens, took = t.Tokens+m.Tokens, took+m.StepSeconds
		if len(m.Spikes) > 0 {
			t.Spikes++
		}
		if !math.IsNaN(m.Loss) { // of a step left out for it
			losses = append(losses, m.Loss)
		}
	}
	if took > 0 {
		t.Rate = float64(t.Tokens) / took
	}
	last := losses[len(losses)-min(len(losses), max(1, len(losses)/10)):]
	if len(last) > 0 {
		mean := 0.0
		for _, v := range last {
			mean += v / float64(len(last))
		}
		t.Loss = &mean
	}
	for i := range evals {
		better := evals[i].Best // than those before
		if t.Best != nil && !better {
			better = !t.Best.Best && evals[i].Loss < t.Best.Loss // of a version that did not say
		}
		if t.Best == nil || better {
			t.Best = &evals[i]
		}
	}
	return t
}

// CompareTrainings is a table of trainings, and one of their validations by step.
func CompareTrainings(list []Training) (summary, validations Grid) {
	var values []string // of the best validations
	var at []int        // steps of all
	for _, t := range list {
		if t.Best != nil {
			for _, v := range slices.Concat(t.Best.Tasks, t.Best.Objective) {
				if !slices.Contains(values, v.Name) {
					values = append(values, v.Name)
				}
			}
		}
		for _, e := range t.Evals {
			if i, found := slices.BinarySearch(at, e.Step); !found {
				at = slices.Insert(at, i, e.Step)
			}
		}
	}
	summary = Grid{Title: "Trainings", Left: 1, Head: append([]string{"training", "steps", "tokens", "loss, last tenth", "best validation", "at step"}, values...)}
	summary.Head = append(summary.Head, "tokens/s", "spikes")
	validations = Grid{Title: "Validation loss", Left: 1, Head: []string{"training"}}
	shown := Spread(len(at), mostShown)
	for _, i := range shown {
		validations.Head = append(validations.Head, fmt.Sprintf("step %d", at[i]))
	}
	for _, t := range list {
		row := []string{t.Name, humanize.Comma(int64(t.Steps)), humanize.Comma(t.Tokens), "", "", ""}
		if t.Loss != nil {
			row[3] = Sig(*t.Loss, 4)
		}
		best := train.Values{}
		if t.Best != nil {
			row[4], row[5] = Sig(t.Best.Loss, 4), fmt.Sprint(t.Best.Step)
			best = slices.Concat(t.Best.Tasks, t.Best.Objective)
		}
		for _, name := range values {
			cell := ""
			if v, ok := best.Get(name); ok {
				cell = Sig(v, 3)
			}
			row = append(row, cell)
		}
		summary.Rows = append(summary.Rows, append(row, Sig(t.Rate, 3), fmt.Sprint(t.Spikes)))
		line := []string{t.Name}
		for _, i := range shown {
			line = append(line, validationAt(t.Evals, at[i]))
		}
		validations.Rows = append(validations.Rows, line)
	}
	return summary, validations
}

// mostShown is how many steps a table of validations has room for.
const mostShown = 8

func validationAt(evals []train.EvalMetrics, step int) string {
	for _, e := range evals {
		if e.Step == step {
			return Sig(e.Loss, 4)
		}
	}
	return ""
}

// TrainingCharts draw the losses of trainings over the tokens they have seen, which those
// of different steps have in common.
func TrainingCharts(list []Training) []Chart {
	loss := Chart{Title: "Loss", X: "tokens", Wide: true}
	val := Chart{Title: "Validation loss", X: "tokens", Wide: true}
	for i, t := range list {
		class := fmt.Sprintf("s%d", i%7+1)
		s := Series{Name: t.Name, Class: class}
		v := Series{Name: t.Name, Class: class, Marks: true}
		seen, tokens := map[int]float64{}, 0.0
		for _, m := range t.steps {
			tokens += float64(m.Tokens)
			seen[m.Step] = tokens
			s.X, s.Y = append(s.X, tokens), append(s.Y, m.Loss)
		}
		if len(s.Y) >= 100 {
			s.Y = Smooth(s.Y)
		}
		for _, e := range t.Evals {
			if x, ok := seen[e.Step]; ok && !math.IsNaN(e.Loss) {
				v.X, v.Y = append(v.X, x), append(v.Y, e.Loss)
			}
		}
		loss.Series = append(loss.Series, s)
		if len(v.X) > 0 {
			val.Series = append(val.Series, v)
		}
	}
	if len(val.Series) == 0 {
		return []Chart{loss}
	}
	return []Chart{loss, val}
}

// TrainingsPage is a page with the trainings side by side and their curves.
func TrainingsPage(list []Training) ([]byte, error) {
	summary, validations := CompareTrainings(list)
	p := struct {
		Charts []chartView
		Grids  []gridView
	}{Grids: []gridView{summary.view()}}
	if len(validations.Head) > 1 {
		p.Grids = append(p.Grids, validations.view())
	}
	for _, c := range TrainingCharts(list) {
		p.Charts = append(p.Charts, c.view())
	}
	var b bytes.Buffer
	err := reportTemplate.ExecuteTemplate(&b, "trainings", p)
	return b.Bytes(), err
}
