package recipes

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/quant"
	"github.com/tunekit/tunekit/train/eval"
)

// dryModel loads src on dev. The caller closes it.
func dryModel(dev *dry.Dry, src *arch.Source) (*model.Model, error) {
	return model.Load(dev, src, model.Options{})
}

// zeroRows are n rows of a number of tokens, all learned but the first half.
func zeroRows(n, tokens int) []data.Example {
	out := make([]data.Example, n)
	for i := range out {
		out[i] = data.Example{ID: uint64(i), IDs: make([]int32, max(tokens, 2)), Loss: [][2]int32{{int32(max(tokens, 2) / 2), int32(max(tokens, 2))}}}
	}
	return out
}

// planMerge: adapter into weights, and the check of the result.
func planMerge(p *planner, j *Job, s *StagePlan) error {
	baseRef, _ := j.In("model")
	base, err := p.source(baseRef)
	if err != nil {
		return err
	}
	merged, err := p.source(Ref{Kind: ModelRef, Stage: j.Stage.ID})
	if err != nil {
		return err
	}
	s.Disk = heldBytes(merged)
	s.Does = fmt.Sprintf("→ %s %s", strings.ToLower(merged.LinearType().String()), j.Stage.Merge.Format)
	s.Peak = 12 * largest(base)
	s.Seconds = float64(s.Disk)/3e8 + float64(merged.Spec.Params())/3e8
	in, ok := j.In("data")
	if !ok || in.Stage == "" {
		s.note("no data to measure the KL of the merge on")
		return nil
	}
	rows, err := p.rowsOf(in.Stage)
	if err != nil {
		return err
	}
	tokens := int64(klTokens)
	if rows.unknown == "" {
		if tokens = rows.valTokens; rows.val == 0 {
			tokens = rows.trainTokens
		}
	}
	tokens = min(tokens, klTokens)
	refs := []*arch.Source{base}
	if p.x.trainedNF4(j) && !quantized(base) {
		nf4, err := asNF4(base)
		if err != nil {
			return err
		}
		refs = append(refs, nf4)
		if j.Stage.Merge.Base == "trained" {
			refs = refs[1:]
		}
	}
	for _, ref := range refs {
		if err := p.compared(s, ref, merged, tokens); err != nil {
			return err
		}
	}
	return nil
}

// compared adds the cost of measuring the KL between two models.
func (p *planner) compared(s *StagePlan, ref, m *arch.Source, tokens int64) error {
	dev := dry.New(dry.Options{})
	a, err := dryModel(dev, ref)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := dryModel(dev, m)
	if err != nil {
		return err
	}
	defer b.Close()
	n := int(min(tokens, 2048))
	if _, err := lora.Compare(p.ctx, a, b, []data.Batch{data.NewBatch(zeroRows(max(1, n/256), min(n, 256)))}); err != nil {
		return err
	}
	info := dev.Info()
	s.memory(info.PeakTotal, info.Mem)
	s.Seconds += p.rates.seconds(times(dev.Work(), float64(tokens)/float64(max(n, 1))), false)
	return nil
}

// planQuantize: a quantized folder.
func planQuantize(p *planner, j *Job, s *StagePlan) error {
	ref, _ := j.In("model")
	src, err := p.source(ref)
	if err != nil {
		return err
	}
	o := j.Stage.Quantize
	plan, err := quant.PlanFolder(src, p.x.folderJob(j.Stage))
	if err != nil {
		return err
	}
	s.Disk = plan.Bytes
	s.Does = fmt.Sprintf("%s %s", strings.ToUpper(o.Method), bitsOf(plan.Bytes, plan.Elements))
	if plan.Group != 0 {
		s.note("groups of %d; %d matrices, %d left as they are", plan.Group, len(plan.Layers), len(plan.Kept))
	} else {
		s.note("%d matrices, %d left as they are", len(plan.Layers), len(plan.Kept))
	}
	if by := plan.RefusedBy(); len(by) > 0 {
		s.note("%s will not load it", strings.Join(by, ", "))
	}
	s.Peak = 8 * largest(src)
	s.Seconds = float64(src.Spec.Params()) / 1e8
	if _, ok := j.In("calibration"); ok {
		p.calibrated(j, s, src, o.Samples, min(o.MaxLength, src.Spec.MaxPos), plan.Work)
		if o.Samples > 32 && s.Seconds > 60 {
			s.note("samples: 32, max_length: 512 would take %s", about(s.Seconds*32*512/float64(o.Samples*min(o.MaxLength, src.Spec.MaxPos))))
		}
	}
	return nil
}

