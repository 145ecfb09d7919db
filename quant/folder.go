// Package quant makes quantized Hugging Face folders: it chooses a storage type
// for every tensor, finds the codes by one of several methods, walks a model
// block by block where a method needs calibration, and writes the folder with a
// report of what each layer lost. GGUF files are package quant/gguf's.
package quant

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// FolderJob is one quantized Hugging Face folder to be made from a model.
type FolderJob struct {
	Path            string     // a new folder
	Method          string     // of methods, by name
	Search          string     // another method whose search for scales comes first; "": the method's own
	Options         any        // what Method.Options makes; nil: the method's defaults
	Scheme          string     // W4A16, W4A16_ASYM, …; "": the method's own
	Format          string     // gptq, gptq_v2, awq, compressed-tensors, bitsandbytes, exl2, fp8; "": the method's own
	For             []string   // transformers, vllm, tgi, exllama: refuse what one of them does not load; nil: DefaultFor
	Group           int        // columns that share a scale; 0: auto; -1: the whole row
	Samples         int        // calibration sequences that the method takes from the front; 0: all
	Ignore          []string   // module names or re:regexp, left unquantized
	Overrides       []Override // modules with schemes of their own; the first match counts
	AllowRequantize bool       // accept a model that is quantized already
	// Keep stores what is not quantized; nil: as in the model, BF16 where that
	// is quantized.
	Keep     *dtype.Kind
	MaxShard int64             // bytes in one safetensors file; 0: 5 GB
	Files    map[string][]byte // go into the folder beside the weights: tokenizer, generation config
}

// Calibrated reports whether the job needs calibration text.
func (j *FolderJob) Calibrated() bool {
	m, err := MethodNamed(j.Method)
	return err == nil && (j.Search != "" || m.Calibrated())
}

// FolderPlan is what a job will make, known before any work.
type FolderPlan struct {
	Type     dtype.Type            // of the quantized weights but those of overrides
	Types    map[string]dtype.Type // of every quantized module
	Acts     map[string]dtype.Type // of the inputs of those whose inputs are rounded, too
	Scheme   string
	Format   string
	Group    int      // resolved: 0 only for NF4 and FP4
	Layers   []string // modules to be quantized, in the order they run
	Kept     []string // matrices that stay as they are
	Experts  int      // those of them that are experts, for which the format has no form
	Bytes    int64    // of tensors
	Elements int64

	outs     []arch.Out
	quantize map[string]bool       // by tensor name
	typeOf   map[string]dtype.Type // by tensor name
	own      map[string]bool       // modules that an override names
	experts  map[string]bool       // modules that are experts
	cut      map[string]bool       // modules whose last block has fewer rows
	arch     string                // of the model
	mixed    bool                  // types were measured
	job      *FolderJob
	method   *Method
	search   *Method // whose search comes first; nil: none
	options  any     // of method
	keep     dtype.Kind
}

// ExpertsNote says of how many matrices of experts the format has no form; "" for none.
func (p *FolderPlan) ExpertsNote() string {
	if p.Experts == 0 {
		return ""
	}
	return fmt.Sprintf("%d matrices of experts stay as they are: bitsandbytes has codes for linear modules, which experts are not to Transformers (gptq, awq and rtn do them)", p.Experts)
}

// PlanFolder checks a job against a model without reading weights: the method's
// options, the group size, the programs that are to load it.
func PlanFolder(src *arch.Source, job FolderJob) (*FolderPlan, error) {
	m, err := MethodNamed(job.Method)
	if err != nil {
		return nil, err
	}
	s, err := m.schemeFor(job.Scheme)
	if err != nil {
		return nil, err
	}
	p := &FolderPlan{Scheme: s.Name, job: &job, method: m, Types: map[string]dtype.Type{}, Acts: map[string]dtype.Type{}, quantize: map[string]bool{}, typeOf: map[string]dtype.Type{}, own: map[string]bool{},
		experts: map[string]bool{}, cut: map[string]bool{}, arch: src.Spec.Arch}
	if p.search, err = searchFor(m, job.Search); err != nil {
		return nil, err
	}
	if p.options, err = m.optionsOf(job.Options); err != nil {
		return nil, err
	}
	if p.Format, err = m.formatFor(job.Format, s); err != nil {
		return nil, err
	}
	if err := p.checkSource(src); err != nil {
		return nil, err
	}
	layers, err := p.choose(src)
	if err != nil {
		return nil, err
	}
	if p.keep, err = p.keepType(src); err != nil {
		return nil, err
	}
	if p.Group, err = s.resolveGroup(job.Group, layers, m.undivided()); err != nil {
		return nil, err
	}
	if err := p.types(s, layers); err != nil {
		return nil, err
	}
	if err := p.checkShapes(layers); err != nil {
		return nil, err
	}
	if err := p.checkNumbers(); err != nil {
		return nil, err
	}
	if job.For == nil {
		job.For = DefaultFor(p.Format)
	}
	if err := p.checkConsumers(job.For); err != nil {
		return nil, err
	}
	if m.check != nil {
		if err := m.check(src, p); err != nil {
			return nil, err
		}
	}
	p.lay(src)
	return p, nil
}

