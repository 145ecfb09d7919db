package stages

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats/atomic"
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
	live       bool // it goes on: what comes at the end of a file is left out
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
	return (&tracked{run: x.Name(), stage: j.ID, dir: filepath.Dir(x.Dir(j)), ended: ended}).files(x.Began, j, path, steps, evals)
}

// files are those that report_to asks for; first says when the training of a name began.
func (t *tracked) files(first func(name string, at float64) float64, j *recipes.Job, path string, steps []train.Metrics, evals []train.EvalMetrics) map[string][]byte {
	o := j.Options.(*Train)
	t.params = paramsOf(o)
	st, err := os.Stat(path)
	if err != nil {
		return nil
	}
	if t.raw, err = os.ReadFile(path); err != nil {
		return nil
	}
	took := 0.0
	for _, m := range steps {
		took += m.StepSeconds
	}
	for _, e := range evals {
		took += e.Seconds
	}
	t.id = trackedID(t.run, t.stage, o, steps[0])
	t.began = first(t.id, float64(st.ModTime().Unix())-took) // times that were written stay
	t.points = pointsOf(t.began, steps, evals)
	out := map[string][]byte{}
	for _, name := range o.Trackers() {
		for file, raw := range trackers[name](t) {
			out[file] = raw
		}
	}
	return out
}

// live keeps the files of trackers up while a training runs.
type live struct {
	x     *recipes.Env
	j     *recipes.Job
	path  string // of its metrics
	every time.Duration
	next  time.Time
	step  int
}

// liveEvery is how often files are written on; where that takes long, less often.
const liveEvery = 10 * time.Second

// update appends what was measured up to step.
func (l *live) update(step int) {
	now := time.Now()
	if step == l.step || now.Before(l.next) || len(l.j.Options.(*Train).Trackers()) == 0 {
		return
	}
	l.step = step
	if err := l.write(); err != nil {
		l.x.Note(fmt.Sprintf("files of report_to could not be written and will be tried again: %v", err))
	}
	l.next = time.Now().Add(max(l.every, 50*time.Since(now)))
}

func (l *live) write() error {
	steps, evals, err := train.ReadMetrics(l.path)
	if err != nil || len(steps) == 0 {
		return err
	}
	t := &tracked{run: l.x.Name(), stage: l.j.ID, dir: filepath.Dir(l.x.Dir(l.j)), live: true}
	files := t.files(l.x.Began, l.j, l.path, steps, evals)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(t.dir, name)
		if err := atomic.MkdirAll(filepath.Dir(path)); err != nil {
			return err
		}
		if err := atomic.Extend(path, files[name]); err != nil {
			return err
		}
	}
	return nil
}

// trackedID names a training: by what its first step gave, and by the options that its
// stage is addressed by, so that a stage which is unchanged keeps it.
func trackedID(run, stage string, o *Train, first train.Metrics) string {
	same := addressTrain(&recipes.Addresser{Env: map[string]string{}}, o).(Train)
	h := sha256.New()
	fmt.Fprintln(h, run, stage, math.Float64bits(first.Loss), math.Float64bits(first.GradNorm), first.Tokens, paramsOf(&same))
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// pointsOf lists what a training measured in the order of time.
func pointsOf(began float64, steps []train.Metrics, evals []train.EvalMetrics) []point {
	var out []point
	at := began
	data := names{clean: func(s string) string { return strings.ReplaceAll(s, "/", "_") }}
	validated := func(before int) {
		for ; len(evals) > 0 && evals[0].Step < before; evals = evals[1:] {
			at += evals[0].Seconds
			out = append(out, point{at, evals[0].Step, evalScalars(evals[0], &data)})
		}
	}
	for _, m := range steps {
		validated(m.Step)
		at += m.StepSeconds
		out = append(out, point{at, m.Step, stepScalars(m, &data)})
	}
	validated(math.MaxInt)
	return out
}

func stepScalars(m train.Metrics, data *names) []scalarValue {
	var values []scalarValue
	if !math.IsNaN(m.Loss) { // of a step left out for its loss
		values = append(values, scalarValue{"train/loss", m.Loss})
	}
	values = append(values, []scalarValue{{"train/learning_rate", m.LearningRate}, {"train/grad_norm", m.GradNorm},
		{"train/tokens_per_second", m.TokensPerSecond}, {"train/memory_bytes", float64(m.MemoryBytes)}, {"train/epoch", m.Epoch}}...)
	return append(append(values, scalars("train/", m.Objective)...), sourceScalars("train/", m.Sources, data)...)
}

func evalScalars(e train.EvalMetrics, data *names) []scalarValue {
	values := []scalarValue{{"eval/loss", e.Loss}}
	if e.Perplexity > 0 {
		values = append(values, scalarValue{"eval/perplexity", e.Perplexity})
	}
	values = append(values, scalars("eval/", slices.Concat(e.Tasks, e.Objective))...)
	return append(values, sourceScalars("eval/", e.Sources, data)...)
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
func sourceScalars(prefix string, list []train.SourceLoss, data *names) []scalarValue {
	var out []scalarValue
	for _, s := range list {
		out = append(out, scalarValue{prefix + "data/" + data.of(s.Source), s.Loss})
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

// names gives everything a name of its own: the clean one, with a number where another
// has that already.
type names struct {
	clean func(string) string
	given map[string]string
	taken map[string]bool
}

func (n *names) of(s string) string {
	if n.given == nil {
		n.given, n.taken = map[string]string{}, map[string]bool{}
	}
	if name, ok := n.given[s]; ok {
		return name
	}
	name := n.clean(s)
	for i := 2; n.taken[name]; i++ {
		name = fmt.Sprintf("%s_%d", n.clean(s), i)
	}
	n.given[s], n.taken[name] = name, true
	return name
}

// trackedName is a name with what MLflow takes of it and files can be called: letters
// and digits of any script and _ - . space /, in parts that are no dots alone.
func trackedName(s string) string {
	parts := strings.Split(s, "/")
	for i, p := range parts {
		p = strings.Map(func(r rune) rune {
			if unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("_-. ", r) {
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
