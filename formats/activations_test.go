package formats

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestActivations: the rounding of inputs is read from llm-compressor's folders
// and written in its words, key by key; scales measured beforehand are read with it.
func TestActivations(t *testing.T) {
	dir := testdir.Shared(t, "golden/quant")
	r := mustOpen(t, dir+"/ct-w8a8-int8")
	plan := copyPlan(r)
	for i, x := range r.Tensors() {
		want := dtype.Type{}
		if x.Type.Quantized() {
			want = ActInt8
		}
		if x.Act != want {
			t.Errorf("%s: inputs are rounded to %v, want %v", x.Name, x.Act, want)
		}
		plan[i].Act = x.Act
	}
	for _, x := range mustOpen(t, dir+"/ct-fp8-static").Tensors() {
		scale, zero, left, err := x.InputGrid()
		if measured := len(x.Parts) > 1; (x.Act == ActFP8) != measured || (scale > 0) != measured || zero != 0 || x.Unrounded+left != "" || err != nil {
			t.Errorf("%s: inputs are rounded to %v on %v, %q, %v", x.Name, x.Act, scale, x.Unrounded+left, err)
		}
	}
	q := must(quantizationConfig(FolderOptions{Config: r.Config(), Plan: plan, Layout: CompressedTensors, Head: "lm_head"}))
	var got map[string]any
	var want struct {
		Q map[string]any `json:"quantization_config"`
	}
	if err := unmarshalNumbers(must(q.MarshalJSON()), &got); err != nil {
		t.Fatal(err)
	}
	if err := unmarshalNumbers(r.Config(), &want); err != nil {
		t.Fatal(err)
	}
	if got["format"] != want.Q["format"] {
		t.Errorf("format %v, want %v", got["format"], want.Q["format"])
	}
	a, b := got["config_groups"].(map[string]any)["group_0"].(map[string]any), want.Q["config_groups"].(map[string]any)["group_0"].(map[string]any)
	for _, part := range []string{"format", "targets", "output_activations", "input_activations", "weights"} {
		x, isMap := a[part].(map[string]any)
		if !isMap {
			if !reflect.DeepEqual(a[part], b[part]) {
				t.Errorf("%s: %v, want %v", part, a[part], b[part])
			}
			continue
		}
		for key, v := range x {
			if key != "observer" && !reflect.DeepEqual(v, b[part].(map[string]any)[key]) {
				t.Errorf("%s.%s: %v, want %v", part, key, v, b[part].(map[string]any)[key])
			}
		}
	}
}

