package arch

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
)

// Arch is one architecture.
type Arch struct {
	Name string   // the key of the table, and model_type in config.json
	HF   []string // architectures in config.json
	GGUF string   // general.architecture; "": llama.cpp has no such architecture, and GGUFSpec and KV are nil
	// IsGGUF says, where several architectures share GGUF, that a file is of this
	// one; nil: where it is of no other.
	IsGGUF func(m *Metadata) bool
	// Spec reads config.json (of either generation) into a Spec.
	Spec func(c *Config) (Spec, error)
	// GGUFSpec reads GGUF metadata; tensors are the names present.
	GGUFSpec func(m *Metadata) (Spec, error)
	// Rules lists every tensor of a model of this shape.
	Rules func(s *Spec) []Rule
	// KV is the metadata a GGUF of this architecture carries after general.*.
	KV func(s *Spec) []formats.KV
	// NoGGUF says what a model of this shape has that a GGUF of this architecture
	// cannot say, "" for nothing; nil: nothing but what is read back otherwise.
	NoGGUF func(s *Spec) string
	// Untruncated is set where yarn's correction range is fractional in all models,
	// which a GGUF does not say.
	Untruncated bool
	// Config is what config.json says about a model of this shape, for
	// folders written from a GGUF.
	Config func(s *Spec) []formats.KV
	// Read completes the Spec with what files of Hugging Face keep in tensors and
	// GGUF among its keys; nil: nothing.
	Read func(s *Source) error
	// Fit makes the Spec of a config.json that of a folder with these tensors, of which has
	// gets names in Hugging Face files; nil: config.json says all.
	Fit func(s *Spec, has func(name string) bool)
	// Experts is set where files cannot speak of a model of which no layer has any.
	Experts bool
	// PartRotates is set where config.json can say that a part of a head rotates.
	PartRotates bool
	// Carried are what names of tensors begin with in Hugging Face folders that
	// belong to other parts of a larger model, such as one that sees images.
	// They are not run; who writes the model takes them along unchanged.
	Carried []string
	// Tables is what names of tensors of whole numbers end with in Hugging Face folders,
	// which Read reads; who writes the model takes them along unchanged. "": none.
	Tables string
	// Folds is set where GGUF has the factors of a Spec's layers in the weights.
	Folds bool
	// Drops are what names of tensors begin with in Hugging Face folders that
	// Transformers, too, does not load: extra layers that guess further tokens.
	Drops []string
}

// archs is the table. A new architecture is one line here and one file.
var archs = []*Arch{
	&llama,
	&qwen2,
	&qwen3,
	&qwen3moe,
	&qwen2moe,
	&mixtral,
	&youtu,
	&deepseek2,
	&deepseek3,
	&deepseek32,
	&glmMoeDsa,
	&deepseek4,
	&glm4moelite,
	&olmoe,
	&granitemoeshared,
	&granitemoe,
	&gptoss,
	&phimoe,
	&glm4moe,
	&glm4vMoE,
	&solaropen,
	&dots1,
	&exaonemoe,
	&ernie45moe,
	&minimaxm2,
	&hyv3,
	&afmoe,
	&cohere2moe,
	&hunyuanmoe,
	&minicpm3,
	&mistral4,
	&dbrx,
	&llama4,
	&olmo2,
	&cohere,
	&gemma2,
	&starcoder2,
	&phi,
	&stablelm,
	&nemotron,
	&arcee,
	&apertus,
	&gptNeoX,
	&falcon,
	&gptJ,
	&mpt,
	&bloom,
	&gptBigCode,
	&gpt2,
	&opt,
	&mistral,
	&ministral,
	&cwm,
	&helium,
	&ministral3,
	&mistral3,
	&seedOss,
	&smollm3,
	&hunyuanDense,
	&granite,
	&gemma,
	&gemma3,
	&vaultGemma,
	&gemma3n,
	&gemma4,
	&cohere2,
	&exaone4,
	&glm4,
	&glm4v,
	&glm,
	&phi3,
	&olmo,
	&olmo3,
	&ernie45,
	&qwen2VL,
	&lfm2,
	&lfm2moe,
	&qwen3next,
	&qwen35,
	&qwen35moe,
	&qwen3VL,
	&qwen3VLMoE,
	&qwen35VL,
	&qwen35moeVL,
	&kimiLinear,
	&olmoHybrid,
	&mamba2,
	&jamba,
	&falconH1,
	&nemotronH,
	&nemotronHMoE,
	&graniteHybrid,
	&t5,
	&mt5,
	&umt5,
	&t5gemma,
	&t5gemma2,
}

