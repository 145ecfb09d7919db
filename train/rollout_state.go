package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// AnswersFile is the log of answers in a run's state folder.
const AnswersFile = "answers.jsonl"

// Answer is a line of answers.jsonl: an answer that the model learned from, or one of a
// validation, which has a Want.
type Answer struct {
	Step      int      `json:"step"` // the first that learns from it; that of the validation
	From      string   `json:"from"` // the row of its prompt
	Prompt    any      `json:"prompt"`
	Text      string   `json:"completion"`
	Tokens    int      `json:"tokens"`
	Truncated bool     `json:"truncated,omitempty"`
	Reward    *float64 `json:"reward"` // nil: none was given
	Advantage float64  `json:"advantage"`
	Want      *string  `json:"want,omitempty"`  // what it should be
	Right     *bool    `json:"right,omitempty"` // whether it is
}

const (
	rolloutPrefix = "rollout-"
	rolloutSuffix = ".json"

	loggedTimes   = 50 // generations whose answers are logged, evenly over a run
	loggedPrompts = 4  // of each
)

func rolloutPath(dir string, index int) string {
	return filepath.Join(dir, fmt.Sprintf("%s%08d%s", rolloutPrefix, index, rolloutSuffix))
}

// keep writes w, so that a run that is interrupted between two of its steps goes
// on with the same answers.
func (w *rollout) keep(dir string) error {
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return atomic.WriteFile(rolloutPath(dir, w.Index), b)
}

// readRollout reads what keep wrote.
func readRollout(dir string, index int, identity string) (*rollout, error) {
	path := rolloutPath(dir, index)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fail.Inputf(path, "remove the folder to start anew", "the answers that the checkpoint goes on with: %w", err)
	}
	w := new(rollout)
	if err := json.Unmarshal(b, w); err != nil || w.Index != index || w.Run != identity {
		return nil, fail.Inputf(path, "remove the folder to start anew", "not the answers that the checkpoint goes on with (%v): %w", err, formats.ErrCorrupt)
	}
	return w, nil
}

// forgetRollouts removes the answers that no checkpoint in dir goes on with;
// of is the number of steps that learn from one time's answers.
func forgetRollouts(dir string, of int) error {
	steps, err := listStates(dir)
	if err != nil || len(steps) == 0 {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), rolloutSuffix)
		index, err := strconv.Atoi(strings.TrimPrefix(name, rolloutPrefix))
		if !ok || !strings.HasPrefix(name, rolloutPrefix) || err != nil || index >= steps[len(steps)-1]/of {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// logAnswers appends some of w's answers to the log.
func (r *run) logAnswers(w *rollout, prompts []data.Example, texts []string, rewards []float64) error {
	of := r.Config.partsAtOnce(r.Config.GradientAccumulationSteps) * r.Config.NumIterations
	every := (r.total/of + loggedTimes) / loggedTimes
	if w.Index%every != 0 && r.step+of < r.total {
		return nil
	}
	per := r.Config.NumGenerations
	for i, a := range w.Answers[:min(len(w.Answers), loggedPrompts*per)] {
		p := prompts[i/per]
		var row struct{ Prompt any }
		if err := json.Unmarshal([]byte(p.Row), &row); err != nil {
			return err
		}
		line := Answer{Step: r.step + 1, From: p.From.String(), Prompt: row.Prompt, Text: texts[i], Tokens: len(a.IDs), Truncated: a.Truncated, Advantage: a.Advantage}
		if v := rewards[i]; !math.IsNaN(v) {
			line.Reward = &v
		}
		if err := r.answersLog.write(line); err != nil {
			return err
		}
	}
	return nil
}

// ReadAnswers reads an answers.jsonl; one that is not there has none. A torn last
// line is left out.
func ReadAnswers(path string) ([]Answer, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Answer
	for i, text := range strings.SplitAfter(string(raw), "\n") {
		if !strings.HasSuffix(text, "\n") {
			break
		}
		var a Answer
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			return nil, fail.Inputf(fmt.Sprintf("%s:%d", path, i+1), "", "bad line: %w", err)
		}
		out = append(out, a)
	}
	return out, nil
}
