package stages

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/train"
)

// rowsTokenizer is the tokenizer that made the rows of a training: that of their ingest
// stage, else the model's.
func rowsTokenizer(x *recipes.Env, rows, model recipes.Ref) (*tokenizer.Tokenizer, error) {
	path := x.Path(model)
	if rows.Stage != "" {
		ref, ok := x.Job(rows.Stage).In("tokenizer")
		if !ok {
			return nil, nil
		}
		path = x.Path(ref)
	}
	tok, src, err := ingestTokenizer(path)
	if err == nil {
		err = src.Close()
	}
	return tok, err
}

// validationCharts are the curves of what validations measured beside the loss, each
// with that of the training where it has one of that name.
func validationCharts(steps []train.Metrics, evals []train.EvalMetrics) []report.Chart {
	var charts []report.Chart
	for _, name := range namesOf(evals, func(e *train.EvalMetrics) train.Values { return e.Tasks }) {
		s := valuesOver(name, evals, func(e *train.EvalMetrics) train.Values { return e.Tasks })
		s.Class = "s2"
		title := name
		if n := evals[len(evals)-1].Answers; n > 0 {
			title = fmt.Sprintf("%s of %d answers", name, n)
		}
		charts = append(charts, report.Chart{Title: title, X: "step", Zero: true, Format: report.ThreeDigits, Series: []report.Series{s}})
	}
	return charts
}

// namesOf lists the values that validations have, in order.
func namesOf(evals []train.EvalMetrics, of func(*train.EvalMetrics) train.Values) []string {
	var out []string
	seen := map[string]bool{}
	for i := range evals {
		for _, v := range of(&evals[i]) {
			if !seen[v.Name] {
				seen[v.Name] = true
				out = append(out, v.Name)
			}
		}
	}
	return out
}

// valuesOver is the curve of one value of validations.
func valuesOver(name string, evals []train.EvalMetrics, of func(*train.EvalMetrics) train.Values) report.Series {
	s := report.Series{Name: "validation", Marks: true}
	for i := range evals {
		if v, ok := of(&evals[i]).Get(name); ok {
			s.X, s.Y = append(s.X, float64(evals[i].Step)), append(s.Y, v)
		}
	}
	return s
}

// answeredOver puts the answers of validations to a question side by side, of moments
// evenly over the training.
func answeredOver(path string) []report.Answered {
	all, err := train.ReadAnswers(path)
	if err != nil {
		return nil
	}
	var rows []string
	over := map[string][]train.Answer{}
	for _, a := range all {
		if a.Want == nil {
			continue
		}
		key := a.From + "\n" + promptText(a.Prompt)
		if over[key] == nil {
			rows = append(rows, key)
		}
		over[key] = append(over[key], a)
	}
	var out []report.Answered
	for _, key := range rows {
		list := over[key]
		it := report.Answered{Prompt: printable(promptText(list[0].Prompt)), Want: printable(*list[0].Want)}
		for _, i := range report.Spread(len(list), learnedTimes) {
			t := report.AnswerText{Model: fmt.Sprintf("step %d", list[i].Step), Text: printable(list[i].Text), Class: "wrong"}
			if r := list[i].Right; r != nil && *r {
				t.Class = "right"
			}
			it.Got = append(it.Got, t)
		}
		out = append(out, it)
	}
	return out
}

// origins tells the data sets of a training's rows apart; nil where there is one, or where
// its files are gone.
func origins(x *recipes.Env, rows recipes.Ref) *data.Origins {
	if rows.Stage == "" {
		return nil
	}
	o, ok := x.Job(rows.Stage).Options.(*Ingest)
	if !ok || len(o.Datasets)+len(o.ValDatasets) < 2 {
		return nil
	}
	local := o.Options
	local.Datasets, local.ValDatasets = slices.Clone(o.Datasets), slices.Clone(o.ValDatasets)
	var names []string
	for _, list := range [][]data.Source{local.Datasets, local.ValDatasets} {
		for i := range list {
			names = append(names, list[i].Path)
			path, err := recipes.ResolvePath(list[i].Path)
			if err != nil {
				return nil
			}
			list[i].Path = path
		}
	}
	g, err := data.NewOrigins(&local, names)
	if err != nil {
		x.Note(fmt.Sprintf("losses are not told apart by data set: %v", err))
		return nil
	}
	return g
}

// spikesOf are the marks of a value's spikes over the steps.
func spikesOf(steps []train.Metrics, name string) report.Series {
	out := report.Series{Name: "spike", Class: "s3", Dots: true}
	for _, m := range steps {
		for _, s := range m.Spikes {
			if s.Name != name {
				continue
			}
			v := m.Loss
			if name == "grad_norm" {
				v = m.GradNorm
			}
			out.X, out.Y = append(out.X, float64(m.Step)), append(out.Y, v)
			out.Notes = append(out.Notes, fmt.Sprintf("step %d: %s %s, spikes begin at %s", m.Step, name, report.Sig(v, 4), report.Sig(s.Limit, 4)))
		}
	}
	return out
}

// sourceCharts are the losses of each data set, in training and validation.
func sourceCharts(steps []train.Metrics, evals []train.EvalMetrics) []report.Chart {
	training := report.Chart{Title: "Loss by data set", X: "step", Wide: true}
	for i := range steps {
		addSources(&training, steps[i].Step, steps[i].Sources)
	}
	for i := range training.Series {
		if s := &training.Series[i]; len(s.Y) >= 100 {
			s.Y = report.Smooth(s.Y)
		}
	}
	validation := report.Chart{Title: "Validation loss by data set", X: "step", Wide: true}
	for i := range evals {
		addSources(&validation, evals[i].Step, evals[i].Sources)
	}
	for i := range validation.Series {
		validation.Series[i].Marks = true
	}
	var out []report.Chart
	for _, c := range []report.Chart{training, validation} {
		if len(c.Series) > 1 { // one is the loss that is drawn above
			out = append(out, c)
		}
	}
	return out
}

// addSources adds the losses of a step to the curves of their data sets.
func addSources(c *report.Chart, step int, losses []train.SourceLoss) {
	for _, l := range losses {
		i := slices.IndexFunc(c.Series, func(s report.Series) bool { return s.Name == l.Source })
		if i < 0 {
			i = len(c.Series)
			c.Series = append(c.Series, report.Series{Name: l.Source, Class: fmt.Sprintf("s%d", i%7+1)})
		}
		s := &c.Series[i]
		s.X, s.Y = append(s.X, float64(step)), append(s.Y, l.Loss)
	}
}
