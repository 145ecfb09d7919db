package quant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Folder quantizes a model into one folder a job, in one pass over its weights.
// calibration are token sequences; rtn and nf4 need none. Each job has its own
// hidden states, which pass through what it has already quantized, so jobs give
// the same bits together and alone. progress is called with work done and in
// all; it may be nil.
//
// A run that ctx ends is suspended: the same call goes on after the last
// finished block and gives the same bytes. No folder appears before all are
// complete. The reports are in the order of jobs.
func Folder(ctx context.Context, dev kernels.Backend, src *arch.Source, jobs []FolderJob, calibration [][]int32, progress func(done, total int64)) ([]*Report, error) {
	r := &folderRun{walk: walk{ctx: ctx, dev: dev, src: src, progress: progress, disk: &spill{path: jobs[0].Path}}}
	if err := r.plan(jobs, calibration); err != nil {
		return nil, err
	}
	defer r.free()
	if err := r.mix(jobs, calibration, false); err != nil {
		if ctx.Err() != nil {
			return nil, fail.Interruptedf(jobs[0].Path, "run the same command again; widths are measured from the beginning", "quantizing was interrupted")
		}
		return nil, err
	}
	if err := r.open(); err != nil {
		return nil, errors.Join(err, r.suspend()) // what is there already is kept
	}
	if err := r.quantize(); err != nil {
		if ctx.Err() != nil {
			return nil, errors.Join(fail.Interruptedf(jobs[0].Path, "run the same command again to go on after the last finished block", "quantizing was interrupted"), r.suspend())
		}
		r.abort()
		return nil, err
	}
	var reports []*Report
	for _, o := range r.outputs {
		if err := o.commit(); err != nil {
			r.abort()
			return nil, err
		}
		reports = append(reports, o.report())
	}
	return reports, nil
}

// folderRun is one call of Folder.
type folderRun struct {
	walk
	outputs []*output
}

// output is one folder in the making.
type output struct {
	from    *arch.Source
	plan    *FolderPlan
	sink    *arch.Sink // nil: a plan
	log     *layerLog
	reports map[string]LayerReport // by module
	rep     Report
	tops    map[string][]float32 // by tensor name: see topsOf
}

// plan checks every job before any work.
func (r *folderRun) plan(jobs []FolderJob, calibration [][]int32) error {
	for i := range jobs {
		p, err := PlanFolder(r.src, jobs[i])
		if err != nil {
			return err
		}
		o := &output{from: r.src, plan: p, reports: map[string]LayerReport{}}
		o.rep = Report{Method: p.method.Name, Scheme: p.Scheme, Format: p.Format, Type: p.Type.String(), Group: p.Group, Bytes: p.Bytes, Elements: p.Elements, Kept: p.Kept}
		for _, t := range r.src.Tensors() {
			if p.quantize[t.Name] {
				r.total += int64(t.Len())
			}
		}
		r.outputs = append(r.outputs, o)
		if !p.Calibrated() {
			continue
		}
		s, err := r.stream(o, calibration)
		if err != nil {
			return err
		}
		r.streams = append(r.streams, s)
	}
	return nil
}

// mix lets methods choose types by the text; of a plan it counts the memory.
func (r *folderRun) mix(jobs []FolderJob, calibration [][]int32, plan bool) error {
	for i, o := range r.outputs {
		p := o.plan
		if !p.mixes() {
			continue
		}
		if err := p.method.mix(r.ctx, r.dev, r.src, p, calibrationOf(&jobs[i], calibration), plan); err != nil {
			return err
		}
		p.lay(r.src)
		o.rep.Bytes = p.Bytes
	}
	return nil
}

// calibrationOf is a job's share of the calibration text.
func calibrationOf(j *FolderJob, all [][]int32) [][]int32 {
	if j.Samples > 0 {
		return all[:min(j.Samples, len(all))]
	}
	return all
}