// searchFor is the method whose search for scales precedes the rounding of m.
func searchFor(m *Method, name string) (*Method, error) {
	if name != "" {
		var err error
		if m, err = MethodNamed(name); err != nil {
			return nil, err
		}
		if m.search == nil {
			return nil, fail.Usagef("search", "leave it out, or name "+strings.Join(SearchMethods(), " or "), "%s searches nothing", name)
		}
	}
	if m.search == nil {
		return nil, nil
	}
	return m, nil
}

// Calibrated reports whether the blocks are walked with calibration text.
func (p *FolderPlan) Calibrated() bool { return p.job.Calibrated() }

// Work is the floating-point operations that the job spends on a group of layers
// with in inputs and out outputs in all, on tokens tokens.
func (p *FolderPlan) Work(tokens, in, out float64) float64 {
	sum := 0.0
	if p.search != nil {
		sum = p.search.searchWork(tokens, in, out)
	}
	if p.method.work != nil {
		sum += p.method.work(tokens, in, out)
	}
	return sum
}

// round quantizes one layer as the job says.
func (p *FolderPlan) round(l *layer) (*matrixResult, error) {
	l.options = p.options
	r, err := p.method.round(l)
	if err == nil && r.report.Fallback == "" {
		r.report.Method = p.method.Name
	}
	return r, err
}

// label says in a report which layer it is of, and its type where that is not
// the folder's.
func (p *FolderPlan) label(r *LayerReport, module string) {
	r.Layer = module
	if t := p.Types[module]; t != p.Type {
		r.Type = t.String()
	}
}

// checkSource refuses numbers out of range and a model that is quantized already.
func (p *FolderPlan) checkSource(src *arch.Source) error {
	if p.job.Samples < 0 {
		return fail.Usagef("samples", "", "samples is %d", p.job.Samples)
	}
	for _, t := range src.Tensors() {
		if t.Type.Quantized() && !t.Type.ScaledFloat() && t.IsLinear() && !p.job.AllowRequantize {
			return fail.Inputf(src.Reader.Path(), "start from the float model, or accept the loss with --allow-requantize, in a recipe allow_requantize: true", "%s is already quantized (%v); quantizing it again is not allowed", t.Name, t.Type)
		}
	}
	return nil
}

// choose splits the model's matrices into those to be quantized and the rest.
func (p *FolderPlan) choose(src *arch.Source) ([]linear, error) {
	match, err := matchers("ignore", p.job.Ignore)
	if err != nil {
		return nil, err
	}
	var patterns []string
	for _, o := range p.job.Overrides {
		patterns = append(patterns, o.Pattern)
	}
	own, err := matchers("overrides", patterns)
	if err != nil {
		return nil, err
	}
	meant := make([]bool, len(own))
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
		if !skip && t.IsLinear() && t.Experts > 0 && p.Format == formats.Bitsandbytes { // it has a form for linear modules alone
			p.Experts++
			skip = true
		}
		if skip || !t.IsLinear() {
			p.Kept = append(p.Kept, module)
			continue
		}
		p.quantize[t.Name] = true
		p.Layers = append(p.Layers, module)
		p.experts[module] = t.Experts > 0
		l := linear{name: module, rows: t.Rows, cols: t.Cols}
		if i := slices.IndexFunc(own, func(m func(string) bool) bool { return m(module) }); i >= 0 {
			l.own, meant[i] = &p.job.Overrides[i], true
		}
		layers = append(layers, l)
	}
	if i := slices.Index(meant, false); i >= 0 {
		return nil, fail.Usagef("overrides", "the first match counts", "%q matches no module that is quantized and that no earlier one takes", patterns[i])
	}
	for i, ok := range used {
		if pat := p.job.Ignore[i]; !ok && pat != src.HeadPath() && pat != arch.UsualHead { // a tied head has no tensor, and others have other names
			return nil, fail.Usagef("ignore", "module names such as "+someModule(src)+", or re: and a regular expression", "%q matches no module", pat)
		}
	}
	if len(layers) == 0 {
		return nil, fail.Usagef("ignore", "", "every layer is ignored: nothing is left to quantize")
	}
	return layers, nil
}

