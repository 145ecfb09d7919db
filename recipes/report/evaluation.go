package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/train/eval"
)

// Evaluation is what was measured of some models. It is the content of
// eval.json.
type Evaluation struct {
	Metrics []eval.Metric `json:"metrics"`
	Checks  []eval.Check  `json:"checks,omitempty"`
	Rows    int           `json:"rows"`
	Overlap int           `json:"overlap"` // evaluated rows that occur in training
	Answers []Answer      `json:"answers,omitempty"`
}

// Answer is one held-back prompt answered by every model.
type Answer struct {
	Prompt string            `json:"prompt"`
	Want   string            `json:"want"`
	Got    map[string]string `json:"got"`
}

// Append adds the evaluation to a file: Markdown, JSON lines or JUnit XML by
// its name.
func (r *Evaluation) Append(path string) error {
	var text []byte
	switch filepath.Ext(path) {
	case ".xml":
		raw, err := r.JUnit("eval")
		if err != nil {
			return err
		}
		return atomic.WriteFile(path, raw)
	case ".json", ".jsonl":
		raw, err := json.Marshal(r)
		if err != nil {
			return err
		}
		text = append(raw, '\n')
	case ".md", "":
		text = r.markdown()
	default:
		return fail.Usagef("--summary", ".md, .json or .xml", "found %s", path)
	}
	return atomic.Append(path, text)
}

// markdown is the metrics as a table.
func (r *Evaluation) markdown() []byte {
	var b bytes.Buffer
	b.WriteString("| model | metric | value | ± | n |\n|---|---|---|---|---|\n")
	for _, m := range r.Metrics {
		fmt.Fprintf(&b, "| %s | %s | %.5g | %.2g | %d |\n", m.Model, m.Metric, m.Value, m.StdErr, m.N)
	}
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "\n%s: **%s**\n", c, c.Verdict)
	}
	return b.Bytes()
}

// Verdict is the worst verdict about a model; "" where no gate speaks of it.
func (r *Evaluation) Verdict(model string) string {
	out := ""
	for _, c := range r.Checks {
		if c.Model != model {
			continue
		}
		if out == "" || c.Verdict == eval.Failed || c.Verdict == eval.Unsure && out == string(eval.Pass) {
			out = string(c.Verdict)
		}
	}
	return out
}