// stream takes a job's share of the calibration text.
func (r *folderRun) stream(o *output, calibration [][]int32) (*stream, error) {
	s := &stream{walk: &r.walk, output: o}
	calibration = calibrationOf(o.plan.job, calibration)
	var seqs [][]int32
	for _, c := range calibration {
		if len(c) > 0 {
			seqs = append(seqs, c)
			s.tokens += len(c)
		}
	}
	if s.tokens == 0 {
		return nil, fail.Usagef("calibration", "name an ingest stage or a text file", "%s needs calibration text, there is none", o.plan.method.Name)
	}
	s.passes = passes(seqs)
	o.rep.Samples, o.rep.Tokens = len(seqs), s.tokens
	widest := 0
	for n := range o.plan.quantize {
		widest = max(widest, r.src.Named(n).Cols)
	}
	if s.tokens < 4*widest {
		o.rep.Warnings = append(o.rep.Warnings, fmt.Sprintf("%d calibration tokens are few for layers of %d inputs: give at least %d", s.tokens, widest, 4*widest))
	}
	return s, nil
}

func (r *folderRun) open() error {
	for _, o := range r.outputs {
		if err := o.open(); err != nil {
			return err
		}
	}
	return nil
}

// quantize does the work of all jobs.
func (r *folderRun) quantize() error {
	for _, o := range r.outputs {
		if err := r.direct(o); err != nil {
			return err
		}
	}
	if len(r.streams) == 0 {
		return nil
	}
	m, err := model.Load(r.dev, r.src, model.Options{Stream: true})
	if err != nil {
		return err
	}
	defer m.Close()
	r.m = m
	return r.walk.run()
}

// outside are the tensors that need no calibration text: those that are not
// quantized, and those that are.
func (o *output) outside() (kept, rounded []arch.Out) {
	for _, out := range o.plan.outs {
		switch {
		case o.plan.Calibrated() && out.Layer >= 0:
		case o.plan.quantize[out.Name]:
			rounded = append(rounded, out)
		default:
			kept = append(kept, out)
		}
	}
	return kept, rounded
}

// direct writes the tensors of a job that need no calibration: all of them, or
// what lies outside the blocks.
func (r *folderRun) direct(o *output) error {
	kept, rounded := o.outside()
	if err := arch.Copy(r.ctx, r.dev, o.from, o.sink, kept, nil, nil); err != nil {
		return err
	}
	for _, out := range rounded {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if err := o.quantize(r.dev, out.Tensor, out.Type); err != nil {
			return err
		}
		r.done += int64(out.Len())
		if r.progress != nil {
			r.progress(r.done, r.total)
		}
	}
	return nil
}

// has reports whether an earlier run wrote a tensor.
func (o *output) has(t *arch.Tensor) bool { return o.sink != nil && o.sink.Has(t) }

// readOut is a tensor as the folder will hold it; in a plan without bytes.
func (o *output) readOut(out arch.Out) (block.Raw, error) {
	if o.sink == nil {
		return block.Raw{Type: out.Type, Rows: out.Rows, Cols: out.Cols}, nil
	}
	return o.from.ReadOut(out)
}

func (r *folderRun) suspend() error {
	var err error
	for _, o := range r.outputs {
		if o.sink != nil {
			err = errors.Join(err, o.sink.Suspend())
		}
		if o.log != nil {
			err = errors.Join(err, o.log.close())
		}
	}
	return err
}

func (r *folderRun) abort() {
	for _, o := range r.outputs {
		if o.sink != nil {
			o.sink.Abort()
		}
		if o.log != nil {
			o.log.remove()
		}
	}
}

// open starts or goes on with the folder.
func (o *output) open() error {
	p, j := o.plan, o.plan.job
	config, err := o.from.ConfigAs(p.keep)
	if err != nil {
		return err
	}
	q, err := p.quantization()
	if err != nil {
		return err
	}
	o.sink, err = arch.CreateFolder(j.Path, &o.from.Spec, p.outs, arch.FolderOptions{
		Config: config, Files: j.Files, MaxShard: j.MaxShard, Layout: p.Format, Quantization: q,
	})
	if err != nil {
		return err
	}
	fresh := true
	for _, out := range p.outs {
		fresh = fresh && !o.sink.Has(out.Tensor)
	}
	o.log, err = openLayerLog(j.Path, fresh)
	return err
}

// quantization is what the folder's quantization_config says beyond its layout.
func (p *FolderPlan) quantization() ([]byte, error) {
	if p.method.meta == nil || !formats.InGPTQ(p.Format) {
		return nil, nil
	}
	meta := p.method.meta(p.options)
	meta["quantizer"] = []string{"tunekit"}
	return json.Marshal(map[string]any{"meta": meta})
}

