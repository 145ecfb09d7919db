package formats

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

func aoCases(t testing.TB) map[string]storedCase { return storedCases(t, "testdata/torchao") }

// TestTorchAO: weights of torchao and HQQ are what those programs decode, bit for bit.
func TestTorchAO(t *testing.T) {
	for name, c := range aoCases(t) {
		t.Run(name, func(t *testing.T) {
			x := c.check(t)
			if x.Name != "model.layers.0.q.weight" {
				t.Errorf("it is called %s", x.Name)
			}
			if len(x.Parts) != len(c.arrays) {
				t.Errorf("%d parts of %d arrays", len(x.Parts), len(c.arrays))
			}
		})
	}
}

// TestTorchAOTypes: codes stay packed where scales multiply them and zero points are
// integers, and inputs are rounded as the weight says, or it is said that they are not.
func TestTorchAOTypes(t *testing.T) {
	cases := aoCases(t)
	asym := dtype.Type{Kind: dtype.Int8, Group: -1, Flags: dtype.Zero}
	for name, want := range map[string]struct {
		typ, act dtype.Type
		left     string
	}{
		"int8-group":         {typ: dtype.Type{Kind: dtype.Int8, Group: 32, Scale: dtype.F32, Flags: dtype.Zero}},
		"int8-token":         {typ: dtype.Type{Kind: dtype.Int8, Group: -1, Scale: dtype.F32, Flags: dtype.Zero}, act: ActInt8},
		"int8-token-asym":    {typ: dtype.Type{Kind: dtype.Int8, Group: -1, Scale: dtype.F32, Flags: dtype.Zero}, act: asym},
		"int8-static":        {typ: dtype.Type{Kind: dtype.Int8, Group: -1, Scale: dtype.F32, Flags: dtype.Zero}, act: ActInt8},
		"int8-per-tensor":    {typ: dtype.Type{Kind: dtype.Int8, Group: -1, Scale: dtype.F32, Flags: dtype.Zero}, act: dtype.Type{Kind: dtype.Int8, Group: dtype.AllRows}},
		"float8-token":       {typ: dtype.Type{Kind: dtype.F8E4M3, Group: -1, Scale: dtype.F32}, act: ActFP8},
		"float8-per-tensor":  {typ: dtype.Type{Kind: dtype.F8E4M3, Group: -1, Scale: dtype.F32}, act: dtype.Type{Kind: dtype.F8E4M3, Group: dtype.AllRows}},
		"intx3-asymmetric":   {typ: dtype.Type{Kind: dtype.Int3, Group: 32, Scale: dtype.BF16, Flags: dtype.Zero}},
		"intx4-axis-token":   {typ: dtype.Type{Kind: dtype.Int4, Group: -1, Scale: dtype.F32, Flags: dtype.Zero}, act: asym},
		"intx5-symmetric":    {typ: dtype.Type{Kind: dtype.Int8, Group: 32, Scale: dtype.BF16, Flags: dtype.Zero}},
		"mx-float8-swizzled": {typ: dtype.Type{Kind: dtype.F8E4M3, Group: 32, Scale: dtype.F8E8M0}, left: "float8_e4m3fn, dynamic, by groups of 32, scales powers of two"},
		"nvfp4":              {typ: dtype.Type{Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3}},
		"int4-tiles":         {typ: dtype.Of(dtype.BF16)},
		"int4-fp8":           {typ: dtype.Of(dtype.BF16), act: ActFP8},
		"intx4-symmetric":    {typ: dtype.Type{Kind: dtype.Int4, Group: 32, Scale: dtype.F32, Flags: dtype.Zero}},
		"hqq-4-axis1":        {typ: dtype.Of(dtype.F16)},
	} {
		x := mustOpen(t, cases[name].folder(t)).Tensors()[0]
		if x.Type != want.typ || x.Act != want.act || x.Unrounded != want.left {
			t.Errorf("%s: %v, %v, %q; want %v, %v, %q", name, x.Type, x.Act, x.Unrounded, want.typ, want.act, want.left)
		}
	}
	// a configuration that maps weights symmetrically, and inputs otherwise, leaves no zero points
	c := cases["intx4-symmetric"]
	c.Config = json.RawMessage(`{"quant_method":"torchao","quant_type":{"default":{"_type":"Int8DynamicActivationIntxWeightConfig","_data":{"act_mapping_type":{"_type":"MappingType","_data":"ASYMMETRIC"},"weight_mapping_type":{"_type":"MappingType","_data":"SYMMETRIC"}}}}}`)
	r := mustOpen(t, c.folder(t))
	x := &r.Tensors()[0]
	if want := (dtype.Type{Kind: dtype.Int4, Group: 32, Scale: dtype.F32}); x.Type != want || sum(values(t, r, x)) != c.SHA256 {
		t.Errorf("symmetric: %v, want %v with the same values", x.Type, want)
	}
}

