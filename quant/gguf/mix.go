package gguf

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// FileType is one of llama-quantize's output types: a default tensor type and a
// mix of others for the tensors that matter most.
type FileType struct {
	Name    string
	ID      uint32     // general.file_type
	Default dtype.Kind // what every tensor gets that the mix says nothing about
}

// float reports whether a file of the type holds floats alone.
func (f FileType) float() bool { return f.Name != "COPY" && f.Default.Plain() }

// fileTypes are the output types. Those of llama-quantize, and NVFP4, which its
// library has.
var fileTypes = []FileType{
	{"F32", 0, dtype.F32},
	{"F16", 1, dtype.F16},
	{"BF16", 32, dtype.BF16},
	{"Q4_0", 2, dtype.Q4_0},
	{"Q4_1", 3, dtype.Q4_1},
	{"Q5_0", 8, dtype.Q5_0},
	{"Q5_1", 9, dtype.Q5_1},
	{"Q8_0", 7, dtype.Q8_0},
	{"Q2_K", 10, dtype.Q2_K},
	{"Q2_K_S", 21, dtype.Q2_K},
	{"Q3_K_S", 11, dtype.Q3_K},
	{"Q3_K_M", 12, dtype.Q3_K},
	{"Q3_K_L", 13, dtype.Q3_K},
	{"Q4_K_S", 14, dtype.Q4_K},
	{"Q4_K_M", 15, dtype.Q4_K},
	{"Q5_K_S", 16, dtype.Q5_K},
	{"Q5_K_M", 17, dtype.Q5_K},
	{"Q6_K", 18, dtype.Q6_K},
	{"IQ4_NL", 25, dtype.IQ4_NL},
	{"IQ4_XS", 30, dtype.IQ4_XS},
	{"IQ3_M", 27, dtype.IQ3_S},
	{"IQ3_S", 26, dtype.IQ3_S},
	{"IQ3_XS", 22, dtype.IQ3_S},
	{"IQ3_XXS", 23, dtype.IQ3_XXS},
	{"IQ2_M", 29, dtype.IQ2_S},
	{"IQ2_S", 28, dtype.IQ2_XS},
	{"IQ2_XS", 20, dtype.IQ2_XS},
	{"IQ2_XXS", 19, dtype.IQ2_XXS},
	{"IQ1_M", 31, dtype.IQ1_M},
	{"IQ1_S", 24, dtype.IQ1_S},
	{"TQ2_0", 37, dtype.TQ2_0},
	{"TQ1_0", 36, dtype.TQ1_0},
	{"Q2_0", 41, dtype.Q2_0},
	{"Q1_0", 40, dtype.Q1_0},
	{"MXFP4_MOE", 38, dtype.MXFP4},
	{"NVFP4", 39, dtype.NVFP4},
}

// FileTypes lists the names of the output types, for help and errors.
func FileTypes() []string {
	var names []string
	for _, f := range fileTypes {
		names = append(names, f.Name)
	}
	return names
}

// ParseFileType finds an output type by name, ignoring case. Q3_K, Q4_K and
// Q5_K are short for their _M mix, as in llama-quantize, and MXFP4 for MXFP4_MOE.
// COPY keeps all tensors.
func ParseFileType(name string) (FileType, error) {
	n := strings.ToUpper(name)
	switch n {
	case "Q3_K", "Q4_K", "Q5_K":
		n += "_M"
	case "MXFP4":
		n += "_MOE"
	case "COPY":
		return FileType{Name: "COPY"}, nil
	}
	for _, f := range fileTypes {
		if f.Name == n {
			return f, nil
		}
	}
	return FileType{}, fail.Usagef("type", "one of "+strings.Join(FileTypes(), ", ")+", COPY", "unknown GGUF type %q", name)
}

// MixModel is what the mix needs to know of a model.
type MixModel struct {
	Arch           string // general.architecture
	Layers         int
	Heads, KVHeads int
	Experts        int
}

// MixTensor is a tensor of the source.
type MixTensor struct {
	Name  string
	Shape []int64 // outermost first
	Type  dtype.Type

	exact  bool   // a conversion keeps it in F32
	source string // its name in the source, where blocks were renumbered
	part   int    // of a source in parts, from 0
	beside string // the weight in the source that it is a number of, which is written where that stays as it is
}

// in is the name of the tensor in the source.
func (t *MixTensor) in() string {
	if t.source != "" {
		return t.source
	}
	return t.Name
}

