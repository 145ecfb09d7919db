package quant

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// usage checks that err is a usage error that names an option and says a word.
func usage(t *testing.T, what string, err error, option, word string) {
	t.Helper()
	e := (*fail.Error)(nil)
	if !errors.As(err, &e) || e.Kind != fail.Usage || e.Where != option || !strings.Contains(e.Msg+e.Hint, word) {
		t.Errorf("%s: got %v (%+v), want a usage error of %s with %q", what, err, e, option, word)
	}
}

// TestConsumers is the table of CONSUMERS.md, section 2: what each program was
// seen to load and to refuse.
func TestConsumers(t *testing.T) {
	src := openSource(t, testdir.Shared(t, "golden/quant/orig"))
	for _, c := range []struct {
		job     FolderJob
		refused []string
		option  string
	}{
		{FolderJob{Method: "gptq"}, nil, ""},
		{FolderJob{Method: "gptq", Group: 32}, nil, ""},
		{FolderJob{Method: "gptq", Group: -1}, []string{"transformers"}, "group_size"},
		{FolderJob{Method: "gptq", Scheme: "W4A16_ASYM"}, []string{"vllm"}, "scheme"},
		{FolderJob{Method: "gptq", Options: ordered("group")}, []string{"vllm", "tgi"}, "actorder"},
		{FolderJob{Method: "gptq", Scheme: "W3A16"}, []string{"vllm", "tgi", "exllama"}, "scheme"},
		{FolderJob{Method: "gptq", Scheme: "W2A16_ASYM"}, []string{"vllm", "tgi", "exllama"}, "scheme"},
		{FolderJob{Method: "gptq", Scheme: "W8A16"}, []string{"vllm", "tgi", "exllama"}, "scheme"},
		{FolderJob{Method: "gptq", Format: "compressed-tensors"}, []string{"exllama"}, "format"},
		{FolderJob{Method: "gptq", Format: "compressed-tensors", Scheme: "W8A16"}, []string{"vllm", "tgi", "exllama"}, "scheme"},
		{FolderJob{Method: "awq"}, []string{"exllama"}, "format"},
		{FolderJob{Method: "awq", Scheme: "W4A16"}, []string{"exllama"}, "format"},
		{FolderJob{Method: "awq", Format: "compressed-tensors"}, []string{"exllama"}, "format"},
		{FolderJob{Method: "rtn"}, nil, ""},
		{FolderJob{Method: "rtn", Scheme: "W8A8"}, []string{"tgi", "exllama"}, "scheme"},
		{FolderJob{Method: "rtn", Scheme: "FP8_DYNAMIC"}, []string{"tgi", "exllama"}, "scheme"},
		{FolderJob{Method: "rtn", Format: "awq", Scheme: "W4A16_ASYM"}, []string{"exllama"}, "format"},
		{FolderJob{Method: "nf4"}, []string{"vllm", "tgi", "exllama"}, "method"},
		{FolderJob{Method: "int8"}, []string{"vllm", "tgi", "exllama"}, "method"},
		{FolderJob{Method: "nf4", Scheme: "FP4"}, []string{"vllm", "tgi", "exllama"}, "method"},
		{FolderJob{Method: "exl2"}, []string{"transformers", "vllm", "tgi"}, "method"},
		{FolderJob{Method: "exl2", Scheme: "W8A16"}, []string{"transformers", "vllm", "tgi"}, "method"},
	} {
		name := fmt.Sprintf("%s %s %s %+v", c.job.Method, c.job.Scheme, c.job.Format, c.job.Options)
		for _, program := range consumers {
			c.job.For = []string{program}
			_, err := PlanFolder(src, c.job)
			if slices.Contains(c.refused, program) != (err != nil) {
				t.Errorf("%s for %s: %v", name, program, err)
			}
		}
		c.job.For = []string{} // nobody in particular
		p, err := PlanFolder(src, c.job)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := p.RefusedBy(); !slices.Equal(got, slices.DeleteFunc(slices.Clone(consumers), func(s string) bool { return !slices.Contains(c.refused, s) })) {
			t.Errorf("%s: refused by %v, want %v", name, got, c.refused)
		}
		if len(c.refused) > 0 {
			c.job.For = c.refused[:1]
			_, err := PlanFolder(src, c.job)
			usage(t, name, err, c.option, c.refused[0])
		}
		c.job.For = nil
		_, err = PlanFolder(src, c.job)
		if byDefault := slices.ContainsFunc(c.refused, func(s string) bool { return slices.Contains(DefaultFor(p.Format), s) }); byDefault != (err != nil) {
			t.Errorf("%s by default: %v", name, err)
		}
	}
}

