package train

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// MetricsFile is the name of the log in a run's state folder.
const MetricsFile = "metrics.jsonl"

// Metrics is one line of metrics.jsonl: an optimizer step.
type Metrics struct {
	Step            int     `json:"step"` // optimizer steps done
	Epoch           float64 `json:"epoch"`
	Loss            float64 `json:"loss"`      // mean over the step's supervised tokens, or what else the objective counts
	GradNorm        float64 `json:"grad_norm"` // before clipping
	LearningRate    float64 `json:"learning_rate"`
	Tokens          int64   `json:"tokens"` // of this step
	Supervised      int64   `json:"supervised_tokens"`
	TokensPerSecond float64 `json:"tokens_per_second"`
	StepSeconds     float64 `json:"step_seconds"`
	AnswerSeconds   float64 `json:"answer_seconds,omitempty"` // of those, what the model's own answers took to write
	MemoryBytes     int64   `json:"memory_bytes"`             // largest total of the device so far
	Objective       Values  `json:"objective,omitempty"`      // what else the objective measured, means like Loss
	// With dtype: fp16, what the loss was multiplied by, and whether gradients overflowed
	// and the step made no update (grad_norm is 0 then; a loss that is not finite is null in
	// the file and NaN here).
	LossScale float32 `json:"loss_scale,omitempty"`
	Skipped   bool    `json:"skipped,omitempty"`

	Sources []SourceLoss `json:"sources,omitempty"` // of several data sets
	Spikes  []Spike      `json:"spikes,omitempty"`  // values far above those of the steps before
}

// MetricsLine is Metrics as JSON, which has no word for a loss that is not finite.
type MetricsLine struct {
	Metrics
	Loss *float64 `json:"loss"` // null where it is not finite
}

// Line is m as JSON.
func (m Metrics) Line() MetricsLine { return MetricsLine{m, orNull(m.Loss)} }

// orNull is v as JSON: null where it is not finite.
func orNull(v float64) *float64 {
	if !finite(v) {
		return nil
	}
	return &v
}

// orNaN is what orNull made null of.
func orNaN(v *float64) float64 {
	if v == nil {
		return math.NaN()
	}
	return *v
}

// EvalMetrics is one line of metrics.jsonl: a validation.
type EvalMetrics struct {
	Step       int     `json:"step"`
	Epoch      float64 `json:"epoch"`
	Loss       float64 `json:"eval_loss"`
	Perplexity float64 `json:"eval_perplexity,omitempty"` // 0 where the loss is not a mean over tokens
	Supervised int64   `json:"eval_supervised_tokens"`
	Seconds    float64 `json:"eval_seconds"`
	Objective  Values  `json:"eval_objective,omitempty"`
	Tasks      Values  `json:"eval_tasks,omitempty"`   // share of right answers of each task
	Answers    int     `json:"eval_answers,omitempty"` // questions that the tasks asked

	Sources []SourceLoss `json:"eval_sources,omitempty"` // of several data sets

	Best bool `json:"best,omitempty"` // none before was better, by metric_for_best_model
}

// line is any line of the file; what it lacks is nil.
type line struct {
	Step     int      `json:"step"`
	Loss     *float64 `json:"loss"`
	GradNorm *float64 `json:"grad_norm"`
	EvalLoss *float64 `json:"eval_loss"`
}

// metricsLog appends to metrics.jsonl. A line is one write, so that a reader
// sees whole lines only. A nil one, of a rank that does not write, does nothing.
type metricsLog struct {
	path string
	f    *atomic.Log
	tail map[int]line // steps that an earlier run logged past the state we go on from
}

// openMetrics opens a log in dir and cuts it to what the state we go on from
// knows: steps up to step, validations up to the one after step eval. The steps
// that were cut are kept in memory: they must give the same losses again.
func openMetrics(dir, name string, step, eval int) (*metricsLog, error) {
	l := &metricsLog{path: filepath.Join(dir, name), tail: map[int]line{}}
	old, err := os.ReadFile(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fail.Inputf(l.path, "move it away to train anew", "what the training goes on with: %w", err)
	}
	if err := atomic.WriteFile(l.path, l.cut(old, step, eval)); err != nil {
		return nil, err
	}
	l.f, err = atomic.OpenLog(l.path)
	return l, err
}

// cut returns the whole lines of old up to step, those of validations up to
// eval, and remembers the steps after.
func (l *metricsLog) cut(old []byte, step, eval int) []byte {
	var keep []byte
	for len(old) > 0 {
		i := bytes.IndexByte(old, '\n')
		if i < 0 {
			break // torn
		}
		var v line
		text := old[:i+1]
		old = old[i+1:]
		if json.Unmarshal(text, &v) != nil {
			continue
		}
		last := step
		if v.EvalLoss != nil {
			last = eval
		}
		if v.Step <= last {
			keep = append(keep, text...)
		} else if v.Loss != nil {
			l.tail[v.Step] = v
		}
	}
	return keep
}

// write appends v as one line.
func (l *metricsLog) write(v any) error {
	if l == nil {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return l.f.WriteLine(b)
}

// repeated says how m differs from what an earlier run logged for the same
// step; "" when it does not, or when that step is new.
func (l *metricsLog) repeated(m Metrics) string {
	if l == nil {
		return ""
	}
	old, ok := l.tail[m.Step]
	if !ok || old.Loss == nil || old.GradNorm == nil {
		return ""
	}
	if math.Float64bits(*old.Loss) == math.Float64bits(m.Loss) && math.Float64bits(*old.GradNorm) == math.Float64bits(m.GradNorm) {
		return ""
	}
	return fmt.Sprintf("step %d gave loss %v and gradient norm %v before the interruption, now %v and %v: this machine does not compute as the one before", m.Step, *old.Loss, *old.GradNorm, m.Loss, m.GradNorm)
}

// sync makes what was written survive a power cut.
func (l *metricsLog) sync() error { return l.f.Sync() }

func (l *metricsLog) close() error {
	if l == nil || l.f == nil {
		return nil
	}
	return l.f.Close()
}

// ParseMetrics reads a line of metrics.jsonl: a step, or a validation.
func ParseMetrics(text []byte) (step *Metrics, eval *EvalMetrics, err error) {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, nil, err
	}
	if l.EvalLoss != nil {
		eval = new(EvalMetrics)
		return nil, eval, json.Unmarshal(text, eval)
	}
	step = new(Metrics)
	err = json.Unmarshal(text, step)
	step.Loss = orNaN(l.Loss)
	return step, nil, err
}

// ReadMetrics reads a metrics.jsonl: its steps and its validations. A torn last
// line is left out.
func ReadMetrics(path string) ([]Metrics, []EvalMetrics, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	var steps []Metrics
	var evals []EvalMetrics
	for i, text := range bytes.SplitAfter(data, []byte("\n")) {
		if !bytes.HasSuffix(text, []byte("\n")) {
			break
		}
		step, eval, err := ParseMetrics(text)
		switch {
		case err != nil:
			return nil, nil, fail.Inputf(fmt.Sprintf("%s:%d", path, i+1), "", "bad line: %w", err)
		case eval != nil:
			evals = append(evals, *eval)
		default:
			steps = append(steps, *step)
		}
	}
	return steps, evals, nil
}