// TensorType overrides the type of the tensors whose name matches.
type TensorType struct {
	Pattern string // regular expression, found anywhere in the GGUF name
	Type    dtype.Kind
}

// MixOptions are llama-quantize's options that choose types.
type MixOptions struct {
	FileType    FileType
	Importance  bool // an importance matrix is given
	Pure        bool // the default type everywhere
	LeaveOutput bool // output.weight keeps its type
	Tensors     []TensorType
	Output      *dtype.Kind // for output.weight
	Embedding   *dtype.Kind // for token_embd.weight

	keepOrder bool // the tensors are in the order of the output
}

// Choice is the type of one tensor in the output.
type Choice struct {
	MixTensor
	To           dtype.Type
	Why          string
	Fallback     bool // the row length forbade the type the mix wanted
	NeedsImatrix bool // useless without an importance matrix: llama-quantize refuses
}

// Mix chooses a type for every tensor as llama-quantize does (llama.cpp,
// src/llama-quant.cpp) and returns the choices in the order it writes them:
// tensors outside the blocks by name, then block by block, names sorted.
func Mix(m MixModel, tensors []MixTensor, o MixOptions) ([]Choice, error) {
	x := mixer{MixModel: m, o: o, tied: true}
	for _, t := range o.Tensors {
		re, err := regexp.Compile(strings.ToLower(t.Pattern))
		if err != nil {
			return nil, fail.Usagef("tensor-type "+t.Pattern, "", "not a regular expression: %v", err)
		}
		if !slices.ContainsFunc(tensors, func(m MixTensor) bool { return re.MatchString(m.Name) }) {
			return nil, fail.Usagef("tensor-type "+t.Pattern, "tensors have GGUF names, for example blk.0.attn_v.weight", "matches no tensor of the model")
		}
		x.overrides = append(x.overrides, re)
	}
	out := make([]Choice, len(tensors))
	for i, t := range tensors {
		out[i].MixTensor = t
		switch c := categorize(t.Name); {
		case c == catOutput:
			x.tied = false
		case c.likeV():
			x.attnV++
		}
	}
	if !o.keepOrder {
		slices.SortFunc(out, func(a, b Choice) int { return compareNames(a.Name, b.Name) })
	}
	for i := range out {
		if err := x.choose(&out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// blockOf is N of a name blk.N.…, else -1.
func blockOf(name string) int {
	rest, ok := strings.CutPrefix(name, "blk.")
	if !ok {
		return -1
	}
	digits, _, ok := strings.Cut(rest, ".")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil {
		return -1
	}
	return n
}

func compareNames(a, b string) int {
	if d := blockOf(a) - blockOf(b); d != 0 {
		return d
	}
	return strings.Compare(a, b)
}

// category is the part a tensor plays.
type category uint8

const (
	catOther category = iota
	catEmbedding
	catOutput
	catQ
	catK
	catV
	catQKV
	catKVB
	catAttnOut
	catUp
	catGate
	catDown
)

var categories = []struct {
	part string
	cat  category
}{
	{"attn_qkv.weight", catQKV},
	{"attn_kv_b.weight", catKVB},
	{"attn_v.weight", catV},
	{"attn_k.weight", catK},
	{"attn_q.weight", catQ},
	{"attn_output.weight", catAttnOut},
	{"ffn_up", catUp},
	{"ffn_gate", catGate},
	{"ffn_down", catDown},
}

func categorize(name string) category {
	switch name {
	case "output.weight":
		return catOutput
	case "token_embd.weight", "per_layer_token_embd.weight":
		return catEmbedding
	}
	for _, c := range categories {
		if strings.Contains(name, c.part) {
			return c.cat
		}
	}
	return catOther
}

func (c category) likeV() bool { return c == catV || c == catQKV || c == catKVB }

// keptParts are name parts of small or delicate matrices that are never
// quantized.
var keptParts = []string{
	"_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
	"ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
	"time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight",
	"time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight",
	"time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
	"time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight",
	"attn_rel_b.weight", ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
	"a.rvq.codebook", "mm.a.code_embd",
}

// kept says why a tensor keeps its type, "" when it may be quantized.
func (x *mixer) kept(t *MixTensor) string {
	switch {
	case x.o.FileType.Name == "COPY":
		return "copied"
	case !slices.ContainsFunc(t.Shape[:max(len(t.Shape)-1, 0)], func(d int64) bool { return d > 1 }):
		return "one dimension" // one row is a vector to ggml
	case t.exact && x.o.FileType.float():
		return "F32 in every GGUF"
	case !strings.HasSuffix(t.Name, "weight"):
		return "no weight matrix"
	case t.Name == "output.weight" && x.o.LeaveOutput:
		return "left by option"
	case t.Name == "position_embd.weight" || t.Name == "token_types.weight":
		return "positions and token types are not quantized"
	}
	for _, p := range keptParts {
		if strings.Contains(t.Name, p) {
			return "never quantized"
		}
	}
	return ""
}

// mixer is the state of one pass over the tensors; the counters say how many
// tensors of a category came before.
type mixer struct {
	MixModel
	o         MixOptions
	overrides []*regexp.Regexp
	tied      bool // no output.weight: the embedding is the output
	attnV     int  // v-like tensors in all

	nthV, nthDown, nthGate, nthUp int
}

func (x *mixer) choose(c *Choice) error {
	c.To = c.Type
	if c.Why = x.kept(&c.MixTensor); c.Why != "" {
		return nil
	}
	cat := categorize(c.Name)
	def := x.o.FileType.Default
	kind, why := def, "default of "+x.o.FileType.Name
	switch {
	case x.o.Embedding != nil && cat == catEmbedding:
		kind, why = *x.o.Embedding, "token embedding type"
	case x.o.Output != nil && cat == catOutput:
		kind, why = *x.o.Output, "output tensor type"
	case !def.Plain():
		var err error
		if kind, why, err = x.mixed(c, cat, kind, why); err != nil {
			return err
		}
	}
	c.To, c.Why = dtype.Of(kind), why
	c.NeedsImatrix = block.NeedsImportance(kind) || cat != catOutput && cat != catEmbedding && x.poorWithout(kind)
	return nil
}

// poorWithout reports whether llama-quantize refuses a type without importance,
// though it could be encoded.
func (x *mixer) poorWithout(kind dtype.Kind) bool {
	switch kind {
	case dtype.IQ3_XXS, dtype.IQ2_S, dtype.IQ1_M:
		return true
	case dtype.Q2_K:
		return x.o.FileType.Name == "Q2_K_S"
	}
	return false
}

func (x *mixer) mixed(c *Choice, cat category, kind dtype.Kind, why string) (dtype.Kind, string, error) {
	manual := false
	for i, re := range x.overrides {
		if re.MatchString(c.Name) {
			kind, why, manual = x.o.Tensors[i].Type, "tensor type "+x.o.Tensors[i].Pattern, true
			break
		}
	}
	if !manual && !x.o.Pure {
		k, err := x.rule(c, cat, kind)
		if err != nil {
			return kind, why, err
		}
		if k != kind {
			kind, why = k, x.o.FileType.Name+" mix"
		}
	}
	cols := c.Shape[len(c.Shape)-1]
	size := int64(kind.Info().Block)
	if cols%size == 0 {
		return kind, why, nil
	}
	to, ok := fallbacks[kind]
	if !ok {
		return kind, why, fail.Inputf(c.Name, "choose another type for it with --tensor-type, --output-tensor-type or --token-embedding-type",
			"rows of %d cannot be stored as %v (blocks of %d), and no fallback is defined for that type", cols, kind, size)
	}
	if cols%int64(to.Info().Block) != 0 {
		to = dtype.F16
	}
	c.Fallback = true
	return to, fmt.Sprintf("%v wanted, but rows of %d are no multiple of %d", kind, cols, size), nil
}

// fallbacks are the types for rows that are no whole number of blocks.
var fallbacks = map[dtype.Kind]dtype.Kind{
	dtype.IQ4_XS:  dtype.IQ4_NL,
	dtype.IQ3_S:   dtype.IQ4_NL,
	dtype.IQ3_XXS: dtype.IQ4_NL,
	dtype.IQ2_S:   dtype.IQ4_NL,
	dtype.IQ2_XS:  dtype.IQ4_NL,
	dtype.IQ2_XXS: dtype.IQ4_NL,
	dtype.IQ1_M:   dtype.IQ4_NL,
	dtype.IQ1_S:   dtype.IQ4_NL,
	dtype.TQ2_0:   dtype.Q4_0,
	dtype.TQ1_0:   dtype.Q4_0,
	dtype.Q2_0:    dtype.Q4_0,
	dtype.Q2_K:    dtype.Q4_0,
	dtype.Q3_K:    dtype.Q4_0,
	dtype.Q4_K:    dtype.Q5_0,
	dtype.Q5_K:    dtype.Q5_1,
	dtype.Q6_K:    dtype.Q8_0,
}
