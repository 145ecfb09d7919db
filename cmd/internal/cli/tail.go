package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/train"
)

func tailCommand() *ucli.Command {
	return &ucli.Command{
		Name: "tail", Usage: "watch a run from another terminal; ends with it, and with its exit code", ArgsUsage: "RUN",
		Description: examples("tune tail runs/support", "tune tail runs/support --json | jq 'select(.event == \"validation\") | .eval_loss'", "tune tail runs/support --no-follow"),
		Flags: []ucli.Flag{
			&ucli.BoolFlag{Name: "no-follow", Usage: "show what there is, and end"},
			&ucli.BoolFlag{Name: "json", Usage: "one JSON object a line: events, steps, validations and answers"}, logEveryFlag()},
		Action: func(c *ucli.Context) error {
			if err := args(c, "RUN", 1); err != nil {
				return err
			}
			f, err := recipes.Follow(c.Args().First())
			if err != nil {
				return err
			}
			t := &tailing{run: f, dir: c.Args().First(), follow: !c.Bool("no-follow"), stages: map[string]*tailedStage{}, w: newWatcher(c.App.Writer, false)}
			if t.w.logEvery = int64(c.Int("log-every")); t.w.logEvery < 0 || t.w.logEvery == 0 && c.IsSet("log-every") {
				return usagef(c, "--log-every %d: want at least 1", t.w.logEvery)
			}
			if c.Bool("json") {
				t.json = func(v any) error { return writeJSON(c, v) }
			}
			err = t.loop(c.Context)
			t.w.clear()
			return err
		},
	}
}

// pollEvery is how often a run is looked at.
const pollEvery = 300 * time.Millisecond

// tailing shows a run that another process works on.
type tailing struct {
	run    *recipes.Follower
	dir    string
	follow bool
	json   func(v any) error // nil: text
	w      *watcher

	stages  map[string]*tailedStage
	last    recipes.LoggedEvent
	command string // that started the run
	now     string // the last step in words
}

// tailedStage is a stage that was begun.
type tailedStage struct {
	metrics, answers *recipes.StageLog
	event            recipes.Event // its last progress
	step             int           // last shown
	eval             int           // step of the last that was shown
	answer, shown    int           // step of the last that was shown, and how many of it were
	at, nth          int           // step of the last line of answers, and which of that step it was
	lines            [][]byte      // of metrics, read and not yet shown
	seconds          []float64     // of the last steps
	total            int64
}

