package train

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/train/eval"
)

// Evaluating are the keys of what a validation measures beside the loss, and of what
// follows from it. Names and meanings are Transformers' and, of eval_max_new_tokens
// and eval_table_size, axolotl's.
type Evaluating struct {
	EvalTasks        schema.Names `yaml:"eval_tasks,omitempty" doc:"what a validation measures beside the loss: exact_match, as in an eval stage" unset:"none"`
	EvalFilter       string       `yaml:"eval_filter,omitempty" doc:"of exact_match: regular expression of what counts in an answer, as filter of an eval stage" unset:"the whole answer"`
	EvalSamples      int          `yaml:"eval_samples,omitempty" doc:"of eval_tasks: rows held back that are answered, the first ones" unset:"100" range:"[1,1000000000]"`
	EvalMaxNewTokens int          `yaml:"eval_max_new_tokens,omitempty" doc:"of eval_tasks: tokens of an answer" unset:"256" range:"[1,1000000]"`
	EvalTableSize    *int         `yaml:"eval_table_size,omitempty" doc:"of eval_tasks: answers of each validation that are kept and shown" unset:"4" range:"[0,1000]"`

	LoadBestModelAtEnd *bool  `yaml:"load_best_model_at_end" doc:"keep the weights of the best validation" unset:"false; true with early_stopping_patience"`
	MetricForBestModel string `yaml:"metric_for_best_model,omitempty" doc:"which validation is the best: loss, perplexity, exact_match, or a value of the objective such as rewards/accuracies; the metric says whether more is better" unset:"loss"`

	EarlyStoppingPatience  int      `yaml:"early_stopping_patience,omitempty" doc:"stop after so many validations in a row that are no better than the best before" unset:"never" range:"[1,1000000]"`
	EarlyStoppingThreshold *float64 `yaml:"early_stopping_threshold,omitempty" doc:"of early stopping: better is by more than this" unset:"0" range:"[0,1000000]"`
}

// Tracking is which other programs find a training's numbers in files of theirs. It
// changes no result.
type Tracking struct {
	ReportTo schema.Names `yaml:"report_to,omitempty" doc:"files for programs that keep track of trainings: tensorboard, mlflow, wandb (an offline run), all or none; nothing is sent" default:"[tensorboard]"`
}

// trackers are what report_to can name.
var trackers = []string{"tensorboard", "mlflow", "wandb"}

// Trackers lists the programs that t asks for.
func (t Tracking) Trackers() []string {
	if slices.Contains(t.ReportTo, "all") {
		return trackers
	}
	if slices.Contains(t.ReportTo, "none") {
		return nil
	}
	return t.ReportTo
}

// check refuses a program that t knows nothing of.
func (t Tracking) check() error {
	known := append(slices.Clone(trackers), "all", "none")
	for _, name := range t.ReportTo {
		if !slices.Contains(known, name) {
			hint := "known: " + strings.Join(known, ", ") + "; metrics.jsonl is always written"
			return fail.Usagef("train.report_to", fail.Near(name, known, hint), "nothing is written for %q", name)
		}
		if (name == "all" || name == "none") && len(t.ReportTo) > 1 {
			return fail.Usagef("train.report_to", "all or none stands alone", "%s is given beside others", name)
		}
	}
	return nil
}

// evalTasks are what eval_tasks can name.
var evalTasks = []string{"exact_match"}

// moreIsBetter tells of the metrics that can choose a model whether more is better;
// those of a reward function are called rewards/NAME/mean.
var moreIsBetter = map[string]bool{
	"loss": false, "perplexity": false, "exact_match": true,
	"rewards/accuracies": true, "rewards/margins": true, "rewards/chosen": true, "rewards/rejected": false, "logps/chosen": true, "logps/rejected": false,
	nllLoss: false, "log_odds_ratio": true, "log_odds_chosen": true, "reward": true, "accuracy": true, "margin": true,
}

