// Package quant makes quantized Hugging Face folders: it chooses a storage type
// for every tensor, finds the codes by one of several methods, walks a model
// block by block where a method needs calibration, and writes the folder with a
// report of what each layer lost. GGUF files are package quant/gguf's.
package quant

import (
	"regexp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// FolderJob is one quantized Hugging Face folder to be made from a model.
type FolderJob struct {
	Path            string   // a new folder
	Method          string   // rtn, gptq, awq, nf4
	Scheme          string   // W4A16, W4A16_ASYM, …; "": the method's own
	Format          string   // gptq, awq, compressed-tensors, bitsandbytes; "": the method's own
	For             []string // transformers, vllm, tgi, exllama: refuse what one of them does not load; nil: DefaultFor
	Group           int      // columns that share a scale; 0: auto; -1: the whole row
	ActOrder        string   // GPTQ: static (or ""), aware, none, group
	Damp            float64  // GPTQ: share of the mean Hessian diagonal; 0: 0.01
	Samples         int      // calibration sequences that the method takes from the front; 0: all
	Ignore          []string // module names or re:regexp, left unquantized
	SingleQuant     bool     // NF4: scales in float32, not quantized again
	AllowRequantize bool     // accept a model that is quantized already
	// Keep stores what is not quantized; nil: as in the model, BF16 where that
	// is quantized.
	Keep     *dtype.Kind
	MaxShard int64             // bytes in one safetensors file; 0: 5 GB
	Files    map[string][]byte // go into the folder beside the weights: tokenizer, generation config
}

// FolderPlan is what a job will make, known before any work.
type FolderPlan struct {
	Type     dtype.Type // of the quantized weights
	Scheme   string
	Format   string
	Group    int      // resolved: 0 only for NF4
	Layers   []string // modules to be quantized, in the order they run
	Kept     []string // matrices that stay as they are
	Bytes    int64    // of tensors
	Elements int64

	artifact artifact
	outs     []arch.Out
	quantize map[string]bool       // by tensor name
	typeOf   map[string]dtype.Type // by tensor name
	job      *FolderJob
	method   *method
	keep     dtype.Kind
}

// PlanFolder checks a job against a model without reading weights: the method's
// options, the group size, the programs that are to load it.
func PlanFolder(src *arch.Source, job FolderJob) (*FolderPlan, error) {
	m, err := methodNamed(job.Method)
	if err != nil {
		return nil, err
	}
	s, err := m.schemeFor(job.Scheme)
	if err != nil {
		return nil, err
	}
	p := &FolderPlan{Scheme: s.name, job: &job, method: m, quantize: map[string]bool{}, typeOf: map[string]dtype.Type{}}
	if p.Format, err = m.formatFor(job.Format, s); err != nil {
		return nil, err
	}
	if err := p.checkOptions(src); err != nil {
		return nil, err
	}
	layers, err := p.choose(src)
	if err != nil {
		return nil, err
	}
	if p.keep, err = p.keepType(src); err != nil {
		return nil, err
	}
	if s.name == "NF4" {
		p.Type = dtype.NF4Double
		if job.SingleQuant {
			p.Type.Flags = 0
		}
	} else {
		if p.Group, err = resolveGroup(job.Group, layers); err != nil {
			return nil, err
		}
		p.Type = s.intType(p.Format, p.Group, job.ActOrder == "group", p.keep)
	}
	if err := p.checkShapes(layers); err != nil {
		return nil, err
	}
	p.artifact = artifact{p.Format, s.bits, s.sym, p.Group, job.ActOrder}
	if job.For == nil {
		job.For = DefaultFor(m.name)
	}
	if err := checkConsumers(job.For, p.artifact); err != nil {
		return nil, err
	}
	p.lay(src)
	return p, nil
}

func (p *FolderPlan) checkOptions(src *arch.Source) error {
	j := p.job
	if j.ActOrder == "" {
		j.ActOrder = "static"
	}
	if j.Damp == 0 {
		j.Damp = 0.01
	}
	switch {
	case !slices.Contains([]string{orderStatic, orderAware, orderNone, orderGroup}, j.ActOrder):
		return fail.Usagef("actorder", "static, aware, none or group", "no column order is called %q", j.ActOrder)
	case j.ActOrder == "group" && (p.method.name != "gptq" || p.Format != formats.GPTQ):
		return fail.Usagef("actorder", "actorder: static", "only gptq folders made by the method gptq can hold a column order")
	case !(j.Damp > 0 && j.Damp < 1):
		return fail.Usagef("damp_percent", "for example 0.01", "damp_percent is %g, it must lie between 0 and 1", j.Damp)
	case j.Samples < 0:
		return fail.Usagef("samples", "", "samples is %d", j.Samples)
	}
	for _, t := range src.Tensors() {
		if t.Type.Quantized() && t.IsLinear() && !j.AllowRequantize {
			return fail.Inputf(src.Reader.Path(), "start from the float model, or set allow_requantize and accept the loss", "%s is already quantized (%v); quantizing it again is not allowed", t.Name, t.Type)
		}
	}
	return nil
}

// choose splits the model's matrices into those to be quantized and the rest.
func (p *FolderPlan) choose(src *arch.Source) ([]linear, error) {
	match, err := ignored(p.job.Ignore)
	if err != nil {
		return nil, err
	}
	used := make([]bool, len(p.job.Ignore))
	var layers []linear
	for _, t := range src.Tensors() {
		if t.Vector {
			continue
		}
		module := t.Path()
		skip := false
		for i, m := range match {
			if m(module) {
				skip, used[i] = true, true
			}
		}
		if skip || !t.IsLinear() {
			p.Kept = append(p.Kept, module)
			continue
		}
		p.quantize[t.Name] = true
		p.Layers = append(p.Layers, module)
		layers = append(layers, linear{module, t.Rows, t.Cols})
	}
	for i, ok := range used {
		if pat := p.job.Ignore[i]; !ok && pat != src.HeadPath() { // a tied head has no tensor
			return nil, fail.Usagef("ignore", "module names such as "+src.At(0, arch.Down).Path()+", or re: and a regular expression", "%q matches no module", pat)
		}
	}
	if len(layers) == 0 {
		return nil, fail.Usagef("ignore", "", "every layer is ignored: nothing is left to quantize")
	}
	return layers, nil
}

// ignored compiles patterns: a module name, the last parts of one, or re:…,
// which must match at the beginning as in llm-compressor.
func ignored(patterns []string) ([]func(string) bool, error) {
	var out []func(string) bool
	for _, p := range patterns {
		if expr, ok := strings.CutPrefix(p, "re:"); ok {
			re, err := regexp.Compile("^(?:" + expr + ")")
			if err != nil {
				return nil, fail.Usagef("ignore", "", "%q is not a regular expression: %v", expr, err)
			}
			out = append(out, re.MatchString)
			continue
		}
		out = append(out, func(m string) bool { return m == p || strings.HasSuffix(m, "."+p) })
	}
	return out, nil
}

// keepType is the type of what is not quantized: the embedding's, or BF16.
func (p *FolderPlan) keepType(src *arch.Source) (dtype.Kind, error) {
	if k := p.job.Keep; k != nil {
		if *k != dtype.F32 && *k != dtype.F16 && *k != dtype.BF16 {
			return *k, fail.Usagef("dtype", "bf16, f16 or f32", "%v cannot hold the unquantized weights", *k)
		}
		return *k, nil
	}
	switch t := src.At(-1, arch.Embed).Type; t {
	case dtype.Of(dtype.F32), dtype.Of(dtype.F16):
		return t.Kind, nil
	}
	return dtype.BF16, nil
}

// checkShapes refuses layers whose codes do not fill the words of the format.
func (p *FolderPlan) checkShapes(layers []linear) error {
	bits := p.Type.Bits()
	for _, l := range layers {
		bad := ""
		switch {
		case p.Format == formats.GPTQ && (l.cols*bits%32 != 0 || l.rows*bits%32 != 0):
			bad = "rows and columns must fill words of 32 bits"
		case p.Format == formats.AWQ && l.rows%8 != 0:
			bad = "rows must be a multiple of 8"
		case !dtype.Fits(p.Type, l.cols):
			bad = "columns must be whole blocks"
		}
		if bad != "" {
			return fail.Usagef("ignore", "add the layer to ignore, or choose another format", "%s is %d×%d: %s in a %s folder", l.name, l.rows, l.cols, bad, p.Format)
		}
	}
	return nil
}

// lay lists the tensors of the folder and sums their sizes.
func (p *FolderPlan) lay(src *arch.Source) {
	p.outs = src.Plan(func(t *arch.Tensor) (dtype.Type, string) {
		if p.quantize[t.Name] {
			return p.Type, p.method.name
		}
		switch now := t.Type; {
		case p.job.Keep == nil && (now == dtype.Of(dtype.F32) || now == dtype.Of(dtype.F16) || now == dtype.Of(dtype.BF16)):
			return now, "as in the model"
		case p.job.Keep == nil:
			return dtype.Of(p.keep), "the model holds " + now.String()
		}
		return dtype.Of(p.keep), "asked for"
	})
	for _, o := range p.outs {
		p.typeOf[o.Name] = o.Type
		p.Bytes += int64(dtype.Size(o.Type, o.Rows, o.Cols))
		p.Elements += int64(o.Len())
	}
}