// TestConsumersByModel: what Transformers 5.23 does not load, or loads as chance, because of
// the model's kind: tensors of Conv1D, and experts, which it joins.
func TestConsumersByModel(t *testing.T) {
	for _, c := range []struct {
		model, method, scheme, format string
		word                          string // "": loads
	}{
		{"gpt2", "rtn", "W4A16", "compressed-tensors", "Conv1D"},
		{"gpt2", "rtn", "FP8_DYNAMIC", "compressed-tensors", "Conv1D"},
		{"gpt2", "rtn", "W4A16", "awq", "Conv1D"},
		{"gpt2", "rtn", "W8A16", "gptq", ""},
		{"gpt2", "nf4", "", "", ""},
		{"gpt-bigcode", "rtn", "W8A16", "compressed-tensors", "first token"},
		{"gpt-bigcode", "rtn", "W8A8", "compressed-tensors", ""},
		{"mixtral", "rtn", "W4A16", "compressed-tensors", ""},
		{"mixtral", "rtn", "FP8_DYNAMIC", "compressed-tensors", ""},
		{"mixtral", "rtn", "W4A16_ASYM", "compressed-tensors", "zero points of experts"},
		{"mixtral", "rtn", "W8A8", "compressed-tensors", "not joined"},
		{"llama", "rtn", "W8A8", "compressed-tensors", ""},
		{"falcon", "rtn", "W8A16", "compressed-tensors", "first token"},
		{"falcon", "rtn", "FP8_DYNAMIC", "compressed-tensors", ""},
		{"mamba2", "rtn", "W8A16", "compressed-tensors", "first token"},
		{"mamba2", "rtn", "W8A8", "compressed-tensors", ""},
		{"kimi-linear", "rtn", "W8A16", "compressed-tensors", "joins weights"},
		{"kimi-linear", "rtn", "FP8_DYNAMIC", "compressed-tensors", ""},
		{"olmo-hybrid", "rtn", "W8A16", "compressed-tensors", "joins weights"},
		{"olmo-hybrid", "rtn", "FP8_DYNAMIC", "compressed-tensors", ""},
		{"deepseek4", "rtn", "W8A16", "compressed-tensors", "indexer"},
		{"deepseek4", "rtn", "FP8_DYNAMIC", "compressed-tensors", "indexer"},
		{"phimoe", "rtn", "W8A16", "compressed-tensors", "router"},
		{"phimoe", "rtn", "FP8_DYNAMIC", "compressed-tensors", "router"},
		{"dbrx", "rtn", "FP8_DYNAMIC", "compressed-tensors", "one by one"},
		{"gemma4-moe", "rtn", "W8A16", "compressed-tensors", "one by one"},
		{"gemma4", "rtn", "W8A16", "compressed-tensors", ""},
		{"gpt-oss", "rtn", "W8A16", "compressed-tensors", "one by one"},
		{"granite-moe", "rtn", "FP8_DYNAMIC", "compressed-tensors", "one by one"},
		{"granite-hybrid", "rtn", "W8A16", "compressed-tensors", "one by one"},
		{"granite-hybrid-dense", "rtn", "W8A16", "compressed-tensors", ""},
	} {
		src := openSource(t, testdir.Shared(t, "golden/arch/"+c.model))
		job := FolderJob{Path: filepath.Join(t.TempDir(), "out"), Method: c.method, Scheme: c.scheme, Format: c.format, Group: -1, For: []string{"transformers"}}
		if c.method == "nf4" {
			job.Group = 0
		}
		_, err := PlanFolder(src, job)
		if name := strings.Join([]string{c.model, c.scheme, c.format}, " "); c.word == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c.word != "" {
			usage(t, name, err, cmp.Or(map[string]string{"Conv1D": "format", "indexer": "format", "router": "format", "one by one": "ignore"}[c.word], "scheme"), c.word)
		}
	}
}

