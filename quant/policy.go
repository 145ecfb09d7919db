package quant

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// artifact is what a consumer's rules look at.
type artifact struct {
	format string
	bits   int
	sym    bool
	group  int
	index  bool // columns have a group index, which permutes them
	act    bool // activations are rounded, too

	float   bool       // codes are floating-point numbers
	cut     bool       // the last block of rows is cut off
	like    dtype.Kind // that weights which are not quantized have
	experts bool       // several matrices under one name in Transformers
	arch    string     // the model's architecture
}

// artifacts are what the plan will write: one for each type of weight.
func (p *FolderPlan) artifacts() []artifact {
	var out []artifact
	for _, l := range p.Layers {
		t := p.Types[l]
		a := artifact{p.Format, t.Bits(), t.Flags&dtype.Zero == 0, int(t.Group), t.Flags&dtype.Perm != 0, p.Acts[l] != dtype.Type{}, t.ScaledFloat(), p.cut[l], p.keep, p.experts[l], p.arch}
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// rule is one thing that a program was seen to refuse: the option at fault, the
// value to use instead ("": none is known), and what the program says or does.
type rule struct {
	consumer string
	when     func(a artifact) bool
	option   string
	hint     string
	says     string
}

// packed reports whether a model of one of the kinds has packed weights of compressed-tensors.
func (a artifact) packed(kinds ...string) bool {
	return a.format == formats.CompressedTensors && !a.act && slices.Contains(kinds, a.arch)
}

// float4 reports floats of 4 bits in compressed-tensors.
func (a artifact) float4() bool {
	return a.format == formats.CompressedTensors && a.float && a.bits == 4
}

// joined are the models whose experts are one tensor in the files that Transformers reads.
var joined = []string{"dbrx", "gemma4_text", "gpt_oss", "granitemoe", "granitemoehybrid"}

// consumers are the programs that For may name.
var consumers = []string{"transformers", "vllm", "tgi", "exllama"}

// rules was measured with Transformers 5.23 (GPTQModel 7.7, bitsandbytes
// 0.50.2, compressed-tensors 0.19 and 0.20.1) and vLLM 0.32, both on a CPU. The lines of
// tgi and exllama are from their documentation and issues: TGI reads GPTQ, AWQ
// and compressed-tensors in 4 bits, ExLlama 4-bit GPTQ and EXL2. So are all of
// EXL2, which nothing loads on a CPU, and what is said of vLLM and
// blocks of FP8, which it runs on GPUs as it does floats of 4 bits.
var rules = []rule{
	{"vllm", func(a artifact) bool { return formats.InGPTQ(a.format) && !a.sym }, "scheme", "scheme: W4A16, or format: awq", "Unsupported quantization config: sym=False"},
	{"vllm", func(a artifact) bool { return formats.InGPTQ(a.format) && a.index }, "actorder", "actorder: static gives the same order without g_idx", "desc_act=True is no longer supported"},
	{"vllm", func(a artifact) bool { return formats.InGPTQ(a.format) && a.bits < 4 }, "scheme", "scheme: W4A16", "Unsupported quantization config: bits=2 and bits=3"},
	{"vllm", func(a artifact) bool { return formats.InGPTQ(a.format) && a.bits == 8 }, "scheme", "scheme: W4A16", "no kernel for 8-bit weights (uint8b128)"},
	{"vllm", func(a artifact) bool { return a.format == formats.CompressedTensors && a.bits == 8 && !a.act }, "scheme", "scheme: W4A16", "no WNA16 kernel for uint8b128"},
	{"vllm", func(a artifact) bool { return a.format == formats.Bitsandbytes }, "method", "method: gptq or awq", "unknown quantization method bitsandbytes"},
	{"transformers", func(a artifact) bool { return formats.InGPTQ(a.format) && a.bits == 4 && a.group == -1 }, "group_size", "group_size: 128, 64 or 32", "expect qGroupSize to be 32, 64, 128 or 256"},
	{"transformers", func(a artifact) bool {
		return a.arch == "gpt2" && (a.format == formats.CompressedTensors || a.format == formats.AWQ || a.format == formats.FP8)
	}, "format", "method: gptq in its own format, or nf4", "its GPT-2 has Conv1D, which codes are not put into: what it computes with is chance"},
	{"transformers", func(a artifact) bool {
		return a.packed("gpt_bigcode", "falcon", "mamba2")
	}, "scheme", "scheme: W8A8 or FP8_DYNAMIC", "its model of this kind fails at the first token: a linear module has no attribute 'weight'"},
	{"transformers", func(a artifact) bool {
		return a.packed("kimi_linear", "olmo_hybrid")
	}, "scheme", "scheme: FP8_DYNAMIC", "its model of this kind joins weights when it is loaded, which fails for packed ones"},
	{"transformers", func(a artifact) bool {
		return (a.format == formats.CompressedTensors || a.format == formats.FP8) && (a.arch == "phimoe" || a.arch == "deepseek_v4")
	}, "format", "", "it has other names for Phi-MoE's router and DeepSeek-V4's indexer and takes them for quantized modules: it computes with scales that are chance, or fails at the first token"},
	{"transformers", func(a artifact) bool {
		return a.experts && (a.format == formats.CompressedTensors || a.format == formats.FP8) && slices.Contains(joined, a.arch)
	}, "ignore", "ignore: the modules of the experts", "its model of this kind has all experts in one tensor and does not read one by one: what it computes with is chance"},
	{"transformers", func(a artifact) bool {
		return a.experts && a.format == formats.CompressedTensors && !a.sym
	}, "scheme", "scheme: W4A16 or W8A16", "zero points of experts are not read: Asymmetric quant requires zero-point values"},
	{"transformers", func(a artifact) bool {
		return a.experts && a.format == formats.CompressedTensors && a.act && !a.float
	}, "scheme", "scheme: W8A16 or FP8_DYNAMIC", "experts of 8-bit codes that are not packed are not joined: expected a non-empty list of Tensors"},
	{"transformers", func(a artifact) bool { return a.format == formats.FP8 && a.cut }, "ignore", "ignore: modules whose rows are no multiple of 128",
		"without a GPU it takes blocks of equal height: what it decodes is not what is stored, or weight shape not divisible by scale grid"},
	{"vllm", func(a artifact) bool { return a.cut }, "ignore", "ignore: modules whose rows are no multiple of 128", "output_partition_size is not divisible by weight quantization block_n"},
	{"transformers", func(a artifact) bool { return a.experts && a.float4() && a.group == 16 }, "scheme", "scheme: MXFP4A16", "experts of NVFP4 are joined without the number that divides their scales: what it computes with is chance"},
	{"transformers", func(a artifact) bool { return a.float4() && a.like != dtype.BF16 }, "keep_dtype", "keep_dtype: bf16", "it decodes floats of 4 bits to bfloat16: expected m1 and m2 to have the same dtype"},
	{"tgi", func(a artifact) bool { return a.float4() }, "scheme", "scheme: W4A16", "of 4 bits it reads integers"},
	{"tgi", func(a artifact) bool { return a.format == formats.Bitsandbytes }, "method", "method: gptq or awq", "bitsandbytes weights are quantized when a model is loaded, not read"},
	{"tgi", func(a artifact) bool {
		return a.format != formats.Bitsandbytes && a.format != formats.EXL2 && a.bits != 4
	}, "scheme", "scheme: W4A16", "4-bit weights only"},
	{"tgi", func(a artifact) bool { return formats.InGPTQ(a.format) && a.index }, "actorder", "actorder: static", "desc_act fails when the model is split over GPUs"},
	{"tgi", func(a artifact) bool { return a.format == formats.GPTQV2 }, "format", "format: gptq", "it takes zero points to be stored less one"},
	{"transformers", func(a artifact) bool { return a.format == formats.EXL2 }, "method", "method: gptq", "Unknown quantization type, got exl2"},
	{"vllm", func(a artifact) bool { return a.format == formats.EXL2 }, "method", "method: gptq", "unknown quantization method exl2"},
	{"tgi", func(a artifact) bool { return a.format == formats.EXL2 }, "method", "method: gptq", "EXL2 fails where query, key and value are joined (get_multi_weights_col is not supported)"},
	{"exllama", func(a artifact) bool { return !formats.InGPTQ(a.format) && a.format != formats.EXL2 }, "format", "method: gptq or exl2", "only GPTQ and EXL2 folders are read"},
	{"exllama", func(a artifact) bool { return formats.InGPTQ(a.format) && a.bits != 4 }, "scheme", "scheme: W4A16", "GPTQ kernels have 4 bits"},
}

// DefaultFor is what an empty For means: the programs that folders of a layout
// are checked against.
func DefaultFor(format string) []string {
	switch format {
	case formats.Bitsandbytes:
		return []string{"transformers"}
	case formats.EXL2:
		return []string{"exllama"}
	}
	return []string{"transformers", "vllm"}
}

// Programs lists the programs that there are rules for.
func Programs() []string { return slices.Clone(consumers) }

// CheckFor refuses a name of no program whose rules are known.
func CheckFor(names []string) error {
	for _, n := range names {
		if !slices.Contains(consumers, n) {
			return fail.Usagef("for", "one of "+strings.Join(consumers, ", "), "no rules are known for %q", n)
		}
	}
	return nil
}

// checkConsumers refuses options that a program among names does not load.
func (p *FolderPlan) checkConsumers(names []string) error {
	if err := CheckFor(names); err != nil {
		return err
	}
	for _, r := range rules {
		if slices.Contains(names, r.consumer) && slices.ContainsFunc(p.artifacts(), r.when) {
			hint := "leave " + r.consumer + " out of for"
			if r.hint != "" {
				hint = r.hint + "; or " + hint
			}
			return fail.Usagef(r.option, hint, "%s refuses what this would write: %s", r.consumer, r.says)
		}
	}
	return nil
}

// LoadedBy drops from names the programs known to refuse the folder that a job makes,
// and says why each does.
func (p *FolderPlan) LoadedBy(names []string) (by, why []string) {
	for _, n := range names {
		i := slices.IndexFunc(rules, func(r rule) bool { return r.consumer == n && slices.ContainsFunc(p.artifacts(), r.when) })
		if i < 0 {
			by = append(by, n)
		} else {
			why = append(why, n+" refuses what this writes: "+rules[i].says)
		}
	}
	return by, why
}

// Loads lists what programs load of a layout as far as rules are known: the schemes
// that folders of it can have, in groups of 128 where the scheme leaves them open.
func Loads(format string) []string {
	var out []string
	for _, program := range consumers {
		var names []string
		for _, s := range schemes {
			makes := slices.ContainsFunc(methods, func(m *Method) bool {
				return slices.Contains(m.Schemes, s.Name) && slices.Contains(m.Formats, format)
			})
			a := artifact{format: format, bits: s.Weight.Bits(), sym: s.Weight.Flags&dtype.Zero == 0, group: cmp.Or(int(s.Weight.Group), 128), act: s.Act != dtype.Type{}, float: s.Weight.ScaledFloat(), like: dtype.BF16}
			refused := slices.ContainsFunc(rules, func(r rule) bool { return r.consumer == program && r.when(a) })
			if makes && s.checkFormat(format) == nil && !refused {
				names = append(names, s.Name)
			}
		}
		if len(names) > 0 {
			out = append(out, program+": "+strings.Join(names, ", "))
		}
	}
	return out
}

// RefusedBy lists the programs known to refuse the folder that a job makes.
func (p *FolderPlan) RefusedBy() []string {
	var out []string
	for _, c := range consumers {
		if p.checkConsumers([]string{c}) != nil {
			out = append(out, c)
		}
	}
	return out
}
