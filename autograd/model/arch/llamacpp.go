package arch

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/kernels"
)

// windowless are the architectures, by their names in GGUF, in which llama.cpp lets
// every token see all before it.
var windowless = []string{"llama", "starcoder2", "phi3", "mistral3"}

// tabled are the architectures, by their names in GGUF, in which llama.cpp divides
// frequencies by a tensor of the file (rope_freqs), and longTabled those in which by one of
// two, as the text is short or long. In others it counts a tensor too many, or falcon-h1
// passes it over.
var (
	tabled     = []string{"apertus", "arcee", "exaone-moe", "exaone4", "gemma4", "granite", "granitehybrid", "granitemoe", "llama", "llama4", "mistral3"}
	longTabled = []string{"minicpm3", "phi3", "phimoe"}
)

// misfits are parts of models that llama.cpp does not load in some architectures, by their
// names in GGUF, and parts that it does not do without. has gets the first of each kind of
// part, which may be none.
var misfits = []struct {
	words, in string
	has       func(x *Spec, a Attention, m MLP) bool
}{
	{"has no head but the embedding, this model one of its own (tie_word_embeddings: false)", "command-r cohere2 gemma gemma2", func(x *Spec, _ Attention, _ MLP) bool { return !x.Tied }},
	{"takes no embedding for the head, as this model does (tie_word_embeddings)", "apertus dbrx dots1 exaone-moe gptneox kimi-linear minimax-m2 nemotron olmo2 olmoe phi2 qwen2moe stablelm",
		func(x *Spec, _ Attention, _ MLP) bool { return x.Tied }},
	{"has no bias behind attention", "afmoe arcee cohere2 cohere2moe command-r dots1 gemma gemma2 gemma3 gemma4 hunyuan-dense hunyuan-moe hy_v3 olmo olmo2 olmoe qwen3 qwen35 qwen35moe qwen3moe qwen3next seed_oss smollm3",
		func(_ *Spec, a Attention, _ MLP) bool { return a.OutBias }},
	{"has no biases in feed-forward parts", "arcee ernie4_5 seed_oss smollm3", func(_ *Spec, _ Attention, m MLP) bool { return m.Bias }},
	{"takes queries, keys and values with biases, of which this model has none", "gptneox", func(_ *Spec, a Attention, _ MLP) bool { return !a.Bias }},
	{"has no norms of queries and keys", "phi2", func(_ *Spec, a Attention, _ MLP) bool { return a.QKNorm != NoQKNorm }},
	{"takes as many heads of keys as of queries, of which this model has fewer (num_key_value_heads)", "dots1 olmoe", func(_ *Spec, a Attention, _ MLP) bool { return a.K != a.H }},
	{"has no biases in convolutions", "lfm2 lfm2moe", func(x *Spec, _ Attention, _ MLP) bool { c := first[*ShortConv](x); return c != nil && c.Bias }},
	{"chooses experts by a bias, of which this model has none (use_expert_bias)", "lfm2moe", func(x *Spec, _ Attention, _ MLP) bool { m := x.moe(); return m != nil && !m.Select }},
	{"takes keys and values of linear attention to be of one size, which this model's are not (linear_key_head_dim, linear_value_head_dim)", "qwen35 qwen35moe qwen3next",
		func(x *Spec, _ Attention, _ MLP) bool { d := first[*DeltaNet](x); return d != nil && d.Dk != d.Dv }},
}

// misfit is what of misfits the model has in an architecture, "" for nothing.
func (x *Spec) misfit(gguf string) string {
	var a Attention
	var m MLP
	if p := first[*Attention](x); p != nil {
		a = *p
	}
	if p := x.mlp(); p != nil {
		m = *p
	}
	for _, f := range misfits {
		if slices.Contains(strings.Fields(f.in), gguf) && f.has(x, a, m) {
			return f.words
		}
	}
	return ""
}