// calibrated adds the cost of a walk over the blocks with calibration text:
// each block runs on all tokens before and after it is quantized, and every
// input of a linear map gives a Hessian or a statistic: work is what the layers
// of one input cost.
func (p *planner) calibrated(j *Job, s *StagePlan, src *arch.Source, samples, length int, work func(tokens, in, out float64) float64) {
	tokens := int64(samples) * int64(length)
	ref, _ := j.In("calibration")
	if ref.Stage != "" {
		if rows, err := p.rowsOf(ref.Stage); err == nil && rows.unknown == "" {
			tokens = min(tokens, max(rows.trainTokens, 1))
		}
	}
	sp := src.Spec
	var params, gram, matrix float64
	for _, io := range [][2]int{{sp.C, (sp.H + 2*sp.K) * sp.D}, {sp.H * sp.D, sp.C}, {sp.C, 2 * sp.F}, {sp.F, sp.C}} {
		in, out := float64(io[0]), float64(io[1])
		params += in * out
		gram += in * in
		matrix += work(float64(tokens), in, out)
	}
	spent := dry.Work{Matrix: float64(sp.Layers) * matrix}
	s.Seconds += p.rates.seconds(spent, false)
	activations := 2 * 4 * tokens * int64(sp.C)
	s.counted = false
	s.Memory = map[string]int64{"activations": activations, "weights": int64(4 * params), "scratch": int64(4 * gram * 2)}
	s.Peak = activations + int64(4*params) + int64(4*gram*2)
	if c := max(sp.C, sp.F); tokens < 4*int64(c) {
		s.note("%s calibration tokens are few for %d columns: 4 times as many are a good start", humanize.Comma(tokens), c)
	}
}

// planExport: GGUF files or plain folders.
func planExport(p *planner, j *Job, s *StagePlan) error {
	ref, _ := j.In("model")
	src, err := p.source(ref)
	if err != nil {
		return err
	}
	o := j.Stage.Export
	params := src.Spec.Params()
	var does []string
	for _, typ := range o.Type {
		types, err := p.exported(o, src, typ)
		if err != nil {
			return err
		}
		bytes := sizeAs(src, types)
		s.Disk += bytes + 2<<20
		does = append(does, fmt.Sprintf("%s %.2f", typ, 8*float64(bytes)/float64(params)))
		if !p.quick {
			s.Seconds += encodeSeconds(src, types) + float64(bytes)/1e9
		}
		p.fallbacks(o, src, typ, s)
	}
	s.Does = strings.Join(does, ", ") + " bits a weight"
	s.Peak = 8 * largest(src)
	if in, ok := j.In("imatrix"); ok && in.Path == "" {
		p.calibrated(&Job{Stage: j.Stage, Inputs: []Input{{"calibration", in}}}, s, src, o.Samples, imatrixLength, quant.ImatrixWork)
	}
	return nil
}

// fallbacks counts the matrices that cannot have the type that was meant for
// them.
func (p *planner) fallbacks(o *Export, src *arch.Source, typ string, s *StagePlan) {
	if o.Format == "safetensors" {
		return
	}
	choices, err := p.mix(o, src, typ)
	if err != nil {
		return // reported already
	}
	fallen, all, why := 0, 0, ""
	for _, c := range choices {
		if len(c.Shape) > 1 {
			all++
		}
		if c.Fallback {
			fallen++
			why = c.Why
		}
	}
	if fallen > 0 {
		s.note("%s: %d of %d matrices fall back (%s)", typ, fallen, all, why)
	}
}

// encodeSeconds is how long encoding takes, by the rate of each type.
func encodeSeconds(src *arch.Source, types map[string]dtype.Type) (sec float64) {
	perType := map[dtype.Type]float64{}
	for _, t := range src.Tensors() {
		perType[types[t.Name]] += float64(t.Len())
	}
	for t, n := range perType {
		if r := encodeRate(t); r > 0 {
			sec += n / r
		}
	}
	return sec
}