// better reports whether the metric is better where there is more of it; known is false
// where it is no measure of a model.
func better(metric string) (more, known bool) {
	if strings.HasPrefix(metric, "rewards/") && strings.HasSuffix(metric, "/mean") {
		return true, true
	}
	more, known = moreIsBetter[metric]
	return more, known
}

// LoadsBest reports whether the weights of the best validation are kept.
func (c Evaluating) LoadsBest() bool { return c.LoadBestModelAtEnd != nil && *c.LoadBestModelAtEnd }

// fill gives what is not given its default.
func (c *Evaluating) fill() {
	c.MetricForBestModel = strings.TrimPrefix(c.MetricForBestModel, "eval_") // Transformers takes both
	stops := c.EarlyStoppingPatience > 0
	defp(&c.LoadBestModelAtEnd, stops)
	if stops {
		defp(&c.EarlyStoppingThreshold, 0)
	}
	if len(c.EvalTasks) > 0 {
		if c.EvalSamples == 0 {
			c.EvalSamples = 100
		}
		if c.EvalMaxNewTokens == 0 {
			c.EvalMaxNewTokens = 256
		}
		defp(&c.EvalTableSize, 4)
	}
}

// metric is what the best validation is chosen by.
func (c Config) metric() string {
	return cmp.Or(c.MetricForBestModel, "loss")
}

// metrics lists what a validation of c measures that can choose a model.
func (c Config) metrics() []string {
	all := []string{"loss"}
	if c.Asks() {
		all = append(all, "reward")
		for _, r := range c.Rewards {
			all = append(all, "rewards/"+r.Resolve().Name+"/mean")
		}
		return all
	}
	o := objectives[c.Objective].make(c)
	if o.Unit() == unitToken {
		all = append(all, "perplexity")
	}
	for _, v := range o.Score(&data.Batch{Seq: []int32{0}}, LogProbs{}).Values {
		if _, known := better(v.Name); known {
			all = append(all, v.Name)
		}
	}
	return append(all, c.EvalTasks...)
}

// checkEvaluating refuses what a validation cannot do; given is c before defaults.
func (c Config) checkEvaluating(given Config) error {
	if key := c.Validates(); key != "" && c.EvalSteps.Never() {
		return fail.Usagef("train."+key, "set eval_steps", "%s needs validation, eval_steps is 0", key)
	}
	for _, t := range c.EvalTasks {
		hint := "known: " + strings.Join(evalTasks, ", ") + "; the loss and its perplexity are always measured, kl, top1 and speed by an eval stage"
		if !slices.Contains(evalTasks, t) {
			return fail.Usagef("train.eval_tasks", hint, "a validation has no task %q", t)
		}
	}
	if len(c.EvalTasks) > 0 && (c.Asks() || c.Reward()) {
		return fail.Usagef("train.eval_tasks", "leave it out", "eval_tasks compares answers with those of rows; objective: %s is validated by rewards", c.Objective)
	}
	if len(c.EvalTasks) == 0 {
		for _, k := range []struct {
			key   string
			given bool
		}{{"eval_filter", c.EvalFilter != ""}, {"eval_samples", c.EvalSamples != 0}, {"eval_max_new_tokens", c.EvalMaxNewTokens != 0}, {"eval_table_size", c.EvalTableSize != nil}} {
			if k.given {
				return fail.Usagef("train."+k.key, "add eval_tasks: [exact_match]", "%s belongs to eval_tasks, and there are none", k.key)
			}
		}
	}
	if _, err := eval.NewFilter(c.EvalFilter); err != nil {
		return fail.Usagef("train.eval_filter", "a pattern such as '#### (-?[0-9.,]+)'", "%w", err)
	}
	if c.EarlyStoppingPatience == 0 && given.EarlyStoppingThreshold != nil {
		return fail.Usagef("train.early_stopping_threshold", "add early_stopping_patience", "early_stopping_threshold belongs to early_stopping_patience, which is not given")
	}
	return c.checkMetric()
}

