package report

import (
	"cmp"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/train/eval"
)

// Compared is one model of a run folder with everything that was measured of
// it.
type Compared struct {
	Name    string             `json:"name"`
	Path    string             `json:"path"`
	Bytes   int64              `json:"bytes"` // of its weights; 0: it lies outside of the run
	Metrics map[string]float64 `json:"metrics"`
	Pareto  bool               `json:"pareto"`             // nothing is both smaller and better
	Out     string             `json:"left_out,omitempty"` // by which limit

	ref string // what the evaluation took it from
}

// equalThemselves gives the models that others were compared with the values of a
// model compared with itself.
func equalThemselves(out []Compared, refs map[string]bool) {
	for i := range out {
		if _, measured := out[i].Metrics["kl"]; !measured && out[i].ref != "" && refs[out[i].ref] {
			out[i].Metrics["kl"], out[i].Metrics["top1"] = 0, 1
		}
	}
}

// inputsOf are the references of an eval stage's inputs by name.
func inputsOf(run, stage string) map[string]string {
	var state struct {
		Inputs map[string]struct{ Ref string }
	}
	raw, err := os.ReadFile(filepath.Join(run, ".state", stage+".json"))
	if err != nil || json.Unmarshal(raw, &state) != nil {
		return nil
	}
	out := map[string]string{}
	for name, in := range state.Inputs {
		out[name] = in.Ref
	}
	return out
}

// Compare reads what the evaluations in a run folder measured: its models, the
// smallest first. resolve finds the file or folder of a model that the run did
// not make.
func Compare(run string, resolve func(path string) (string, error)) ([]Compared, error) {
	files, _ := fs.Glob(os.DirFS(run), "*/eval.json") // the folder's own name is no pattern
	if len(files) == 0 {
		return nil, fail.Usagef(run, "add an eval stage", "no evaluation in this run")
	}
	at, refs := map[string]int{}, map[string]bool{}
	var out []Compared
	for _, f := range files {
		stage := filepath.Dir(f)
		metrics, err := readMetrics(filepath.Join(run, stage))
		if err != nil {
			return nil, err
		}
		for _, m := range metrics {
			i, ok := at[m.Model]
			if !ok {
				c := Compared{Name: m.Model, Metrics: map[string]float64{}}
				inputs := inputsOf(run, stage)
				c.locate(run, inputs, resolve)
				c.ref = inputs["models["+c.Name+"]"]
				refs[cmp.Or(inputs["references["+c.Name+"]"], inputs["reference"])] = true
				i, out = len(out), append(out, c)
				at[m.Model] = i
			}
			out[i].Metrics[m.Metric] = m.Value
		}
	}
	if len(out) == 0 {
		return nil, fail.Usagef(run, "run the recipe again: its eval stage did not come to an end", "the evaluation in this run measured nothing")
	}
	equalThemselves(out, refs)
	slices.SortStableFunc(out, func(a, b Compared) int { return int(min(1, max(-1, a.Bytes-b.Bytes))) })
	best := 0.0
	for i := range out {
		if p, ok := out[i].Metrics["perplexity"]; ok && out[i].Bytes > 0 && (best == 0 || p < best) {
			out[i].Pareto, best = true, p
		}
	}
	return out, nil
}

// readMetrics reads what an eval stage left. Speeds lie in a file of their own,
// since they differ from run to run.
func readMetrics(dir string) ([]eval.Metric, error) {
	var e Evaluation
	path := filepath.Join(dir, "eval.json")
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &e)
	}
	if err != nil {
		return nil, fail.Inputf(path, "", "%w", err)
	}
	path = filepath.Join(dir, "speed.json")
	if raw, err = os.ReadFile(path); err != nil {
		return e.Metrics, nil // nothing was timed
	}
	var timed []eval.Metric
	if err := json.Unmarshal(raw, &timed); err != nil {
		return nil, fail.Inputf(path, "", "%w", err)
	}
	return append(e.Metrics, timed...), nil
}

// locate finds a model's files: a stage's folder, a file in it, or what the
// eval stage took from elsewhere, such as the base.
func (c *Compared) locate(run string, inputs map[string]string, resolve func(string) (string, error)) {
	id, member, _ := strings.Cut(c.Name, "/")
	c.Path = filepath.Join(run, id)
	if member != "" {
		if m, _ := fs.Glob(os.DirFS(c.Path), "*-"+member+".gguf"); len(m) == 1 {
			c.Path = filepath.Join(c.Path, m[0])
		}
	}
	if c.Bytes = weightBytes(c.Path); c.Bytes > 0 {
		return
	}
	c.Path = ""
	if path, err := resolve(inputs["models["+c.Name+"]"]); err == nil {
		c.Path, c.Bytes = path, weightBytes(path)
	}
}

// weightBytes is the size of a model's weight files: a folder's, one file, or the parts of a GGUF.
func weightBytes(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	if !st.IsDir() {
		n := st.Size()
		for _, part := range formats.Parts(path)[1:] {
			if st, err := os.Stat(part); err == nil {
				n += st.Size()
			}
		}
		return n
	}
	var n int64
	files, _ := os.ReadDir(path)
	for _, f := range files {
		if name := f.Name(); formats.IsWeights(name) || strings.HasSuffix(name, ".gguf") {
			if st, err := os.Stat(filepath.Join(path, name)); err == nil {
				n += st.Size()
			}
		}
	}
	return n
}

// Metrics lists what was measured of any model, sorted.
func Metrics(list []Compared) []string {
	all := map[string]bool{}
	for _, c := range list {
		for name := range c.Metrics {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// LeaveOut marks the models larger than a number of bytes; text is how the
// limit was given.
func LeaveOut(list []Compared, bytes int64, text string) {
	for i := range list {
		if list[i].Bytes > bytes {
			list[i].Out = "larger than " + text
		}
	}
}

// LeaveOutBy marks the models whose metric is missing, above a limit (max) or
// below it (min).
func LeaveOutBy(list []Compared, kind, metric string, limit float64, text string) {
	for i := range list {
		switch v, ok := list[i].Metrics[metric]; {
		case !ok:
			list[i].Out = metric + " was not measured"
		case kind == "max" && v > limit || kind == "min" && v < limit:
			list[i].Out = kind + " " + text
		}
	}
}

// Pick is the smallest model that is not left out, or with how = "best METRIC"
// the best. It is nil when every model is left out; ok is false where a model
// has no such metric.
func Pick(list []Compared, how string) (best *Compared, ok bool) {
	for i := range list {
		r := &list[i]
		if r.Out != "" || r.Bytes == 0 { // the base is not of this run
			continue
		}
		if best == nil {
			best = r
			continue
		}
		if how == "smallest" {
			continue
		}
		metric := strings.TrimPrefix(how, "best ")
		a, ok := r.Metrics[metric]
		if !ok {
			return nil, false
		}
		lower := metric == "perplexity" || strings.HasPrefix(metric, "kl")
		if b := best.Metrics[metric]; lower && a < b || !lower && a > b {
			best = r
		}
	}
	return best, true
}