// TestActivationsOfFP8: what configurations of FP8 say of a layer with 256 inputs.
func TestActivationsOfFP8(t *testing.T) {
	const ct = `{"config_groups":{"g":{"targets":["Linear"],"input_activations":%s}}}`
	quark := func(inputs string) string {
		return `{"quant_method":"quark","global_quant_config":{"weight":{"dtype":"fp8_e4m3"},"output_tensors":null,"input_tensors":{` + inputs + `}},"layer_quant_config":{},"layer_type_quant_config":{}}`
	}
	for _, c := range []struct {
		config string
		want   dtype.Type
		left   string
	}{
		{`{"quant_method":"fp8","activation_scheme":"dynamic","weight_block_size":[128,128]}`, dtype.Type{Kind: dtype.F8E4M3, Group: 128}, ""},
		{`{"quant_method":"fp8","activation_scheme":"dynamic"}`, ActFP8, ""},
		{`{"quant_method":"fp8","activation_scheme":"static"}`, dtype.Type{}, "8-bit float, static, scales measured beforehand"},
		{`{"quant_method":"fp8","activation_scheme":"dynamic","weight_block_size":[96,96]}`, dtype.Type{}, "8-bit float, groups of 96 that do not divide 256 columns"},
		{`{"quant_method":"fp8","weight_block_size":[128,128]}`, dtype.Type{Kind: dtype.F8E4M3, Group: 128}, ""},
		{`{"quant_method":"fp8","weight_block_size":[128,128],"scale_fmt":"float"}`, dtype.Type{Kind: dtype.F8E4M3, Group: 128}, ""},
		{`{"quant_method":"fp8","activation_scheme":"dynamic","fmt":"e4m3","scale_fmt":"ue8m0","weight_block_size":[128,128]}`, dtype.Type{}, "8-bit float, dynamic, scales rounded up to powers of two"},
		{`{"quant_method":"fp8","scale_fmt":"e5m3","weight_block_size":[128,128]}`, dtype.Type{}, `8-bit float, dynamic, scales of type "e5m3"`},
		{`{"quant_method":"gptq"}`, dtype.Type{}, ""},
		{`{"quant_method":"gptq","activation_scheme":"dynamic"}`, dtype.Type{}, ""},
		{fmt.Sprintf(ct, `{"num_bits":8,"type":"float","dynamic":true,"symmetric":true,"strategy":"group","group_size":128}`), dtype.Type{Kind: dtype.F8E4M3, Group: 128}, ""},
		{fmt.Sprintf(ct, `{"num_bits":8,"type":"int","dynamic":true,"symmetric":false,"strategy":"token"}`), dtype.Type{Kind: dtype.Int8, Group: -1, Flags: dtype.Zero}, ""},
		{fmt.Sprintf(ct, `{"num_bits":4,"type":"int","dynamic":true,"strategy":"token"}`), dtype.Type{Kind: dtype.Int4, Group: -1}, ""},
		{fmt.Sprintf(ct, `{"num_bits":8,"type":"int","dynamic":true,"strategy":"group","group_size":64}`), dtype.Type{Kind: dtype.Int8, Group: 64}, ""},
		{fmt.Sprintf(ct, `{"num_bits":8,"type":"int","dynamic":true,"strategy":"group","group_size":96}`), dtype.Type{}, "8-bit int, by group"},
		{fmt.Sprintf(ct, `{"num_bits":8,"type":"float","dynamic":true,"symmetric":false,"strategy":"token"}`), dtype.Type{}, "8-bit float, by token, asymmetric"},
		{fmt.Sprintf(ct, `{"num_bits":6,"type":"int","dynamic":true,"strategy":"token"}`), dtype.Type{}, "6-bit int, by token"},
		{fmt.Sprintf(ct, `{"num_bits":4,"type":"float","dynamic":"local","symmetric":true,"strategy":"tensor_group","group_size":16}`), dtype.Type{}, "4-bit float, by tensor_group"},
		// defaults of compressed-tensors' QuantizationArgs
		{fmt.Sprintf(ct, `{"num_bits":8,"type":"int","dynamic":true,"strategy":"token"}`), ActInt8, ""},
		{fmt.Sprintf(ct, `{"dynamic":true,"strategy":"token"}`), ActInt8, ""},
		{fmt.Sprintf(ct, `{"type":"float","dynamic":true,"group_size":128}`), dtype.Type{Kind: dtype.F8E4M3, Group: 128}, ""},
		{fmt.Sprintf(ct, `{"type":"float","dynamic":true}`), dtype.Type{Kind: dtype.F8E4M3, Group: dtype.AllRows}, ""},
		{fmt.Sprintf(ct, `{"num_bits":8,"type":"int","dynamic":true,"symmetric":false,"strategy":"tensor"}`), dtype.Type{Kind: dtype.Int8, Group: dtype.AllRows, Flags: dtype.Zero}, ""},
		{fmt.Sprintf(ct, `{"type":"float"}`), dtype.Type{}, "8-bit float, by tensor, scales measured beforehand"},
		{fmt.Sprintf(ct, `{"num_bits":4,"type":"float","dynamic":true,"group_size":32}`), dtype.Type{}, "4-bit float, by group"},
		{fmt.Sprintf(ct, `{"type":"float","dynamic":true,"strategy":"group","group_size":32,"scale_dtype":"torch.uint8"}`), dtype.Type{}, "8-bit float, by group, scales of type uint8"},
		{fmt.Sprintf(ct, `{"type":"float","dynamic":true,"strategy":"token","scale_dtype":"torch.bfloat16"}`), ActFP8, ""},
		{fmt.Sprintf(ct, `null`), dtype.Type{}, ""},
		{fmt.Sprintf(ct, `{"dynamic":true,"strategy":"token"},"output_activations":{}`), dtype.Type{}, "8-bit int, by token, and the outputs"},
		{fmt.Sprintf(ct, `null,"output_activations":{}`), dtype.Type{}, "not those, but the outputs"},
		{`{"quant_method":"quark","global_quant_config":{"weight":{"dtype":"fp4"},"input_tensors":null},"layer_quant_config":{}}`, dtype.Type{}, ""},
		{`{"quant_method":"quark","global_quant_config":{"input_tensors":{}},"layer_quant_config":{"*q":{"weight":{"dtype":"fp8_e4m3"}}}}`, dtype.Type{}, ""},
		{`{"quant_method":"quark","global_quant_config":{"input_tensors":{"dtype":"fp4"}}}`, dtype.Type{}, "as Quark's configuration has it"},
		{`{"quant_method":"quark","layer_quant_config":{"*q":{"input_tensors":{"dtype":"fp4"}}}}`, dtype.Type{}, "as Quark's configuration has it"},
		{`{"quant_method":"quark","layer_type_quant_config":{"Linear":{"input_tensors":[{"dtype":"fp4"}]}}}`, dtype.Type{}, "as Quark's configuration has it"},
		{quark(`"dtype":"fp8_e4m3","is_dynamic":false,"qscheme":"per_tensor"`), ActFP8, ""},
		{quark(`"dtype":"int8","is_dynamic":false,"qscheme":"per_tensor","symmetric":true`), ActInt8, ""},
		{quark(`"dtype":"fp8_e4m3","is_dynamic":true,"qscheme":"per_channel","ch_axis":1`), ActFP8, ""},
		{quark(`"dtype":"fp8_e4m3","is_dynamic":true,"qscheme":"per_tensor"`), dtype.Type{Kind: dtype.F8E4M3, Group: dtype.AllRows}, ""},
		{quark(`"dtype":"fp8_e4m3","is_dynamic":false,"qscheme":"per_channel"`), dtype.Type{}, "as Quark's configuration has it"},
		{quark(`"dtype":"fp8_e4m3","is_dynamic":true,"qscheme":"per_group","group_size":32`), dtype.Type{}, "as Quark's configuration has it"},
		{quark(`"dtype":"fp8_e4m3","is_dynamic":true,"qscheme":"per_channel","scale_type":"float16"`), dtype.Type{}, "as Quark's configuration has it"},
		{quark(`"dtype":"int8","is_dynamic":true,"qscheme":"per_channel","symmetric":false`), dtype.Type{}, "as Quark's configuration has it"},
		{`{"quant_method":"modelopt","quant_algo":"MIXED_PRECISION","quantized_layers":{"model.layers.0.mlp.up_proj":{"quant_algo":"FP8_PER_CHANNEL_PER_TOKEN"}},
			"config_groups":{"g":{"targets":["model.layers.0.mlp.up_proj"],"input_activations":{"dynamic":false,"num_bits":8,"type":"float"}}}}`, ActFP8, ""},
		{`{"quant_method":"modelopt","quant_algo":"NVFP4","config_groups":{"g":{"targets":["Linear"],"input_activations":{"dynamic":false,"num_bits":4,"type":"float","group_size":16}}}}`, dtype.Type{}, "4-bit float, by group, scales measured beforehand"},
		{`{"quant_method":"auto-round","bits":4,"act_bits":8,"act_data_type":"fp"}`, dtype.Type{}, "8-bit fp of AutoRound"},
		{`{"quant_method":"auto-round","bits":4,"act_bits":16}`, dtype.Type{}, ""},
	} {
		o, err := parseObject("config", []byte(c.config))
		if err != nil {
			t.Fatal(err)
		}
		const module = "model.layers.0.mlp.up_proj"
		g := &grouper{config: o, by: map[string]*array{}}
		if strings.Contains(c.config, `"quark"`) {
			g.by[module+".input_scale"] = &array{dtype: "F32"}
		}
		if got, _, left, err := g.activations(module, 256); err != nil || got != c.want || left != c.left {
			t.Errorf("%s: %v, %q, %v", c.config, got, left, err)
		}
	}
	for _, config := range []string{`{"quant_method":"auto-round","act_bits":"few"}`, `{"quant_method":"auto-round","extra_config":{"(":{"act_bits":8}}}`, `{"quant_method":"fp8","weight_block_size":[0,128]}`} {
		g := &grouper{config: must(parseObject("config", []byte(config)))}
		if _, _, left, err := g.activations("model.q", 256); err == nil || left != "" {
			t.Errorf("%s: %q, %v", config, left, err)
		}
	}
}

// TestActivationsOfMXFP8: a weight of MXFP8 among those of blocks has groups of 32, not the
// columns of a block.
func TestActivationsOfMXFP8(t *testing.T) {
	o, err := parseObject("config", []byte(`{"quant_method":"fp8","activation_scheme":"dynamic","weight_block_size":[128,128]}`))
	if err != nil {
		t.Fatal(err)
	}
	g := &grouper{config: o, by: map[string]*array{"a.weight_scale_inv": {dtype: "U8"}, "b.weight_scale_inv": {dtype: "F32"}}}
	for module, want := range map[string]string{"a": "8-bit float, dynamic, by groups of 32, scales powers of two", "b": ""} {
		if typ, _, left, err := g.activations(module, 256); err != nil || left != want || (typ == dtype.Type{}) != (want != "") {
			t.Errorf("%s: %v, %q, %v", module, typ, left, err)
		}
	}
}
