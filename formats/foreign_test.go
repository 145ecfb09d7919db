package formats

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// storedCase is a weight as another program stores it, and what that program decodes it to.
type storedCase struct {
	Config   json.RawMessage
	Metadata map[string]string
	Rounded  string
	Shape    []int64
	SHA256   string
	First    []float32
	arrays   []NamedTensor
}

// storedCases are those of a folder: cases.json, and their arrays under their names.
func storedCases(t testing.TB, dir string) map[string]storedCase {
	t.Helper()
	var cases map[string]storedCase
	text, err := os.ReadFile(filepath.Join(dir, "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &cases); err != nil || len(cases) < 50 {
		t.Fatalf("%d cases: %v", len(cases), err)
	}
	arrays, _, err := ReadSafetensors(filepath.Join(dir, "arrays.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range arrays {
		name, rest, _ := strings.Cut(a.Name, "/")
		c := cases[name]
		a.Name = rest
		c.arrays = append(c.arrays, a)
		cases[name] = c
	}
	return cases
}

// folder writes the case as a folder.
func (c storedCase) folder(t testing.TB) string {
	t.Helper()
	return foreignFolder(t, string(c.Config), c.arrays, c.Metadata)
}

// check compares what is read with what the other program decodes, bit for bit.
func (c storedCase) check(t *testing.T) *Tensor {
	t.Helper()
	folder := c.folder(t)
	r := mustOpen(t, folder)
	if len(r.Tensors()) != 1 {
		t.Fatalf("%d tensors, want 1", len(r.Tensors()))
	}
	x := &r.Tensors()[0]
	got := values(t, r, x)
	if c.Rounded == "bfloat16" {
		got = roundBF16(got)
	}
	if !slices.Equal(x.Shape, c.Shape) || sum(got) != c.SHA256 {
		t.Errorf("%v %v begins with %v, want %v %v", x.Type, x.Shape, []float32{f32(got, 0), f32(got, 1), f32(got, 2), f32(got, 3)}, c.Shape, c.First)
	}
	if err := Verify(folder); err != nil {
		t.Error(err)
	}
	return x
}

// TestForeign: small weights as other programs store them (testdata/foreign/make.py) are
// what those programs decode, bit for bit: every width of compressed-tensors, scales for
// tensors, groups and blocks, AutoRound's packings and exceptions, GPTQ in words of other
// sizes, FP8 in rows and blocks and divided by its scales, FP4, MXFP6, MXFP8 and MXINT4.
func TestForeign(t *testing.T) {
	for name, c := range storedCases(t, "testdata/foreign") {
		t.Run(name, func(t *testing.T) { c.check(t) })
	}
}

// foreignFolder writes a folder with a quantization_config.
func foreignFolder(t testing.TB, config string, arrays []NamedTensor, metadata map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	text := []byte(`{"model_type":"llama","quantization_config":` + config + `}`)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := WriteSafetensors(filepath.Join(dir, "model.safetensors"), arrays, metadata); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestForeignRefused: what would be read as something else is refused by its name.
func TestForeignRefused(t *testing.T) {
	w := []NamedTensor{
		{Name: "a.weight", DType: "I8", Shape: []int64{2, 4}, Data: make([]byte, 8)},
		{Name: "a.weight_scale", DType: "F32", Shape: []int64{2, 1}, Data: make([]byte, 8)},
	}
	for config, want := range map[string]string{
		`{"quant_method":"gemma","num_bits":8}`: `quant_method is "gemma", whose weights are not read`,
		`{"quant_method":"unheard-of"}`:         `quant_method is "unheard-of", whose weights are not read`,
		`{"quant_method":"compressed-tensors","transform_config":{"config_groups":{"u":{"type":"hadamard"}}}}`:                    "transform_config",
		`{"quant_method":"quark","algo_config":[{"name":"smooth"},{"name":"rotation","r1":true}]}`:                                "algo_config",
		`{"quant_method":"quark","algo_config":{"name":"rotation","r4":false,"online_r1_rotation":true}}`:                         "algo_config",
		`{"quant_method":"auto-round","rotation_config":{"hadamard_type":"quarot"}}`:                                              "rotation_config",
		`{"quant_method":"compressed-tensors","sparsity_config":{"format":"sparse-24-bitmask"}}`:                                  `"sparse-24-bitmask"`,
		`{"quant_method":"compressed-tensors","format":"marlin-24"}`:                                                              `"marlin-24"`,
		`{"quant_method":"compressed-tensors","format":"marlin-24","sparsity_config":{"format":"dense"}}`:                         `"marlin-24"`,
		`{"quant_method":"compressed-tensors","sparsity_config":"dense"}`:                                                         "sparsity_config is a string, expected an object",
		`{"quant_method":"auto-round","packing_format":"auto_round:llm_compressor","extra_config":["a"]}`:                         "extra_config is an array, expected an object",
		`{"quant_method":"compressed-tensors","config_groups":{"a":{"targets":["Linear"],"weights":{"symmetric":false}}}}`:        "has no weight_zero_point",
		`{"quant_method":"compressed-tensors","config_groups":{"a":{"targets":["Linear"],"weights":{"symmetric":0}}}}`:            "symmetric is a number",
		`{"quant_method":"compressed-tensors"}`:                                                                                   `module "a" is quantized, but no target`,
		`{"quant_method":"compressed-tensors","config_groups":{"a":null}}`:                                                        "config_groups.a is null, expected an object",
		`{"quant_method":"compressed-tensors","config_groups":{"a":{"targets":"Linear"}}}`:                                        "config_groups.a.targets is Linear, expected an array",
		`{"quant_method":"compressed-tensors","config_groups":{"a":{"targets":["b"],"input_activations":{}}}}`:                    `module "a" is quantized, but no target`,
		`{"quant_method":"compressed-tensors","config_groups":{"a":{"targets":["Linear"],"input_activations":{"num_bits":"4"}}}}`: "input_activations.num_bits is 4, expected a whole number",
		`{"quant_method":"compressed-tensors","config_groups":{"a":{"targets":["Linear"],"input_activations":{"dynamic":1}}}}`:    "input_activations.dynamic is a number",
		`{"quant_method":"compressed-tensors","config_groups":{"a":{"targets":["Linear"],"weights":{"type":8}}}}`:                 "weights.type is a number",
	} {
		if _, err := Open(foreignFolder(t, config, w, nil)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", config, err, want)
		}
	}
	mx := []NamedTensor{
		{Name: "a.weight_packed", DType: "U8", Shape: []int64{2, 16}, Data: make([]byte, 32)},
		{Name: "a.weight_scale", DType: "U8", Shape: []int64{2, 1}, Data: make([]byte, 2)},
	}
	for config, want := range map[string]string{
		`{"quant_method":"auto-round","bits":4,"data_type":"mx_uint"}`:                                                      `data_type in quantization_config is "mx_uint"`,
		`{"quant_method":"auto-round","bits":4}`:                                                                            `data_type in quantization_config is ""`,
		`{"quant_method":"auto-round","bits":4,"data_type":7}`:                                                              "data_type of a is a number",
		`{"quant_method":"auto-round","bits":4,"data_type":"mx_fp","extra_config":{"a":{"data_type":"int"}}}`:               `data_type in quantization_config is "int"`,
		`{"quant_method":"auto-round","bits":4,"data_type":"nvfp4_v2","group_size":64}`:                                     "group_size is 64",
		`{"quant_method":"auto-round","bits":4,"data_type":"nvfp4_v2"}`:                                                     "has shape [2 1], expected [2 2]",
		`{"quant_method":"auto-round","bits":4,"data_type":"mx_fp","rotation_config":{"hadamard_type":"random_hadamard"}}`:  "rotation_config",
		`{"quant_method":"auto-round","bits":4,"data_type":"mx_fp","extra_config":{"layers.(?!0)":{"data_type":"mx_int"}}}`: "is no regular expression that can be read",
		`{"quant_method":"auto-round","bits":4,"data_type":"mx_fp","extra_config":[{"a":{"data_type":"mx_int"}}]}`:          "extra_config is an array",
	} {
		if _, err := Open(foreignFolder(t, config, mx, nil)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", config, err, want)
		}
	}
	const group = `{"quant_method":"compressed-tensors","config_groups":{"g":{"targets":["Linear"],"weights":{`
	for config, want := range map[string]string{
		group + `"num_bits":8,"type":"float"}}}}`:                   "have num_bits 8 and group_size <nil>, but tensor \"a.weight_packed\" holds 4 bits",
		group + `"num_bits":4,"type":"float","group_size":16}}}}`:   "group_size 16, but",
		group + `"num_bits":4,"type":"int","group_size":32}}}}`:     `have type "int"`,
		group + `"num_bits":4,"type":"float","symmetric":false}}}}`: "has no weight_zero_point",
		`{"quant_method":"gptq","bits":4}`:                          `quant_method is "gptq"`,
		`{"quant_method":"fp8","weight_block_size":[128,128]}`:      `quant_method is "fp8"`,
	} {
		if _, err := Open(foreignFolder(t, config, mx, nil)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", config, err, want)
		}
	}
	mustOpen(t, foreignFolder(t, group+`"num_bits":4,"type":"FLOAT","group_size":32,"strategy":"group"}}}}`, mx, nil))
	fp8 := []NamedTensor{
		{Name: "a.weight", DType: "F8_E4M3", Shape: []int64{4, 4}, Data: make([]byte, 16)},
		{Name: "a.weight_scale", DType: "F32", Shape: []int64{4}, Data: make([]byte, 16)},
	}
	for config, want := range map[string]string{
		`{"quant_method":"quark","global_quant_config":{"weight":{"qscheme":"per_channel","ch_axis":1}}}`:                               "qscheme per_channel",
		`{"quant_method":"quark","global_quant_config":{"weight":{"qscheme":"per_channel","ch_axis":"0"}}}`:                             "weight.ch_axis is 0, expected a whole number",
		`{"quant_method":"quark","layer_quant_config":{"a*":{"weight":{"qscheme":"per_channel","ch_axis":-1}}}}`:                        "qscheme per_channel",
		`{"quant_method":"quark","layer_quant_config":{"[a":{"weight":{}}}}`:                                                            "is no pattern",
		`{"quant_method":"quark","layer_quant_config":["a"]}`:                                                                           "layer_quant_config is an array",
		`{"quant_method":"quark","layer_type_quant_config":{"Linear":{"weight":[{"qscheme":"per_tensor"},{"qscheme":"per_channel"}]}}}`: "weight of \"a\" is an array",
		`{"quant_method":"quark","global_quant_config":{"weight":{"qscheme":"per_group","group_size":4,"ch_axis":1,"dtype":"int8"}}}`:   "qscheme per_group",
		`{"quant_method":"quark","global_quant_config":{"weight":{"qscheme":"per_block","block_size":[2,2]}}}`:                          "fits no known layout",
		`{"quant_method":"modelopt","quant_algo":"FP8","quantized_layers":[]}`:                                                          "quantized_layers is an array",
	} {
		if _, err := Open(foreignFolder(t, config, fp8, nil)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", config, err, want)
		}
	}
	mustOpen(t, foreignFolder(t, `{"quant_method":"quark","layer_quant_config":null,"global_quant_config":{"weight":[{"qscheme":"per_channel","ch_axis":0}]}}`, fp8, nil))
	for _, config := range []string{`{"quant_method":"compressed-tensors","transform_config":{},"sparsity_config":{"format":"dense"},"config_groups":{"a":{"targets":["Linear"]}}}`,
		`{"quant_method":"compressed-tensors","config_groups":{"a":{"targets":["b"],"input_activations":null}}}`, `{"quant_method":"auto-round","rotation_config":null,"packing_format":"auto_round:llm_compressor"}`,
		`{"quant_method":"quark","algo_config":[{"name":"rotation","r1":true,"r2":true,"r3":true,"r4":false}]}`} {
		mustOpen(t, foreignFolder(t, config, w, nil))
	}
}

// TestSideConfig: ModelOpt's hf_quant_config.json counts where config.json says nothing.
func TestSideConfig(t *testing.T) {
	w := []NamedTensor{
		{Name: "a.weight", DType: "F8_E4M3", Shape: []int64{2, 4}, Data: make([]byte, 8)},
		{Name: "a.weight_scale", DType: "F32", Data: []byte{0, 0, 128, 63}},
		{Name: "a.input_scale", DType: "F32", Data: []byte{0, 0, 128, 63}},
	}
	dir := foreignFolder(t, "null", w, nil)
	for text, want := range map[string]string{
		`{"quantization":{"quant_algo":"FP8","exclude_modules":["lm_head"]}}`: "",
		`{"quant_algo":"FP8"}`:                       "",
		`{"quantization":{"quant_algo":"W4A8_AWQ"}}`: `as ModelOpt's "W4A8_AWQ" has it`,
		`{"quantization":{"exclude_modules":[]}}`:    "not said: quant_algo is missing",
		`{"quantization":{"quant_algo":"MIXED_PRECISION","quantized_layers":{"a":{"quant_algo":"FP8"}}}}`: "",
		`{"quantization":{"quant_algo":"MIXED_PRECISION","quantized_layers":{"b":{"quant_algo":"FP8"}}}}`: `as ModelOpt's "MIXED_PRECISION" has it`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "hf_quant_config.json"), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		x := find(t, mustOpen(t, dir), "a.weight")
		if (x.Act == ActFP8) != (want == "") || x.Unrounded != want {
			t.Errorf("%s: %v, %q", text, x.Act, x.Unrounded)
		}
	}
}
