package recipes

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/quant"
)

// quantReport is the file beside the weights that says what was done to each
// layer, a JSON line each.
const quantReport = "quantization.json"

// QuantizeResult is what a quantize stage leaves for the report.
type QuantizeResult struct {
	Report *quant.Report       `json:"report"`
	Bits   float64             `json:"bits_per_weight"`
	Layers []quant.LayerReport `json:"layers"`
}

// folderJob is a quantize stage in package quant's terms.
func (x *run) folderJob(s *Stage) quant.FolderJob {
	o := s.Quantize
	job := quant.FolderJob{Path: x.stageDir(s.ID), Method: o.Method, Scheme: o.Scheme, Format: o.Format, For: o.For,
		Samples: o.Samples, Ignore: o.Ignore, AllowRequantize: o.AllowRequantize}
	if m, err := quant.MethodNamed(o.Method); err == nil { // else planning says so
		values := map[string]any{"actorder": o.ActOrder, "damp_percent": o.DampPercent, "double_quant": o.DoubleQuant == nil || *o.DoubleQuant}
		job.Options = m.SetOptions(func(key string) (any, bool) { v, ok := values[key]; return v, ok })
	}
	if o.GroupSize.Set {
		job.Group = int(o.GroupSize.Value)
	}
	return job
}

// neighbours are the quantize stages from the running one on that read the
// same model and the same calibration text and still have to be run: they
// share one pass over the weights. Each keeps its address, folder and journal.
func (x *run) neighbours(j *Job) []*Job {
	group := []*Job{j}
	for _, next := range x.jobs[x.at+1:] {
		if next.Stage.Quantize == nil || !x.wanted(next.Stage.ID) || !sameInputs(j, next) || next.Stage.Quantize.MaxLength != j.Stage.Quantize.MaxLength {
			break
		}
		if exists(x.stageDir(next.Stage.ID)) {
			break
		}
		group = append(group, next)
	}
	return group
}

// sameInputs reports whether two stages read the same things; one that needs
// no calibration fits any.
func sameInputs(a, b *Job) bool {
	for _, name := range []string{"model", "calibration"} {
		x, okX := a.In(name)
		y, okY := b.In(name)
		if okX && okY && x.String() != y.String() {
			return false
		}
	}
	return true
}

func runQuantize(ctx context.Context, x *run, j *Job, res *Result) error {
	if exists(filepath.Join(x.stageDir(j.Stage.ID), quantReport)) { // made beside a neighbour
		x.event(Event{What: "note", Text: "made in an earlier stage's pass, whose time is that of both"})
		return x.quantized(j, res)
	}
	if err := atomic.RemoveAll(x.stageDir(j.Stage.ID)); err != nil { // finished, but killed before its report
		return err
	}
	group := x.neighbours(j)
	ref, _ := j.In("model")
	path, err := resolvePath(x.pathOf(ref))
	if err != nil {
		return err
	}
	src, err := arch.Open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	files, err := modelFiles(src)
	if err != nil {
		return err
	}
	var jobs []quant.FolderJob
	var calibration [][]int32
	for _, g := range group {
		if g != j { // its own turn comes: mark it as begun, so that nothing is taken for foreign
			r, err := x.address(g)
			if err != nil {
				return err
			}
			if err := x.clear(g, r.Address); err != nil {
				return err
			}
		}
		job := x.folderJob(g.Stage)
		job.Files = files
		jobs = append(jobs, job)
		if cal, ok := g.In("calibration"); ok && calibration == nil {
			if calibration, err = x.calibration(ctx, cal, src, x.mostSamples(group), g.Stage.Quantize.MaxLength); err != nil {
				return err
			}
		}
	}
	if len(group) > 1 {
		x.event(Event{What: "note", Text: "shared pass with " + group[len(group)-1].Stage.ID})
	}
	reports, err := quant.Folder(ctx, x.dev, src, jobs, calibration, x.progress("work"))
	if err != nil {
		return err
	}
	for i, r := range reports {
		if err := atomic.WriteFile(filepath.Join(jobs[i].Path, quantReport), r.Lines()); err != nil {
			return err
		}
	}
	return x.quantized(j, res)
}

// quantized takes over the report beside a stage's weights.
func (x *run) quantized(j *Job, res *Result) error {
	r, err := readQuantReport(x.stageDir(j.Stage.ID))
	if err != nil {
		return err
	}
	res.Quantize = r
	res.Notes = append(res.Notes, r.Report.Warnings...)
	return x.failOn(j, "fallback", int64(r.Report.Fallbacks()))
}

func (x *run) mostSamples(group []*Job) int {
	n := 0
	for _, g := range group {
		n = max(n, g.Stage.Quantize.Samples)
	}
	return n
}

func readQuantReport(dir string) (*QuantizeResult, error) {
	path := filepath.Join(dir, quantReport)
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fail.Inputf(path, "remove the folder and run again", "%w", err)
	}
	lines := bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
	r := &QuantizeResult{Report: &quant.Report{}}
	if err := json.Unmarshal(lines[0], r.Report); err != nil {
		return nil, fail.Inputf(path, "", "%w", err)
	}
	for _, l := range lines[1:] {
		var layer quant.LayerReport
		if err := json.Unmarshal(l, &layer); err != nil {
			return nil, fail.Inputf(path, "", "%w", err)
		}
		r.Layers = append(r.Layers, layer)
	}
	r.Report.Layers = r.Layers
	r.Bits = r.Report.BitsPerWeight()
	return r, nil
}

// calibration is the text a quantizer sees: the training rows of an ingest
// stage in order, or a file, put together and cut into samples of length
// tokens.
func (x *run) calibration(ctx context.Context, ref Ref, src *arch.Source, samples, length int) ([][]int32, error) {
	if ref.Stage != "" {
		ds, err := x.dataset(ctx, ref, Ref{})
		if err != nil {
			return nil, err
		}
		return cut(ds.Train, samples, min(length, src.Spec.MaxPos))
	}
	return CalibrationFile(ctx, ref.Path, src, samples, length)
}

// CalibrationFile reads calibration text from a file with the model's own
// tokenizer, in samples of at most length tokens and the model's context.
func CalibrationFile(ctx context.Context, path string, src *arch.Source, samples, length int) ([][]int32, error) {
	tok, err := openTokenizer(src)
	if err != nil {
		return nil, err
	}
	length = min(length, src.Spec.MaxPos)
	rows, text, err := EvalFile(ctx, path, tok, length, src.Spec.MaxPos, src.Spec.V)
	if err != nil {
		return nil, err
	}
	if rows.Len() == 0 {
		rows = data.InMemory(data.Example{IDs: text})
	}
	out, err := cut(rows, samples, length)
	if err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, fail.Inputf(path, "give more text, or a smaller max_length", "fewer than %d tokens", length)
	}
	return out, nil
}

// cut joins rows and cuts them into at most samples pieces of length tokens;
// a last shorter piece is used only when there is no other.
func cut(ex data.Examples, samples, length int) ([][]int32, error) {
	rows, err := ex.ReadTokens(samples * length)
	if err != nil {
		return nil, err
	}
	var out [][]int32
	var piece []int32
	for _, e := range rows {
		for ids := e.IDs; len(ids) > 0 && len(out) < samples; {
			n := min(length-len(piece), len(ids))
			piece, ids = append(piece, ids[:n]...), ids[n:]
			if len(piece) == length {
				out, piece = append(out, slices.Clip(piece)), nil
			}
		}
	}
	if len(out) == 0 && len(piece) > 0 {
		out = append(out, piece)
	}
	return out, nil
}