// TestTorchAORefused: what is damaged, contradicts itself or is not read is told by its name.
func TestTorchAORefused(t *testing.T) {
	const param = "model.layers.0.q.weight"
	cases := aoCases(t)
	meta := func(old, new string) func(*storedCase) {
		return func(c *storedCase) {
			if !strings.Contains(c.Metadata[param], old) {
				t.Fatalf("%s is not in %s", old, c.Metadata[param])
			}
			c.Metadata = map[string]string{param: strings.Replace(c.Metadata[param], old, new, 1)}
		}
	}
	array := func(suffix string, edit func(*NamedTensor)) func(*storedCase) {
		return func(c *storedCase) {
			c.arrays = slices.Clone(c.arrays)
			i := slices.IndexFunc(c.arrays, func(a NamedTensor) bool { return strings.HasSuffix(a.Name, suffix) })
			if edit == nil {
				c.arrays = slices.Delete(c.arrays, i, i+1)
				return
			}
			a := &c.arrays[i]
			a.Data = slices.Clone(a.Data)
			edit(a)
		}
	}
	shape := func(d ...int64) func(*NamedTensor) { return func(a *NamedTensor) { a.Shape = d } }
	first := func(b byte) func(*NamedTensor) { return func(a *NamedTensor) { a.Data[0] = b } }
	config := func(text string) func(*storedCase) { return func(c *storedCase) { c.Config = json.RawMessage(text) } }
	for _, x := range []struct {
		name string
		edit func(*storedCase)
		want string
	}{
		{"int8-group", array("_qdata", nil), `tensor "model.layers.0.q._weight_qdata" is missing`},
		{"int8-group", array("_zero_point", nil), `tensor "model.layers.0.q._weight_zero_point" is missing`},
		{"int8-group", func(c *storedCase) { c.Metadata = nil }, "no entry of __metadata__ says of which"},
		{"int8-group", func(c *storedCase) { c.Metadata = map[string]string{param: `{"_type": "Tensor"}`} }, "no entry of __metadata__ says of which"},
		{"int8-group", func(c *storedCase) { c.Metadata = map[string]string{param: "Int8Tensor"} }, "__metadata__ of tensor"},
		{"int8-group", meta(`"Int8Tensor"`, `"Int4PreshuffledTensor"`), `the class is "Int4PreshuffledTensor"; read are Int8Tensor`},
		{"int8-group", meta(`"Int8Tensor"`, `8`), "_type is 8"},
		{"int8-group", meta(`"_data"`, `"data"`), "_data is null, expected an object"},
		{"int8-group", meta(`"qdata"`, `"codes"`), `without "qdata"`},
		{"int8-group", meta(`"zero_point"`, `"act_pre_scale"`), "act_pre_scale"},
		{"int8-group", meta(`"zero_point", `, ``), `"model.layers.0.q._weight_zero_point" is part of a weight of torchao`},
		{"int8-group", meta(`"zero_point"`, `"act_quant_scale", "zero_point"`), `array "model.layers.0.q._weight_act_quant_scale" is missing`},
		{"int8-group", meta(`[1, 32]`, `[1, 33]`), "block_size is [1 33], which does not divide the shape [16 64]"},
		{"int8-group", meta(`[1, 32]`, `[32]`), "block_size is [32], expected 2 sizes above 0"},
		{"int8-group", meta(`[1, 32]`, `[0, 32]`), "expected 2 sizes above 0"},
		{"int8-group", meta(`[1, 32]`, `[1, 64]`), "has shape [16 2], expected [16 1]"},
		{"int8-group", array("_scale", shape(2, 16)), "has shape [2 16], expected [16 2]"},
		{"int8-group", array("_qdata", shape(16*64)), "fits no known layout"},
		{"float8-row", array("_qdata", func(a *NamedTensor) { a.DType = "F8_E5M2" }), "is F8_E5M2, expected F8_E4M3"},
		{"intx4-symmetric", meta(`"int4"`, `"int9"`), "target_dtype is"},
		{"intx4-symmetric", array("_zero_point", func(a *NamedTensor) { a.DType, a.Data = "F32", make([]byte, 4*len(a.Data)) }), "zero points of type F32 are not read"},
		{"intx4-symmetric", array("_qdata", first(8)), "code 8 of row 0, column 0 is none of 4 bits"},
		{"intx4-asymmetric", array("_zero_point", first(9)), "zero point 9 of row 0, group 0 is none of 4 bits"},
		{"intx4-asymmetric", config(`{"quant_method":"torchao","quant_type":{"default":{"_data":{"mapping_type":{"_data":"SYMMETRIC"}}}}}`), "in a symmetric matrix"},
		{"int4", meta(`[1, 32]`, `[2, 32]`), "expected groups of the columns of a row"},
		{"int4", array("_qdata", shape(32, 16)), "has shape [32 16], expected [16 32]"},
		{"int4-tiles", meta(`"shape": [16, 1024]`, `"shape": [2, 16, 1024]`), "several matrices in one are not read"},
		{"int4-tiles", meta(`"shape": [16, 1024]`, `"shape": [17, 1024]`), "is no matrix of 17×1024"},
		{"int4-tiles", array("_qdata", shape(2, 8, 64, 2)), "expected [rows/8"},
		{"mx-float8", meta(`"float8_e4m3fn"`, `"float6_e2m3fn"`), `elem_dtype is "float6_e2m3fn"`},
		{"mx-float8", meta(`"block_size": 32`, `"block_size": 64`), "block_size is 64, 32 is read"},
		{"mx-float8", meta(`"is_swizzled_scales": false}`, `"is_swizzled_scales": true}`), "expected [64 32]"},
		{"nvfp4", meta(`"is_swizzled_scales": false`, `"is_swizzled_scales": 1`), "is a number, expected true or false"},
		{"hqq-4-axis1", array(".axis", nil), `tensor "model.layers.0.q.axis" is missing`},
		{"hqq-4-axis1", array(".axis", first(2)), "along axis 02 00 00 00"},
		{"hqq-4-axis1", array(".packing", first('6')), `packing "6bit_u8"`},
		{"hqq-4-axis1", array(".view_as_float", first(1)), "is U8, expected F16 or BF16 or F32"},
		{"hqq-4-view", array(".view_as_float", first(0)), "is F16, expected U8"},
		{"hqq-4-axis1", array(".shape", first(17)), "holds no codes of 4 bits of a matrix 17×64"},
		{"hqq-4-axis1", array(".scale", shape(1, 32)), "has shape [1 32], expected [32 1]"},
		{"hqq-4-axis1", config(`{"quant_method":"gptq"}`), `is a weight of HQQ, but quantization_config.quant_method is "gptq"`},
	} {
		c := cases[x.name]
		x.edit(&c)
		dir := c.folder(t)
		_, err := Open(dir)
		if err == nil {
			err = Verify(dir)
		}
		if err == nil || !strings.Contains(err.Error(), x.want) || fail.Code(err) != int(fail.Input) {
			t.Errorf("%s: %v, want %s", x.name, err, x.want)
		}
	}
}