// values is a tensor of the source as float32.
func (s *scratch) values(from *arch.Source, x *arch.Tensor) kernels.Buffer {
	in, _, err := from.Read(x)
	if err != nil {
		s.err = err
		return nil
	}
	v := s.alloc(dtype.F32, x.Len())
	w, err := s.dev.Load(kernels.Mapped, in.Type, in.Rows, in.Cols, in.Data, kernels.Borrow)
	if w = s.hold(w, err); s.err == nil {
		s.dev.Dequantize(v, w)
		s.dev.Free(s.take(w.Buffer))
		from.Forget(x)
	}
	return v
}

// quantize makes and writes a weight that needs no calibration text, or
// measures what an earlier run wrote.
func (o *output) quantize(dev kernels.Backend, x *arch.Tensor, t dtype.Type) error {
	var r *matrixResult
	err := dev.Run(func() (err error) {
		s := scratch{dev: dev}
		defer s.free()
		tops, err := o.topsOf(x, t)
		if err != nil {
			return err
		}
		l := &layer{dev: dev, path: x.Path(), role: x.Role, w: s.values(o.from, x), rows: x.Rows, cols: x.Cols, typ: t, tops: tops, like: o.plan.keep}
		if s.err != nil {
			return s.err
		}
		if err := l.check(); err != nil {
			return err
		}
		if !o.has(x) {
			r, err = o.plan.round(l)
			return err
		}
		m, err := o.sink.Read(x, t)
		if err != nil {
			return err
		}
		r = &matrixResult{raw: m}
		r.report, err = measure(l, m)
		r.report.Method = o.plan.method.Name
		return err
	})
	if err != nil {
		return err
	}
	if o.sink != nil && !o.sink.Has(x) {
		if err := o.sink.Write(x, r.raw); err != nil {
			return err
		}
	}
	o.plan.label(&r.report, x.Path())
	o.reports[x.Path()] = r.report
	return nil
}

func (o *output) commit() error {
	if err := o.sink.Commit(); err != nil {
		return err
	}
	o.log.remove()
	return nil
}

func (o *output) report() *Report {
	r := o.rep
	for _, l := range o.plan.Layers {
		r.Layers = append(r.Layers, o.reports[l])
	}
	layers, experts := 0, 0
	for _, l := range r.Layers {
		experts += l.Experts
		if l.Fallback != "" && l.Experts == 0 {
			layers++
		}
	}
	if layers > 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%d of %d layers were rounded to nearest: no damping made their Hessian positive definite", layers, len(r.Layers)))
	}
	if experts > 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%d experts were rounded to nearest, most likely for want of text: fewer than %d tokens are sent to them", experts, fewTokens))
	}
	return &r
}

// layerLog keeps the report lines of finished blocks beside an unfinished
// folder, for the report of a run that goes on.
type layerLog struct {
	path string
	log  *atomic.Log
	old  map[string]LayerReport
}

func openLayerLog(dir string, fresh bool) (*layerLog, error) {
	l := &layerLog{path: strings.TrimRight(dir, "/") + ".layers.jsonl", old: map[string]LayerReport{}}
	if fresh {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	} else if b, err := os.ReadFile(l.path); err == nil {
		for line := range strings.Lines(string(b)) {
			var r LayerReport
			if json.Unmarshal([]byte(line), &r) == nil {
				l.old[r.Layer] = r
			}
		}
	}
	var err error
	l.log, err = atomic.OpenLog(l.path)
	return l, err
}

// find is the line of a layer that an earlier run finished.
func (l *layerLog) find(layer string) (LayerReport, bool) {
	r, ok := l.old[layer]
	return r, ok
}

func (l *layerLog) add(reports []LayerReport) error {
	for _, r := range reports {
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if err := l.log.WriteLine(b); err != nil {
			return err
		}
	}
	return l.log.Sync()
}

func (l *layerLog) close() error { return l.log.Close() }

// remove ends the log: the report holds everything.
func (l *layerLog) remove() {
	if l.log != nil {
		l.log.Close()
		l.log = nil
	}
	os.Remove(l.path)
}
