package arch

import (
	"cmp"
	"fmt"
	"slices"

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

// headless are the architectures, by their names in GGUF, in which llama.cpp has no head but the embedding.
var headless = []string{"gemma", "gemma2", "command-r", "cohere2"}

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
	case slices.Contains(headless, name) && !x.Tied:
		return "llama.cpp has no head but the embedding in this architecture, this model has one of its own (tie_word_embeddings: false): it does not load it"
	case slices.Contains([]string{qwen35.GGUF, qwen35moe.GGUF}, name) && rule.leftOver():
		return fmt.Sprintf("llama.cpp has three positions take turns, and angles that mrope_section %v then leaves over do not turn: it computes something else", rule.Sections)
	case name == "chatglm" && a.D*a.H != x.C:
		return fmt.Sprintf("llama.cpp takes heads of hidden_size / num_attention_heads = %d elements in this architecture, this model has %d: it does not load it", x.C/a.H, a.D)
	case name == "t5" && x.Tied && x.LogitScale != 0:
		return fmt.Sprintf("llama.cpp does not divide what a tied head reads by the root of d_model: its logits are %.3g times this model's, which changes no greedy text, but samples and likelihoods", 1/x.LogitScale)
	case name == "dots1" && a.K != a.H:
		return fmt.Sprintf("llama.cpp takes as many heads of keys as of queries in this architecture, this model has %d of %d: it does not load it", a.K, a.H)
	case slices.Contains(windowless, name) && window > 0:
		return fmt.Sprintf("llama.cpp has no window in this architecture: it computes something else behind %d tokens", window)
	case name == "exaone4" && window > 0 && layers != 64:
		return fmt.Sprintf("llama.cpp has windows in a model of 64 layers only, this one has %d: it computes something else", layers)
	case name == "gpt-oss" && slices.ContainsFunc(x.Ropes, func(r RopeSpec) bool { return r.NoTruncate }):
		return "llama.cpp rounds the range of yarn, which the model does not: logits differ a little"
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