// typeNames are values of model_type, which alone says what a model is where a config.json
// names no class, that are called otherwise in the table.
var typeNames = map[string]string{"gemma3": gemma3.Name, "gemma3n": gemma3n.Name, "gemma4": gemma4.Name, "gpt-sw3": gpt2.Name, "internlm3": llama.Name, "kimi_k2": deepseek3.Name, "qwen2_5_vl": qwen2VL.Name}

func byHF(name, modelType string) *Arch {
	modelType = cmp.Or(typeNames[modelType], modelType)
	for _, a := range archs {
		if slices.Contains(a.HF, name) || name == "" && a.Name == modelType {
			return a
		}
	}
	return nil
}

// ownClasses are values of model_type that have a class of their own in Transformers,
// which begins with them, besides those of the table.
var ownClasses = strings.Fields("bart bert codegen gemma3 gemma3n gemma4 gpt_neo llama4 mamba persimmon roberta rwkv xglm")

// otherTypes are by class further values of model_type under which Transformers has it.
var otherTypes = map[string]string{"LlamaForCausalLM": "internlm3 iquestcoder", "GPT2LMHeadModel": "gpt-sw3", "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl"}

// goesWith tells whether the model_type of a config.json can stand beside the class
// that it names in architectures: Transformers goes by the first, this program by the
// second. A model_type that Transformers does not know can, where code comes with the model.
func (a *Arch) goesWith(class, modelType string, code bool) bool {
	switch {
	case class == "" || modelType == "" || modelType == a.Name || slices.Contains(strings.Fields(otherTypes[class]), modelType):
		return true
	case slices.ContainsFunc(archs, func(b *Arch) bool { return b.Name == modelType }):
		return false
	case slices.Contains(ownClasses, modelType):
		return strings.HasPrefix(strings.ToLower(class), strings.ReplaceAll(modelType, "_", ""))
	}
	return code
}

func byGGUF(name string, m *Metadata) (found *Arch) {
	for _, a := range archs {
		switch {
		case a.GGUF != name || name == "":
		case a.IsGGUF == nil:
			found = cmp.Or(found, a)
		case a.IsGGUF(m):
			return a
		}
	}
	return found
}

// Names lists the supported architectures.
func Names() []string {
	var out []string
	for _, a := range archs {
		out = append(out, a.Name)
	}
	return out
}

func known() string {
	var larger []string
	for i := range wholes {
		larger = append(larger, wholes[i].name)
	}
	return strings.Join(Names(), ", ") + "; of larger models the half that reads text: " + strings.Join(larger, ", ")
}

// ErrUnknown marks an architecture that the table does not have, and what the table's
// do not have of one: there is nothing wrong with the files.
var ErrUnknown = errors.New("is not supported")

// unknown is the error about an architecture that a file names and the table
// does not; ours are the names it is compared with.
func unknown(name, what string, ours []string) error {
	near := ""
	if n := generation(name, ours); n != "" {
		near = "; the nearest is " + n + ", a model of another generation, which computes something else"
	} else if n := nearestClass(name, ours); n != "" {
		near = "; did you mean " + n + "?"
	}
	return fmt.Errorf("%s %w%s; known: %s", what, ErrUnknown, near, known())
}

// hubNames are names of architectures in folders: classes, or values of model_type.
func hubNames(classes bool) (names []string) {
	for _, a := range archs {
		if !classes {
			names = append(names, a.Name)
			continue
		}
		names = append(names, a.HF...)
	}
	for i := range wholes {
		names = append(names, map[bool]string{true: wholes[i].class, false: wholes[i].name}[classes])
	}
	return names
}

// generation is the last of names that differs from name in digits alone; "" where there
// is none.
func generation(name string, names []string) (last string) {
	rest := func(name string) string { return strings.Trim(digits.ReplaceAllString(name, ""), "_-.") }
	for _, n := range names {
		if n != name && rest(n) == rest(name) {
			last = max(last, n)
		}
	}
	return last
}

var digits = regexp.MustCompile(`[0-9]+`)

// nearestClass is the one of names that name is most like: of classes by what stands
// before what most of them end with.
func nearestClass(name string, names []string) string {
	ends := append([]string{"ForConditionalGeneration"}, wordClasses...)
	base := func(name string) string {
		for _, end := range ends {
			name = strings.TrimSuffix(name, end)
		}
		return name
	}
	if n := fail.Nearest(name, names); n != "" && base(name) == name {
		return n
	}
	bases := make([]string, len(names))
	for i, n := range names {
		bases[i] = base(n)
	}
	if i := slices.Index(bases, fail.Nearest(base(name), slices.DeleteFunc(slices.Clone(bases), func(n string) bool { return n == "" }))); i >= 0 {
		return names[i]
	}
	return ""
}
