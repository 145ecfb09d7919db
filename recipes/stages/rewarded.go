package stages

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/train"
)

const (
	learnedTimes   = 6 // moments of a training whose answers a report shows
	learnedAnswers = 4 // answers to a prompt at each
)

// rewardCharts is the reward over the steps of a training on answers, with that of
// the prompts held back.
func rewardCharts(steps []train.Metrics, evals []train.EvalMetrics) []report.Chart {
	reward := report.Series{Name: "reward", Class: "s1"}
	for _, m := range steps {
		if v, ok := m.Objective.Get("reward"); ok {
			reward.X, reward.Y = append(reward.X, float64(m.Step)), append(reward.Y, v)
		}
	}
	curves := []report.Series{reward}
	if len(reward.Y) >= 100 {
		curves = []report.Series{{Name: "reward of each step", X: reward.X, Y: reward.Y, Class: "s1", Faint: true},
			{Name: "reward (mean around)", X: reward.X, Y: report.Smooth(reward.Y), Class: "s1"}}
	}
	held := report.Series{Name: "prompts held back", Class: "s2", Marks: true}
	for _, e := range evals {
		held.X, held.Y = append(held.X, float64(e.Step)), append(held.Y, -e.Loss)
	}
	if len(evals) > 0 {
		curves = append(curves, held)
	}
	return []report.Chart{{Title: "Reward", X: "step", Format: report.ThreeDigits, Series: curves, Wide: true}}
}

// answersOver are a few answers of some moments of a training, evenly over it.
func answersOver(path string) []report.Answered {
	all, err := train.ReadAnswers(path)
	if err != nil || len(all) == 0 {
		return nil
	}
	var firsts []int // of each moment, the answers to its first prompt
	for i, a := range all {
		if i == 0 || a.Step != all[i-1].Step {
			firsts = append(firsts, i)
		}
	}
	var out []report.Answered
	n := min(len(firsts), learnedTimes)
	for k := range n {
		i := firsts[0]
		if n > 1 {
			i = firsts[k*(len(firsts)-1)/(n-1)]
		}
		it := report.Answered{Prompt: printable(promptText(all[i].Prompt))}
		for _, a := range all[i:min(i+learnedAnswers, len(all))] {
			if a.Step != all[i].Step || a.From != all[i].From {
				break
			}
			t := report.AnswerText{Model: fmt.Sprintf("step %d", a.Step), Text: printable(a.Text)}
			if a.Reward != nil {
				t.Model += fmt.Sprintf(", reward %s", report.Sig(*a.Reward, 3))
			}
			if a.Truncated {
				t.Model += ", cut off"
			}
			it.Got = append(it.Got, t)
		}
		out = append(out, it)
	}
	return out
}

// promptText is a prompt as a reader sees it: text, or what messages say.
func promptText(v any) string {
	list, ok := v.([]any)
	if !ok {
		s, _ := v.(string)
		return s
	}
	var out []string
	for _, e := range list {
		m, _ := e.(map[string]any)
		s, ok := m["content"].(string)
		if !ok {
			raw, _ := json.Marshal(m["content"])
			s = string(raw)
		}
		out = append(out, fmt.Sprint(m["role"], ": ", s))
	}
	return strings.Join(out, "\n")
}