// planEval: every model measured from its own file.
func planEval(p *planner, j *Job, s *StagePlan) error {
	o := j.Stage.Eval
	rows, tokens, answer := p.evalRows(j)
	var models int
	for _, in := range j.Inputs {
		name, ok := strings.CutPrefix(in.Name, "models[")
		if !ok {
			continue
		}
		models++
		m, err := p.source(in.Ref)
		if err != nil {
			return err
		}
		ref := j.reference(strings.TrimSuffix(name, "]"))
		if err := p.evaluated(j, s, m, ref, rows, tokens, answer); err != nil {
			return err
		}
	}
	s.Does = fmt.Sprintf("%s of %d models", strings.Join(o.Tasks, ", "), models)
	if rows > 0 {
		s.note("%s rows, %s tokens each model", humanize.Comma(rows), count(float64(tokens)))
	}
	s.Disk = 64 << 10
	return nil
}

// reference is the input that a model is compared with.
func (j *Job) reference(name string) *Ref {
	for _, key := range []string{"reference", "references[" + name + "]"} {
		if r, ok := j.In(key); ok {
			return &r
		}
	}
	return nil
}

// evalRows is what an eval stage measures on: rows, their tokens, and the mean
// length of an answer.
func (p *planner) evalRows(j *Job) (rows, tokens int64, answer float64) {
	o := j.Stage.Eval
	in, _ := j.In("data")
	answer = float64(o.MaxNewTokens)
	if in.Stage == "" {
		return 0, 16384, answer // a file: its size says little before it is tokenized
	}
	r, err := p.rowsOf(in.Stage)
	if err != nil || r.unknown != "" {
		return 0, 16384, answer
	}
	rows, tokens = r.val, r.valTokens
	if rows == 0 {
		rows, tokens = r.train, r.trainTokens
	}
	if o.Samples > 0 && rows > int64(o.Samples) {
		tokens = tokens * int64(o.Samples) / rows
		rows = int64(o.Samples)
	}
	if r.tokens > 0 && r.train+r.val > 0 {
		answer = min(answer, float64(r.supervised)/float64(r.train+r.val))
	}
	return rows, tokens, max(answer, 1)
}

// evaluated adds the cost of one model: one pass for perplexity and KL, and
// answers a token at a time.
func (p *planner) evaluated(j *Job, s *StagePlan, m *arch.Source, refRef *Ref, rows, tokens int64, answer float64) error {
	o := j.Stage.Eval
	dev := dry.New(dry.Options{})
	mod, err := dryModel(dev, m)
	if err != nil {
		return err
	}
	defer mod.Close()
	has := func(task string) bool {
		for _, t := range o.Tasks {
			if t == task {
				return true
			}
		}
		return false
	}
	window := int(min(int64(o.Context), max(tokens/max(rows, 1), 2)))
	if rows == 0 {
		window = o.Context
	}
	if has("perplexity") || has("kl") || has("top1") {
		var ref *model.Model
		if refRef != nil && (has("kl") || has("top1")) {
			src, err := p.source(*refRef)
			if err != nil {
				return err
			}
			if ref, err = dryModel(dev, src); err != nil {
				return err
			}
			defer ref.Close()
		}
		n := max(1, int(min(tokens, 2048))/window)
		if _, err := eval.Run(p.ctx, mod, ref, eval.Examples(zeroRows(n, window), o.Context), eval.ScoreOptions{}); err != nil {
			return err
		}
		s.Seconds += p.rates.seconds(times(dev.Work(), float64(tokens)/float64(n*window)), false)
	}
	if has("exact_match") {
		prompts := make([][]int32, 16)
		for i := range prompts {
			prompts[i] = make([]int32, max(window-int(answer), 1))
		}
		before := dev.Work()
		if _, err := eval.Generate(p.ctx, mod, prompts, eval.GenerateOptions{MaxNew: o.MaxNewTokens, Stop: []int32{0}}); err != nil {
			return err
		}
		batches := max(1, float64(rows)/16)
		s.Seconds += batches * (p.rates.seconds(less(dev.Work(), before), false) + answer*p.stepSeconds(m, 16))
	}
	if has("speed") {
		s.Seconds += 64*p.stepSeconds(m, 1) + p.rates.seconds(dry.Work{Matrix: 1024 * float64(m.Spec.Params())}, false)
	}
	info := dev.Info()
	s.memory(info.PeakTotal, info.Mem)
	return nil
}

// stepSeconds is one decoding step of a few conversations: every weight is
// read once.
func (p *planner) stepSeconds(m *arch.Source, conversations float64) float64 {
	if p.rates.moved == 0 {
		return 0
	}
	read := float64(heldBytes(m)) / p.rates.moved
	return read + p.rates.seconds(dry.Work{Matrix: 2 * conversations * float64(m.Spec.Params())}, false)
}
