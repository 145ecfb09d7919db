package judge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
)

// maxOutput bounds what is kept of a program's output, in bytes.
const maxOutput = 16 << 20

// line is what a program reads of an answer.
type line struct {
	Prompt        any            `json:"prompt"`
	Completion    string         `json:"completion"`
	CompletionIDs []int32        `json:"completion_ids"`
	Row           map[string]any `json:"row"`
}

// runCommand gives answers to a program of the user, a JSON object a line, and
// reads a number, or null, for each, a line each. A program that fails, takes
// more than timeout seconds, or writes something else is an error with what it
// wrote to its standard error.
func runCommand(ctx context.Context, command string, timeout float64, answers []Answer) ([]float64, error) {
	var in bytes.Buffer
	e := json.NewEncoder(&in)
	e.SetEscapeHTML(false)
	for _, a := range answers {
		if err := e.Encode(line{a.Row["prompt"], a.Text, a.IDs, a.Row}); err != nil {
			return nil, err
		}
	}
	limited, cancel := context.WithTimeout(ctx, time.Duration(timeout*float64(time.Second)))
	defer cancel()
	out, said := &head{most: maxOutput}, &head{most: 4 << 10}
	cmd := exec.CommandContext(limited, "sh", "-c", command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, out, said
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	where := "reward command " + strconv.Quote(command)
	stderr := func(hint string) string {
		if s := strings.TrimSpace(said.String()); s != "" {
			return "it wrote: " + s
		}
		return hint
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case limited.Err() != nil:
		return nil, fail.Inputf(where, stderr("timeout: gives it more seconds"), "did not end within %v seconds for %d answers", timeout, len(answers))
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return nil, fail.Inputf(where, stderr("run it by hand on a line of JSON"), "%w", err)
	}
	lines := strings.Split(strings.TrimRight(out.String(), "\r\n"), "\n")
	if len(lines) != len(answers) || out.cut {
		return nil, fail.Inputf(where, stderr("it must write one line for each line it reads"), "%d lines for %d answers", len(lines), len(answers))
	}
	rewards := make([]float64, len(answers))
	for i, text := range lines {
		text = strings.TrimSpace(text)
		if text == "null" {
			rewards[i] = math.NaN()
			continue
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fail.Inputf(where, stderr("a number or null on each line"), "line %d is %.80q, neither a number nor null", i+1, text)
		}
		rewards[i] = v
	}
	return rewards, nil
}

// head keeps the first bytes that are written.
type head struct {
	bytes.Buffer
	most int
	cut  bool
}

func (h *head) Write(p []byte) (int, error) {
	n := len(p)
	if left := h.most - h.Len(); n > left {
		p, h.cut = p[:max(left, 0)], true
	}
	h.Buffer.Write(p)
	return n, nil
}