// checkMetric refuses a metric that no validation of c measures.
func (c Config) checkMetric() error {
	if c.MetricForBestModel == "" {
		return nil
	}
	const key = "metric_for_best_model"
	if !c.LoadsBest() && c.EarlyStoppingPatience == 0 && !c.LRScheduler.reacts() {
		return fail.Usagef("train."+key, "add load_best_model_at_end: true, early_stopping_patience, or lr_scheduler: reduce_lr_on_plateau or greedy", "%s chooses nothing here", key)
	}
	known := c.metrics()
	if slices.Contains(known, c.MetricForBestModel) {
		return nil
	}
	hint := "measured: " + strings.Join(known, ", ")
	if slices.Contains(evalTasks, c.MetricForBestModel) {
		hint = "add it to eval_tasks. " + hint
	} else {
		hint = fail.Near(c.MetricForBestModel, known, hint)
	}
	return fail.Usagef("train."+key, hint, "no validation of objective: %s measures %q", c.Objective, c.MetricForBestModel)
}

// metricOf is what m says by c's metric.
func (c Config) metricOf(m *EvalMetrics) (float64, error) {
	switch name := c.metric(); name {
	case "loss":
		return m.Loss, nil
	case "perplexity":
		return m.Perplexity, nil
	default:
		if v, ok := m.Tasks.Get(name); ok {
			return v, nil
		}
		if v, ok := m.Objective.Get(name); ok {
			return v, nil
		}
		var have []string
		for _, v := range slices.Concat(m.Objective, m.Tasks) {
			have = append(have, v.Name)
		}
		return 0, fail.Inputf("train.metric_for_best_model", "measured: loss "+strings.Join(have, " "), "the validation after step %d did not measure %s", m.Step, name)
	}
}

// judge compares the validation m with the best before: it is the new best, or one
// more without progress. The rule of early stopping is Transformers': better by more
// than the threshold.
func (r *run) judge(m *EvalMetrics) (improved bool, err error) {
	v, err := r.Config.metricOf(m)
	if err != nil {
		return false, err
	}
	gain := math.Inf(1)
	if r.best != nil {
		gain = r.best.by(r.Config.metric()) - v
		if more, _ := better(r.Config.metric()); more {
			gain = -gain
		}
	}
	r.eval = &bestStep{Step: m.Step, Loss: m.Loss, Value: v}
	if x := r.sched.reactive; x != nil {
		if more, _ := better(r.Config.metric()); more { // it looks for the least
			v = -v
		}
		x.see(v)
	}
	threshold := 0.0
	if t := r.Config.EarlyStoppingThreshold; t != nil {
		threshold = *t
	}
	r.waited++
	if gain > threshold {
		r.waited = 0
	}
	if gain > 0 {
		r.best = r.eval
	}
	return gain > 0, nil
}

// by is the value of a metric; states from before there were others have the loss alone.
func (b *bestStep) by(metric string) float64 {
	if metric == "loss" {
		return b.Loss
	}
	return b.Value
}

// stopped reports whether validations have stopped the run early.
func (r *run) stopped() bool {
	return r.Config.EarlyStoppingPatience > 0 && r.waited >= r.Config.EarlyStoppingPatience
}