// TestTorchAOShards: shards that each hold all entries are read; ones that contradict each
// other are not.
func TestTorchAOShards(t *testing.T) {
	const param = "model.layers.0.q.weight"
	c := aoCases(t)["int8-row"]
	for _, other := range []string{c.Metadata[param], strings.Replace(c.Metadata[param], "[1, 64]", "[1, 32]", 1)} {
		dir := t.TempDir()
		of := map[string]string{}
		for i, meta := range []map[string]string{c.Metadata, {param: other}} {
			file := []string{"a.safetensors", "b.safetensors"}[i]
			own := [][]NamedTensor{c.arrays[:1], c.arrays[1:]}[i]
			for _, a := range own {
				of[a.Name] = file
			}
			if err := WriteSafetensors(filepath.Join(dir, file), own, meta); err != nil {
				t.Fatal(err)
			}
		}
		index, err := json.Marshal(map[string]any{"weight_map": of})
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"model.safetensors.index.json": string(index), "config.json": `{"quantization_config":{"quant_method":"torchao"}}`} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		r, err := Open(dir)
		if other != c.Metadata[param] {
			if err == nil || !strings.Contains(err.Error(), "of two files says different things of tensor") {
				t.Errorf("contradicting shards: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := sum(values(t, r, &r.Tensors()[0])); got != c.SHA256 {
			t.Error("values differ")
		}
		r.Close()
	}
}