func TestPlanErrors(t *testing.T) {
	orig := openSource(t, testdir.Shared(t, "golden/quant/orig"))
	odd := tiny(t, shape{c: 96, v: 64, layers: 1, h: 3, k: 1, d: 32, f: 160})
	for _, c := range []struct {
		name         string
		src          *arch.Source
		job          FolderJob
		option, word string
	}{
		{"method", orig, FolderJob{Method: "gptk"}, "method", "rtn, gptq, awq, nf4"},
		{"scheme", orig, FolderJob{Method: "gptq", Scheme: "W5"}, "scheme", "W4A16"},
		{"scheme of another method", orig, FolderJob{Method: "awq", Scheme: "W8A16"}, "scheme", "W4A16_ASYM"},
		{"NF4 by gptq", orig, FolderJob{Method: "gptq", Scheme: "NF4"}, "scheme", "W4A16"},
		{"format", orig, FolderJob{Method: "gptq", Format: "awq"}, "format", "gptq or compressed-tensors"},
		{"format of other bits", orig, FolderJob{Method: "rtn", Format: "awq", Scheme: "W8A16"}, "format", "4 bits"},
		{"format of few bits", orig, FolderJob{Method: "rtn", Format: "compressed-tensors", Scheme: "W3A16"}, "format", "4 or 8"},
		{"activations in a format without", orig, FolderJob{Method: "rtn", Scheme: "W8A8", Format: "gptq"}, "format", "compressed-tensors"},
		{"groups of whole rows", orig, FolderJob{Method: "rtn", Scheme: "W8A8", Group: 64}, "group_size", "one scale for every row"},
		{"group", odd, FolderJob{Method: "gptq", Group: 128}, "group_size", "96 columns (model.layers.0.self_attn.q_proj, model.layers.0.self_attn.k_proj, model.layers.0.self_attn.v_proj and 4 more)"},
		{"group's way out", odd, FolderJob{Method: "gptq", Group: 128}, "group_size", "auto takes 32"},
		{"negative group", orig, FolderJob{Method: "gptq", Group: -2}, "group_size", "-2"},
		{"order", orig, FolderJob{Method: "gptq", Options: ordered("desc")}, "gptq.actorder", "static, none, group, aware"},
		{"options of another method", orig, FolderJob{Method: "awq", Options: ordered("group")}, "method", "*quant.GPTQOptions"},
		{"a search without scales", orig, FolderJob{Method: "gptq", Search: "rtn"}, "search", "searches nothing"},
		{"order in another format", orig, FolderJob{Method: "gptq", Format: "compressed-tensors", Options: ordered("group")}, "actorder", "static"},
		{"damp", orig, FolderJob{Method: "gptq", Options: &GPTQOptions{DampPercent: 1.5}}, "gptq.damp_percent", "1.5"},
		{"samples", orig, FolderJob{Method: "gptq", Samples: -1}, "samples", "-1"},
		{"program", orig, FolderJob{Method: "gptq", For: []string{"ollama"}}, "for", "ollama"},
		{"ignore", orig, FolderJob{Method: "gptq", Ignore: []string{"model.layers.7.mlp.up_proj"}}, "ignore", "matches no module"},
		{"ignore's pattern", orig, FolderJob{Method: "gptq", Ignore: []string{"re:("}}, "ignore", "regular expression"},
		{"override without a match", orig, FolderJob{Method: "gptq", Overrides: []Override{{"up_proj", "W8A16", 0}, {"re:.*up_proj", "W8A16", 0}}}, "overrides", "matches no module"},
		{"NF4 and FP4 in one folder", orig, FolderJob{Method: "nf4", Overrides: []Override{{"up_proj", "FP4", 0}}}, "overrides", "room for one type"},
		{"groups of INT8", orig, FolderJob{Method: "int8", Group: 64}, "group_size", "one scale for every row"},
		{"INT8 in groups' layout", orig, FolderJob{Method: "int8", Format: "gptq"}, "format", "int8 cannot be stored"},
		{"override of another method", orig, FolderJob{Method: "gptq", Overrides: []Override{{"up_proj", "NF4", 0}}}, "scheme", "gptq cannot make NF4"},
		{"override's group", orig, FolderJob{Method: "gptq", Overrides: []Override{{"up_proj", "W8A16", 48}}}, "group_size", "48"},
		{"override for a program", orig, FolderJob{Method: "gptq", Overrides: []Override{{"up_proj", "W8A16", 0}}}, "scheme", "vllm"},
		{"two types in one configuration", orig, FolderJob{Method: "awq", Overrides: []Override{{"up_proj", "W4A16", 0}}}, "overrides", "room for one type"},
		{"EXL2 of few bits", orig, FolderJob{Method: "exl2", Options: &EXL2Options{Bits: 2.1}}, "bits", "narrowest folder takes 2.1"},
		{"EXL2 of more bits than there are", orig, FolderJob{Method: "exl2", Options: &EXL2Options{Bits: 8.5}}, "exl2.bits", "8"},
		{"EXL2 of a scheme and bits", orig, FolderJob{Method: "exl2", Scheme: "W4A16", Options: &EXL2Options{Bits: 4}}, "bits", "W4A16 has as many as its name says"},
		{"EXL2 with zero points", orig, FolderJob{Method: "exl2", Scheme: "W4A16_ASYM"}, "scheme", "exl2 makes EXL2, W2A16"},
		{"EXL2 of whole rows", orig, FolderJob{Method: "exl2", Group: -1}, "group_size", "32, 64 or 128"},
		{"EXL2 of small groups", orig, FolderJob{Method: "exl2", Group: 16}, "group_size", "32, 64 or 128"},
		{"EXL2 in another format", orig, FolderJob{Method: "exl2", Format: "gptq"}, "format", "stored as exl2"},
		{"another method as EXL2", orig, FolderJob{Method: "gptq", Format: "exl2"}, "format", "gptq or compressed-tensors"},
		{"an override without a width", orig, FolderJob{Method: "exl2", Overrides: []Override{{"up_proj", "EXL2", 0}}}, "overrides", "such as W8A16"},
		{"an override beyond the bits", orig, FolderJob{Method: "exl2", Options: &EXL2Options{Bits: 3}, Overrides: []Override{{"re:.*mlp", "W8A16", 0}}}, "bits", "narrowest"},
		{"EXL2 of rows that fill no words", tiny(t, shape{c: 64, v: 64, layers: 1, h: 2, k: 2, d: 20, f: 64}), FolderJob{Method: "exl2", Ignore: []string{"lm_head", "o_proj"}}, "ignore", "multiples of 32"},
		{"EXL2 of experts", openSource(t, testdir.Shared(t, "golden/arch/mixtral")), FolderJob{Method: "exl2", Ignore: []string{"down_proj", "lm_head"}}, "ignore", "several matrices in one"},
		{"ignore everything", orig, FolderJob{Method: "gptq", Ignore: []string{"re:.*"}}, "ignore", "nothing is left"},
	} {
		c.job.Path = filepath.Join(t.TempDir(), "out")
		_, err := PlanFolder(c.src, c.job)
		usage(t, c.name, err, c.option, c.word)
		if _, err := os.Stat(c.job.Path); err == nil {
			t.Errorf("%s: something was written", c.name)
		}
	}
	if p, err := PlanFolder(odd, FolderJob{Method: "gptq", Ignore: []string{"lm_head", "down_proj"}}); err != nil || p.Group != 32 || len(p.Layers) != 6 {
		t.Errorf("auto: %+v, %v", p, err)
	}
	_, err := Folder(t.Context(), nil, orig, []FolderJob{{Method: "gptq", Path: filepath.Join(t.TempDir(), "out")}}, nil, nil)
	usage(t, "no calibration", err, "calibration", "none")
}