// LlamaCppNote says what llama.cpp makes of a GGUF of the model otherwise, although the
// file is as its converter writes it, or that it does not load it; "" for nothing
// (b11549; held by the test that asks it, lora's TestLlamaCpp).
func (s *Source) LlamaCppNote() string {
	x := &s.Spec
	a, layers := first[*Attention](x), len(x.Layers)
	_, window := x.windows()
	if window >= x.Context() { // which hides nothing
		window = 0
	}
	lite := layers == 26 || layers == 27 || layers == 48 && x.V == 128256
	rule, reads := x.rope(), tabled
	if rule.Type == "longrope" {
		reads = longTabled
	}
	switch name := s.arch.GGUF; {
	case len(rule.tables()) > 0 && !slices.Contains(reads, name):
		return fmt.Sprintf("llama.cpp takes no frequencies from a file (rope scaling %s) in this architecture: it does not load this one, or computes something else", cmp.Or(rule.Type, "by factors"))
	case x.misfit(name) != "":
		return "llama.cpp does not load this model: in its architecture it " + x.misfit(name)
	case rule.Type == "longrope" && name != "phimoe":
		return fmt.Sprintf("llama.cpp divides frequencies by the factors for long texts as soon as its context (-c) is longer than %d tokens, however short the text is: it computes something else in shorter ones", rule.OrigMax)
	case name == "deepseek2" && x.moe() != nil && x.moe().Route.Groups > 1 && !x.moe().Route.Best2:
		return "llama.cpp chooses groups of experts by their two best, this model by the best (topk_method: group_limited_greedy): it computes something else"
	case slices.Contains([]string{qwen35.GGUF, qwen35moe.GGUF}, name) && rule.leftOver():
		return fmt.Sprintf("llama.cpp has three positions take turns, and angles that mrope_section %v then leaves over do not turn: it computes something else", rule.Sections)
	case name == "chatglm" && a.D*a.H != x.C:
		return fmt.Sprintf("llama.cpp takes heads of hidden_size / num_attention_heads = %d elements in this architecture, this model has %d: it does not load it", x.C/a.H, a.D)
	case name == "t5" && x.Tied && x.LogitScale != 0:
		return fmt.Sprintf("llama.cpp does not divide what a tied head reads by the root of d_model: its logits are %.3g times this model's, which changes no greedy text, but samples and likelihoods", 1/x.LogitScale)
	case slices.Contains(windowless, name) && window > 0:
		return fmt.Sprintf("llama.cpp has no window in this architecture: it computes something else behind %d tokens", window)
	case name == "exaone4" && window > 0 && layers != 64:
		return fmt.Sprintf("llama.cpp has windows in a model of 64 layers only, this one has %d: it computes something else", layers)
	case name == "gpt-oss" && slices.ContainsFunc(x.Ropes, func(r RopeSpec) bool { return r.NoTruncate }):
		return "llama.cpp rounds the range of yarn, which the model does not: logits differ a little"
	case name == "llama4" && !slices.ContainsFunc(x.attentions(), func(a *Attention) bool { return a.Rope == NoRope }):
		return "llama.cpp ends with an error where all layers of a Llama 4 rotate, as this one's do"
	case name == "llama4" && (a.Chunk != 0 && a.Chunk != 8192 || x.Temperature != Temperature{} && (x.Temperature.Beta != 0.1 || x.Temperature.Every != 8192)):
		return "llama.cpp attends in chunks of 8192 tokens and scales by 0.1 from there on, whatever the model says: it computes something else"
	case name == "phimoe" && x.moe().Route.Kind == kernels.RouteSparsemixer:
		return "llama.cpp weighs experts by softmax, not by sparsemixer: it computes something else"
	case name == "command-r" && a.QKNorm != NoQKNorm && layers != 64:
		return fmt.Sprintf("llama.cpp loads norms of queries and keys in a model of 64 layers only, this one has %d", layers)
	case name == "deepseek2" && x.mla().QRank == 0 && !lite:
		return fmt.Sprintf("llama.cpp loads queries without a low-rank part in a model of 26 or 27 layers, or 48 and 128256 tokens, only; this one has %d layers and %d tokens", layers, x.V)
	case name == "deepseek2" && x.mla().QRank != 0 && lite:
		return fmt.Sprintf("llama.cpp loads queries without a low-rank part in a model of %d layers, this one's have one", layers)
	}
	return ""
}