func (t *tailing) loop(ctx context.Context) error {
	for {
		running := t.run.Running() // before the events: what comes after its end was read
		events, again, err := t.run.Next()
		if err != nil {
			return err
		}
		if again {
			t.stages = map[string]*tailedStage{}
		}
		for _, e := range events {
			if err := t.event(e); err != nil || e.What == "end" {
				return err
			}
		}
		if t.last.Stage != "" && len(events) == 0 {
			if err := t.logs(t.last.Stage, math.MaxInt); err != nil {
				return err
			}
		}
		switch {
		case !running && len(events) == 0 && t.last.What == "":
			return fail.Usagef(t.dir, "tune run RECIPE", "nothing is known of how this run goes: it was not started, or by an earlier version")
		case !running && len(events) == 0:
			return t.killed()
		case !t.follow && len(events) == 0:
			if t.now != "" {
				t.w.line(t.now)
			}
			return nil
		}
		if len(events) > 0 && !t.follow {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// killed is a run whose process is gone without a word.
func (t *tailing) killed() error {
	where := "before its first stage"
	if id := t.last.Stage; id != "" {
		where = "in stage " + id
		if s := t.stages[id]; s != nil && s.step > 0 {
			where += fmt.Sprintf(" after step %d", s.step)
		}
	}
	if t.json != nil {
		code := int(fail.Interrupted)
		if err := t.json(recipes.LoggedEvent{Time: t.last.Time, Event: recipes.Event{What: "end", Stage: t.last.Stage}, Outcome: "killed", Code: &code}); err != nil {
			return err
		}
	}
	return fail.Interruptedf(t.dir, "run it again to go on: "+t.command, "the run was killed %s", where)
}

// event shows an event of the run.
func (t *tailing) event(e recipes.LoggedEvent) error {
	if e.Stage == "" {
		e.Stage = t.last.Stage
	}
	if s := t.stages[e.Stage]; s != nil && e.What == "progress" {
		s.event, s.total = e.Event, e.Total
		if err := t.logs(e.Stage, int(e.Done)); err != nil { // steps before what comes after them
			return err
		}
	} else if old := t.last.Stage; old != "" && (old != e.Stage || e.What == "done" || e.What == "end") {
		if err := t.logs(old, math.MaxInt); err != nil {
			return err
		}
	}
	t.last = e
	if e.What == "run" {
		t.command = e.Run
	}
	s := t.stages[e.Stage]
	if s == nil && e.Stage != "" && e.What != "cached" { // whose steps were of an earlier run
		s = &tailedStage{metrics: t.run.Log(e.Stage, train.MetricsFile), answers: t.run.Log(e.Stage, train.AnswersFile)}
		t.stages[e.Stage] = s
	}
	at := time.UnixMilli(int64(1000 * e.Time))
	if t.json != nil {
		if err := t.json(e); err != nil {
			return err
		}
	} else if e.What != "progress" || e.Unit != "steps" { // steps are shown by their metrics
		t.w.at = at
		t.w.event(e.Event)
	} else if t.w.width != nil {
		t.w.at = at
		t.w.event(e.Event)
	}
	if e.What != "end" {
		return nil
	}
	t.w.clear()
	if t.json == nil {
		t.w.line(e.Outcome)
	}
	if e.Code == nil || *e.Code == 0 {
		return nil
	}
	return &fail.Error{Kind: fail.Kind(*e.Code), Msg: strings.TrimPrefix(e.Error, "tune: "), Hint: e.Hint}
}

// logs shows what a training has logged since, of metrics up to a step.
func (t *tailing) logs(id string, upto int) error {
	s := t.stages[id]
	if s == nil {
		return nil
	}
	lines, _, err := s.metrics.Next()
	if err != nil {
		return err
	}
	s.lines = append(s.lines, lines...)
	for len(s.lines) > 0 {
		step, eval, err := train.ParseMetrics(s.lines[0])
		if err != nil {
			return fail.Inputf(t.dir, "", "%s of stage %s: bad line %.80q: %w", train.MetricsFile, id, s.lines[0], err)
		}
		if step != nil && step.Step > upto || eval != nil && eval.Step > upto {
			break
		}
		s.lines = s.lines[1:]
		if err := t.metrics(id, s, step, eval); err != nil {
			return err
		}
	}
	lines, again, err := s.answers.Next()
	if err != nil {
		return err
	}
	if again {
		s.nth = 0
	}
	for _, line := range lines {
		var a train.Answer
		if json.Unmarshal(line, &a) != nil {
			continue
		}
		if a.Step != s.at {
			s.at, s.nth = a.Step, 0
		}
		if s.nth++; a.Step < s.answer || a.Step == s.answer && s.nth <= s.shown {
			continue // shown before
		}
		if t.json != nil {
			err = t.json(loggedAnswer{"answer", id, a})
		} else if s.nth == 1 && a.Want == nil { // the first of each time; one of a validation is an event
			t.w.line(id + "  " + answerText(&a))
		}
		if s.answer, s.shown = a.Step, s.nth; err != nil {
			return err
		}
	}
	return nil
}

// Lines of --json beside events.
type (
	loggedStep struct {
		Event string `json:"event"`
		Stage string `json:"stage"`
		train.MetricsLine
	}
	loggedEval struct {
		Event string `json:"event"`
		Stage string `json:"stage"`
		train.EvalMetrics
	}
	loggedAnswer struct {
		Event string `json:"event"`
		Stage string `json:"stage"`
		train.Answer
	}
)

// metrics shows a step or a validation.
func (t *tailing) metrics(id string, s *tailedStage, step *train.Metrics, eval *train.EvalMetrics) error {
	switch {
	case eval != nil && eval.Step > s.eval:
		s.eval = eval.Step
		if t.json != nil {
			return t.json(loggedEval{"validation", id, *eval})
		}
		t.w.line(id + "  " + evalText(eval))
	case step != nil && step.Step > s.step:
		s.step = step.Step
		if t.json != nil {
			return t.json(loggedStep{"step", id, step.Line()})
		}
		if len(step.Spikes) > 0 {
			t.w.line(id + "  " + spikeText(step))
		}
		t.step(s, step)
	}
	return nil
}

// step shows a step as progress, with the time that its like have taken.
func (t *tailing) step(s *tailedStage, m *train.Metrics) {
	s.seconds = append(s.seconds, m.StepSeconds)
	s.seconds = s.seconds[max(0, len(s.seconds)-10):]
	e := s.event
	if e.Stage == "" {
		e = t.last.Event
	}
	e.What, e.Done, e.Total, e.Unit, e.Memory = "progress", int64(m.Step), s.total, "steps", m.MemoryBytes
	text := []string{"loss " + report.Sig(m.Loss, 4)}
	for _, v := range m.Objective {
		if v.Name == "reward" || v.Name == "rewards/margins" || v.Name == "margin" {
			text = append(text, v.Name+" "+report.Sig(v.V, 3))
		}
	}
	text = append(text, fmt.Sprintf("%.0f tok/s", m.TokensPerSecond))
	mean := 0.0
	for _, v := range s.seconds {
		mean += v / float64(len(s.seconds))
	}
	if left := s.total - e.Done; left > 0 {
		text = append(text, "left "+short(time.Duration(mean*float64(left)*float64(time.Second))))
	}
	for _, x := range m.Sources { // last: a narrow terminal has no room for all
		text = append(text, x.Source+" "+report.Sig(x.Loss, 4))
	}
	e.Text = strings.Join(text, "  ")
	t.w.at, t.w.noTime = time.Time{}, true
	t.w.event(e)
	where := fmt.Sprintf("%s %d/%d", e.Stage, e.Index, e.Of)
	t.now = strings.Join(t.w.status(where, e, time.Now()), "  ")
	t.w.noTime = false
}

// evalText is a validation in words.
func evalText(e *train.EvalMetrics) string {
	out := []string{fmt.Sprintf("step %d", e.Step), "validation loss " + report.Sig(e.Loss, 4)}
	if e.Perplexity > 0 {
		out = append(out, "perplexity "+report.Sig(e.Perplexity, 4))
	}
	for _, v := range append(e.Tasks, e.Objective...) {
		out = append(out, v.Name+" "+report.Sig(v.V, 3))
	}
	for _, x := range e.Sources {
		out = append(out, x.Source+" "+report.Sig(x.Loss, 4))
	}
	return strings.Join(out, "  ")
}

func spikeText(m *train.Metrics) string {
	out := []string{fmt.Sprintf("step %d", m.Step)}
	for _, s := range m.Spikes {
		v := m.Loss
		if s.Name == "grad_norm" {
			v = m.GradNorm
		}
		out = append(out, fmt.Sprintf("spike of %s: %s, the median before is %s", s.Name, report.Sig(v, 4), report.Sig(s.Median, 4)))
	}
	return strings.Join(out, "  ")
}

// answerText is an answer in a line, with the end of its prompt.
func answerText(a *train.Answer) string {
	prompt, _ := a.Prompt.(string)
	if prompt == "" {
		prompt = fmt.Sprint(a.Prompt)
	}
	text := fmt.Sprintf("step %d  %s → %s", a.Step, oneLine(prompt, true), oneLine(a.Text, false))
	if a.Reward != nil {
		text += "  reward " + report.Sig(*a.Reward, 3)
	}
	return text
}

// oneLine is the start or the end of a text that a line has room for.
func oneLine(s string, end bool) string {
	r := []rune(strings.Join(strings.Fields(s), " "))
	const most = 60
	switch {
	case len(r) <= most:
		return fmt.Sprintf("%q", string(r))
	case end:
		return fmt.Sprintf("%q", "…"+string(r[len(r)-most:]))
	}
	return fmt.Sprintf("%q", string(r[:most])+"…")
}