func TestParseOverride(t *testing.T) {
	for text, want := range map[string]Override{
		"down_proj=W8A16": {"down_proj", "W8A16", 0}, "re:(a=b)=W4A16/32": {"re:(a=b)", "W4A16", 32}, "o_proj=W8A16_ASYM/-1": {"o_proj", "W8A16_ASYM", -1},
	} {
		if got, err := parseOverride(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"down_proj", "=W8A16", "a=W8A16/0", "a=W8A16/x", "a=W8A16/-2"} {
		_, err := parseOverride(text)
		usage(t, text, err, "overrides", "PATTERN=SCHEME")
	}
}

func TestRequantize(t *testing.T) {
	src := tiny(t, small)
	path := filepath.Join(t.TempDir(), "rtn")
	folder(t, src, nil, FolderJob{Path: path, Method: "rtn", Group: 32})
	quantized := openSource(t, path)
	_, err := PlanFolder(quantized, FolderJob{Method: "nf4"})
	if e := (*fail.Error)(nil); !errors.As(err, &e) || e.Kind != fail.Input || !strings.Contains(e.Hint, "allow_requantize") {
		t.Errorf("quantizing twice: %v", err)
	}
	again := filepath.Join(t.TempDir(), "nf4")
	folder(t, quantized, nil, FolderJob{Path: again, Method: "nf4", AllowRequantize: true})
	if got := openSource(t, again).At(0, arch.Up).Type; got != dtype.NF4Double {
		t.Errorf("type %v", got)
	}
}

// TestLayouts compares our folders with those of the tools: every array's name,
// dtype and shape, and the entries of quantization_config that a consumer reads.
// Left out is what a tool says about itself.
func TestLayouts(t *testing.T) {
	src := openSource(t, testdir.Shared(t, "golden/quant/orig"))
	var gold map[string]json.RawMessage
	if err := json.Unmarshal(readFile(t, filepath.Join(testdir.Shared(t, "golden/quant"), "layouts.json")), &gold); err != nil {
		t.Fatal(err)
	}
	cal := text(5, 4, 64, src.Spec.V)
	for name, job := range map[string]FolderJob{
		"gptq-4b-g128-sym":              {Method: "gptq", Group: 128},
		"gptq-4b-g128-asym":             {Method: "gptq", Group: 128, Scheme: "W4A16_ASYM"},
		"gptq-4b-g128-descact":          {Method: "gptq", Group: 128, Options: ordered("group")},
		"gptq-3b-g128-sym":              {Method: "gptq", Group: 128, Scheme: "W3A16"},
		"gptq-4b-gm1-sym":               {Method: "gptq", Group: -1},
		"autoround-auto_awq-asym":       {Method: "awq", Group: 128},
		"ct-w4a16-g128-sym-gptq-static": {Method: "gptq", Format: "compressed-tensors", Group: 128},
		"ct-w4a16-g128-asym-rtn":        {Method: "rtn", Format: "compressed-tensors", Scheme: "W4A16_ASYM", Group: 128},
		"ct-w8a8-int8":                  {Method: "rtn", Scheme: "W8A8"},
		"ct-fp8-dynamic":                {Method: "rtn", Scheme: "FP8_DYNAMIC"},
		"bnb-nf4":                       {Method: "nf4", Options: &NF4Options{DoubleQuant: new(bool)}},
		"bnb-nf4-dq":                    {Method: "nf4"},
	} {
		t.Run(name, func(t *testing.T) {
			job.Path, job.For = filepath.Join(t.TempDir(), "out"), []string{}
			folder(t, src, cal, job)
			compareLayout(t, gold[name], job.Path)
		})
	}
}

func compareLayout(t *testing.T, gold json.RawMessage, path string) {
	var want struct {
		Config  map[string]any    `json:"quantization_config"`
		Tensors map[string][2]any `json:"tensors"`
		Meta    map[string]string `json:"safetensors_metadata"`
	}
	if err := json.Unmarshal(gold, &want); err != nil {
		t.Fatal(err)
	}
	var config struct {
		Q map[string]any `json:"quantization_config"`
	}
	if err := json.Unmarshal(readFile(t, filepath.Join(path, "config.json")), &config); err != nil {
		t.Fatal(err)
	}
	own := []string{"meta", "autoround_version", "data_type", "iters", "provider", "sym", "to_quant_block_names", "version", "sparsity_config", "transform_config", "config_groups", "bnb_4bit_compute_dtype"}
	for k, v := range want.Config {
		if slices.Contains(own, k) && !(k == "sym" && want.Config["quant_method"] == "gptq") {
			continue
		}
		a, _ := json.Marshal(v)
		b, _ := json.Marshal(config.Q[k])
		if string(a) != string(b) {
			t.Errorf("quantization_config.%s is %s, want %s", k, b, a)
		}
	}
	tensors := arraysOf(t, path)
	for k, v := range want.Tensors {
		if shape, _ := v[1].([]any); strings.HasSuffix(k, "weight.absmax") && len(shape) == 2 {
			continue // bitsandbytes on a CPU saves absmax changed by a forward pass (CONSUMERS.md, 5.2)
		}
		a, _ := json.Marshal(v)
		b, _ := json.Marshal(tensors[strings.ReplaceAll(k, ".N.", ".0.")])
		if strings.Contains(k, "quant_state") { // JSON text: ours is padded to a fixed length
			a, b = a[:5], b[:5]
		}
		if string(a) != string(b) {
			t.Errorf("%s is %s, want %s", k, b, a)
		}
	}
}

// arraysOf lists dtype and shape of the arrays of a folder's only file.
func arraysOf(t *testing.T, path string) map[string][2]any {
	t.Helper()
	arrays, _, err := formats.ReadSafetensors(filepath.Join(path, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][2]any{}
	for _, a := range arrays {
		out[a.Name] = [2]any{a.DType, a.Shape}
	}
	return out
}

// TestExpertsOfNF4: bitsandbytes has no form for experts; they stay, in folders that are read back.
func TestExpertsOfNF4(t *testing.T) {
	src := openSource(t, testdir.Shared(t, "golden/arch/mixtral"))
	p, err := PlanFolder(src, FolderJob{Method: "nf4"})
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range p.Layers {
		if strings.Contains(module, "experts") {
			t.Errorf("%s is quantized", module)
		}
	}
	if want := 2 * len(src.Spec.Layers); p.Experts != want || !strings.HasPrefix(p.ExpertsNote(), fmt.Sprint(want, " matrices")) || len(p.Layers) == 0 {
		t.Errorf("%d experts stay, want %d: %s", p.Experts, want, p.ExpertsNote())
	}
	if p, err = PlanFolder(src, FolderJob{Method: "rtn", Group: -1, For: []string{}}); err != nil || p.ExpertsNote() != "" {
		t.Errorf("round to nearest: %v, %q", err, p.ExpertsNote())
	}
}