// questions are the rows held back that a validation answers.
func (r *run) askQuestions() error {
	c := &r.Config
	if len(c.EvalTasks) == 0 || r.val == nil {
		return nil
	}
	if r.Tokenizer == nil {
		return fail.Inputf("train.eval_tasks", "ingest rows of text with the model's tokenizer", "exact_match compares texts, and the model has no tokenizer")
	}
	r.filter, _ = eval.NewFilter(c.EvalFilter) // checked before
	firsts := r.Val.Firsts()
	for i := 0; i < firsts.Len() && len(r.questions) < c.EvalSamples; i++ {
		if firsts.Mark(i) == data.Unwanted {
			continue
		}
		e, err := firsts.At(i)
		if err != nil {
			return err
		}
		q := eval.Questions([]data.Example{e}, r.Tokenizer)
		if len(q) == 0 {
			continue
		}
		if _, ok := r.filter.Of(q[0].Want); !ok {
			return fail.Inputf(e.From.String(), "every right answer must hold what counts", "eval_filter %s matches nothing in the answer %.80q", c.EvalFilter, q[0].Want)
		}
		r.questions, r.asked = append(r.questions, q[0]), append(r.asked, e.From)
	}
	if len(r.questions) == 0 {
		return fail.Inputf("train.eval_tasks", "exact_match needs rows with prompts and answers", "no prompts among the rows held back")
	}
	return nil
}

// answerTasks answers the questions with the model as it is, and logs some.
func (r *run) answerTasks(ctx context.Context) (Values, error) {
	if len(r.questions) == 0 {
		return nil, nil
	}
	r.tell(Progress{Answering: true, Evaluating: true})
	a, err := eval.ExactMatch(ctx, r.Model, r.Tokenizer, r.questions, eval.AnswerOptions{MaxNew: r.Config.EvalMaxNewTokens, Filter: r.filter})
	if err != nil {
		return nil, memory(err)
	}
	for i := range min(*r.Config.EvalTableSize, len(r.questions)) {
		right := a.Right[i] == 1
		line := Answer{Step: r.step, From: r.asked[i].String(), Prompt: r.Tokenizer.Decode(r.questions[i].Prompt, true), Text: a.Text[i], Tokens: a.Tokens[i], Want: &r.questions[i].Want, Right: &right}
		if err := r.answersLog.write(line); err != nil {
			return nil, err
		}
		if i == 0 {
			r.log("step %d answers %q with %.100q, wanted %.100q: %s", r.step, lastLine(line.Prompt.(string)), a.Text[i], r.questions[i].Want, map[bool]string{true: "right", false: "wrong"}[right])
		}
	}
	return Values{{Name: "exact_match", V: a.Metric().Value}}, nil
}

// lastLine is the end of a prompt that a line of a log has room for.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	if r := []rune(s); len(r) > 60 {
		return "…" + string(r[len(r)-60:])
	}
	return s
}

// rehearseTasks answers as many questions side by side as a validation does, of rows of
// the mean length.
func (r *run) rehearseTasks(ctx context.Context, out *Rehearsal) error {
	c := &r.Config
	if len(c.EvalTasks) == 0 {
		return nil
	}
	tokens := out.StepTokens * int64(out.StepsPerEpoch) / int64(max(1, r.Train.Len()))
	requests := make([]engine.Request, min(16, c.EvalSamples))
	for i := range requests {
		requests[i] = engine.Request{Prompt: make([]int32, max(1, tokens)), MaxNew: c.EvalMaxNewTokens, Stop: []int32{0}}
	}
	_, err := engine.Run(ctx, r.Model, requests, nil)
	return err
}

// taskState is what a run knows of the tasks of its validations.
type taskState struct {
	questions []eval.Question
	asked     []data.RowRef // their rows
	filter    eval.Filter
	waited    int // validations since the last that was better
}

// Answers tells whether c's runs leave an answers.jsonl.
func (c Config) Answers() bool { return c.Asks() || len(c.EvalTasks) > 0 }

// describe is a validation in words.
func (r *run) describe(b *bestStep) string {
	return fmt.Sprintf("validation %s %.4f", r.Config.metric(), b.by(r.Config.metric()))
}

// Validates is the first key of c that needs a validation; "" for none.
func (c Config) Validates() string {
	switch {
	case c.EarlyStoppingPatience > 0:
		return "early_stopping_patience"
	case len(c.EvalTasks) > 0:
		return "eval_tasks"
	case c.LoadsBest():
		return "load_best_model_at_end"
	}
	return ""
}
