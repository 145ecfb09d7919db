package stages

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/train"
)

// tracked is a training as programs that keep track of many of them store it.
type tracked struct {
	run, stage string // names
	dir        string // of the run
	id         string // hex, the same whenever this training is written
	began      float64
	ended      bool
	params     [][2]string
	points     []point
	raw        []byte // metrics.jsonl
}

// point is what was measured at one time.
type point struct {
	at     float64 // Unix seconds
	step   int
	values []scalarValue
}

// trackers write a training in the formats of other programs, below the run folder: files
// by their path there. Nothing is sent anywhere.
var trackers = map[string]func(t *tracked) map[string][]byte{
	"tensorboard": tensorboardFiles,
	"mlflow":      mlflowFiles,
	"wandb":       wandbFiles,
}

// trackerFiles are the files that report_to asks for of a training whose metrics lie at path.
func trackerFiles(x *recipes.Env, j *recipes.Job, path string, ended bool, steps []train.Metrics, evals []train.EvalMetrics) map[string][]byte {
	o := j.Options.(*Train)
	st, err := os.Stat(path)
	if err != nil {
		return nil
	}
	t := &tracked{run: x.Name(), stage: j.ID, dir: filepath.Dir(x.Dir(j)), ended: ended, params: paramsOf(o)}
	if t.raw, err = os.ReadFile(path); err != nil {
		return nil
	}
	took := 0.0
	for _, m := range steps {
		took += m.StepSeconds
	}
	t.began = float64(st.ModTime().Unix()) - took
	h := sha256.New()
	first := steps[0]
	fmt.Fprintln(h, t.run, t.stage, math.Float64bits(first.Loss), math.Float64bits(first.GradNorm), first.Tokens, t.params)
	t.id = hex.EncodeToString(h.Sum(nil))[:32]
	t.points = pointsOf(t.began, steps, evals)
	out := map[string][]byte{}
	for _, name := range o.Trackers() {
		for file, raw := range trackers[name](t) {
			out[file] = raw
		}
	}
	return out
}

// pointsOf lists what a training measured in the order of time.
func pointsOf(began float64, steps []train.Metrics, evals []train.EvalMetrics) []point {
	var out []point
	at := began
	for _, m := range steps {
		at += m.StepSeconds
		for len(evals) > 0 && evals[0].Step < m.Step {
			out = append(out, point{at, evals[0].Step, evalScalars(evals[0])})
			evals = evals[1:]
		}
		out = append(out, point{at, m.Step, stepScalars(m)})
	}
	for _, e := range evals {
		out = append(out, point{at, e.Step, evalScalars(e)})
	}
	return out
}

func stepScalars(m train.Metrics) []scalarValue {
	values := []scalarValue{
		{"train/loss", m.Loss}, {"train/learning_rate", m.LearningRate}, {"train/grad_norm", m.GradNorm},
		{"train/tokens_per_second", m.TokensPerSecond}, {"train/memory_bytes", float64(m.MemoryBytes)}, {"train/epoch", m.Epoch}}
	return append(append(values, scalars("train/", m.Objective)...), sourceScalars("train/", m.Sources)...)
}

func evalScalars(e train.EvalMetrics) []scalarValue {
	values := []scalarValue{{"eval/loss", e.Loss}}
	if e.Perplexity > 0 {
		values = append(values, scalarValue{"eval/perplexity", e.Perplexity})
	}
	values = append(values, scalars("eval/", slices.Concat(e.Tasks, e.Objective))...)
	return append(values, sourceScalars("eval/", e.Sources)...)
}

// scalars are named values with their names below prefix.
func scalars(prefix string, values train.Values) []scalarValue {
	var out []scalarValue
	for _, v := range values {
		out = append(out, scalarValue{prefix + v.Name, v.V})
	}
	return out
}

// sourceScalars are the losses of data sets.
func sourceScalars(prefix string, list []train.SourceLoss) []scalarValue {
	var out []scalarValue
	for _, s := range list {
		out = append(out, scalarValue{prefix + "data/" + strings.ReplaceAll(s.Source, "/", "_"), s.Loss})
	}
	return out
}

// paramsOf are the options of a training by name; those in sections as section.name.
func paramsOf(o *Train) [][2]string {
	of := *o
	of.Tracking = train.Tracking{} // the same training whoever is told
	raw, err := yaml.Marshal(&of)
	var all map[string]any
	if err != nil || yaml.Unmarshal(raw, &all) != nil {
		return nil
	}
	var out [][2]string
	var add func(prefix string, m map[string]any)
	add = func(prefix string, m map[string]any) {
		for k, v := range m {
			switch v := v.(type) {
			case nil:
			case map[string]any:
				if plainName(k) {
					add(prefix+k+".", v)
				}
			case string:
				out = append(out, [2]string{prefix + k, v})
			default:
				text, err := json.Marshal(v)
				if err == nil && plainName(k) {
					out = append(out, [2]string{prefix + k, string(text)})
				}
			}
		}
	}
	add("", all)
	out = slices.DeleteFunc(out, func(p [2]string) bool { return p[1] == "" || p[1] == "[]" || !plainName(p[0]) })
	sort.Slice(out, func(i, j int) bool { return out[i][0] < out[j][0] })
	return out
}

// plainName reports whether every program takes a name: patterns of modules are none.
func plainName(s string) bool { return s == trackedName(s) }

// trackedName is a name with what MLflow takes of it and files can be called: letters,
// digits and _ - . space /, in parts that are no dots alone.
func trackedName(s string) string {
	parts := strings.Split(s, "/")
	for i, p := range parts {
		p = strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-. ", r) {
				return r
			}
			return '_'
		}, p)
		if strings.Trim(p, ".") == "" {
			p = strings.Repeat("_", max(1, len(p)))
		}
		parts[i] = p
	}
	return strings.Join(parts, "/")
}