// someModule is a module of the model, for hints.
func someModule(src *arch.Source) string {
	for _, t := range src.Tensors() {
		if t.IsLinear() {
			return t.Path()
		}
	}
	return src.HeadPath()
}

// matchers compiles patterns: a module name, the last parts of one, or re:…,
// which must match at the beginning as in llm-compressor.
func matchers(option string, patterns []string) ([]func(string) bool, error) {
	var out []func(string) bool
	for _, p := range patterns {
		if expr, ok := strings.CutPrefix(p, "re:"); ok {
			re, err := regexp.Compile("^(?:" + expr + ")")
			if err != nil {
				return nil, fail.Usagef(option, "", "%q is not a regular expression: %v", expr, err)
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
			return *k, fail.Usagef("keep_dtype", "bf16, f16 or f32", "%v cannot hold the unquantized weights", *k)
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
	for _, l := range layers {
		bad, t := "", p.Types[l.name]
		bits := t.Bits()
		switch {
		case formats.InGPTQ(p.Format) && (l.cols*bits%32 != 0 || l.rows*bits%32 != 0):
			bad = "rows and columns must fill words of 32 bits"
		case p.Format == formats.EXL2 && (l.rows%32 != 0 || l.cols%32 != 0):
			bad = "rows and columns must be multiples of 32"
		case t.ScaledFloat() && t.Group > 0 && l.cols%int(t.Group) != 0:
			bad = "columns must be a multiple of " + strconv.Itoa(int(t.Group)) + ", the columns of a block,"
		case p.Format == formats.AWQ && l.rows%8 != 0:
			bad = "rows must be a multiple of 8"
		case !dtype.Fits(t, l.cols):
			bad = "columns must be whole blocks"
		}
		if bad != "" {
			return fail.Usagef("ignore", "add the layer to ignore, or choose another format", "%s is %d×%d: %s in a %s folder", l.name, l.rows, l.cols, bad, p.Format)
		}
	}
	return nil
}

// sizeOf is the bytes of a tensor in the folder.
func (p *FolderPlan) sizeOf(o arch.Out) int64 {
	switch {
	case p.Format != formats.EXL2 || !p.quantize[o.Name]:
		return int64(dtype.Size(o.Type, o.Rows, o.Cols))
	case p.mixes() && !p.mixed && !p.own[o.Path()]:
		return int64(p.options.(*EXL2Options).average() * float64(o.Len()) / 8)
	}
	return int64(formats.EXL2Bits(o.Type, o.Rows, o.Cols) / 8)
}

// mixes reports whether the text decides on types.
func (p *FolderPlan) mixes() bool { return p.method.mix != nil && p.Scheme == exl2Mixed }

// lay lists the tensors of the folder and sums their sizes.
func (p *FolderPlan) lay(src *arch.Source) {
	p.outs = src.Plan(func(t *arch.Tensor) (dtype.Type, string) {
		if p.quantize[t.Name] {
			return p.Types[t.Path()], p.method.Name
		}
		switch now := t.Type; {
		case p.job.Keep == nil && (now == dtype.Of(dtype.F32) || now == dtype.Of(dtype.F16) || now == dtype.Of(dtype.BF16)):
			return now, "as in the model"
		case p.job.Keep == nil:
			return dtype.Of(p.keep), "the model holds " + now.String()
		}
		return dtype.Of(p.keep), "asked for"
	})
	p.Bytes, p.Elements = 0, 0
	for i, o := range p.outs {
		if p.quantize[o.Name] {
			p.outs[i].Act = p.Acts[o.Path()]
		}
		p.typeOf[o.Name] = o.Type
		p.Bytes += p.sizeOf(o)
		p.Elements += int64(o.Len())
	}
}
