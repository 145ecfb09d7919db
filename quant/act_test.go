package quant

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// runActs are the logits of a model with and without the rounding of its
// activations.
func runActs(t *testing.T, src *arch.Source, ids []int32, act dtype.Type) (with, without []float32) {
	t.Helper()
	dev := cpu.New(cpu.Options{})
	m, err := model.Load(dev, src, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	run := func() []float32 {
		tape := &autograd.Tape{Dev: dev}
		defer tape.Free()
		v, err := tape.Values(m.Logits(tape, m.Hidden(tape, model.Pack(ids))))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	with = run()
	for l := range m.Linears() {
		if l.Act != act {
			t.Errorf("%s rounds its inputs to %v", l.Path, l.Act)
		}
		l.Act, l.Grid = dtype.Type{}, kernels.Grid{}
	}
	return with, run()
}

// TestActivations: a W8A8 folder of llm-compressor gives the logits that its own
// consumer (Transformers and compressed-tensors) computed with rounded
// activations, which differ from those of its weights alone; and a folder that is
// written here rounds them, too.
func TestActivations(t *testing.T) {
	dir := testdir.Shared(t, "golden/quant/ct-w8a8-int8")
	want := readLayers(t, filepath.Join(dir, "expected.safetensors"))
	ids := idsOf(want)
	with, without := runActs(t, openSource(t, dir), ids, formats.ActInt8)
	golden, plain := want["logits_consumer"].values, want["logits_f32_dequant"].values
	off := func(a, b []float32) float64 { return distance(a, b) / dot(b, b) }
	t.Logf("rounded: %.2e; not rounded: %.2e; the references differ by %.2e", off(with, golden), off(without, plain), off(golden, plain))
	if off(without, plain) > 1e-8 || off(with, golden) > off(golden, plain)/20 {
		t.Errorf("relative errors %g and %g", off(with, golden), off(without, plain))
	}
	src := openSource(t, testdir.Shared(t, "golden/quant/orig"))
	cal := text(5, 8, 64, src.Spec.V)
	whole := logits(t, src, ids)
	for _, c := range []struct {
		method, scheme string
		act            dtype.Type
	}{{"rtn", "W8A8", formats.ActInt8}, {"gptq", "W8A8", formats.ActInt8}, {"rtn", "FP8_DYNAMIC", formats.ActFP8}} {
		path := filepath.Join(t.TempDir(), "out")
		rep := folder(t, src, cal, FolderJob{Path: path, Method: c.method, Scheme: c.scheme})[0]
		with, without := runActs(t, openSource(t, path), ids, c.act)
		t.Logf("%s %s: %.2e, with rounded activations %.2e; %s", c.method, c.scheme, off(without, whole), off(with, whole), rep.Type)
		if !(off(without, whole) > 0 && off(without, whole) < off(with, whole) && off(with, whole) < 0.02) {
			t.Errorf("%s %s: relative errors %g and %g", c.method, c.scheme, off(without, whole), off(with, whole))
		}
	}
}

// TestMeasuredActivations: inputs rounded on scales that were measured beforehand give the logits of the consumer, too.
func TestMeasuredActivations(t *testing.T) {
	dir := testdir.Shared(t, "golden/quant/ct-fp8-static")
	want := readLayers(t, filepath.Join(dir, "expected.safetensors"))
	with, without := runActs(t, openSource(t, dir), idsOf(want), formats.ActFP8)
	golden, plain := want["logits_consumer"].values, want["logits_f32_dequant"].values
	off := func(a, b []float32) float64 { return distance(a, b) / dot(b, b) }
	t.Logf("rounded: %.2e; not rounded: %.2e; the references differ by %.2e", off(with, golden), off(without, plain), off(golden, plain))
	if off(without, plain) > 1e-8 || off(with, golden) > off(golden, plain)/20 {
		t.Errorf("relative errors %g and %g", off(with, golden), off(without, plain))
	}
	again, _ := runActs(t, openSource(t, asFP8(t, dir)), idsOf(want), formats.ActFP8)
	if !slices.Equal(again, with) {
		t.Errorf("as the method fp8 has it: relative error %g", off(again, with))
	}
}

// asFP8 is a folder of compressed-tensors as Transformers' method fp8 with activation_scheme static (Mistral) has it.
func asFP8(t *testing.T, dir string) string {
	t.Helper()
	out := t.TempDir()
	var c map[string]any
	if err := json.Unmarshal(testdir.ReadFile(t, filepath.Join(dir, "config.json")), &c); err != nil {
		t.Fatal(err)
	}
	c["quantization_config"] = map[string]any{"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": nil, "modules_to_not_convert": []string{"lm_head"}}
	raw, err := json.Marshal(c)
	if err == nil {
		err = os.WriteFile(filepath.Join(out, "config.json"), raw, 0o666)
	}
	tensors, meta, e := formats.ReadSafetensors(filepath.Join(dir, "model.safetensors"))
	for i := range tensors {
		x := &tensors[i]
		for old, name := range map[string]string{".weight_scale": ".weight_scale_inv", ".input_scale": ".activation_scale"} {
			if module, ok := strings.CutSuffix(x.Name, old); ok {
				x.Name, x.Shape = module+name, nil
			}
		}
	}
	if err = errors.Join(err, e, formats.WriteSafetensors(filepath.Join(out, "model.safetensors"), tensors, meta)); err != nil {
		t.Fatal(err)
	}
	return out
}

func idsOf(f layerFile) (ids []int32) {
	for _, v := range f["ids"].values {
		ids = append(ids, int32(v))
	}
	return ids
}

// TestActivationGrids: the first eight logits behind the last token of the W8A8 folder with other input_activations, by
// Transformers 5.24 and compressed-tensors 0.20.1 (AutoModelForCausalLM, dtype float32). Symmetric scales of the row itself are not
// among them: the largest magnitude lies between two codes, and the last bit of the row decides.
func TestActivationGrids(t *testing.T) {
	dir := testdir.Shared(t, "golden/quant/ct-w8a8-int8")
	ids := idsOf(readLayers(t, filepath.Join(dir, "expected.safetensors")))
	for _, c := range []struct {
		name   string
		change map[string]any
		scale  float32 // of every input; 0: the row's own
		zero   int8
		want   []float32
	}{
		{"int8 asymmetric", map[string]any{"symmetric": false}, 0, 0, []float32{-58.11, 20.415, -32.885, -10.043, 10.054, 21.405, -38.573, -59.628}},
		{"int4 asymmetric", map[string]any{"symmetric": false, "num_bits": 4}, 0, 0, []float32{-52.636, 25.754, -34.647, -7.671, 20.002, 15.157, -34.245, -67.853}},
		{"int8 measured", map[string]any{"dynamic": false, "strategy": "tensor"}, 0.02, 0, []float32{-79.976, 22.378, -28.094, -17.899, 39.776, 49.724, -47.916, -71.882}},
		{"int8 measured asymmetric", map[string]any{"dynamic": false, "strategy": "tensor", "symmetric": false}, 0.02, -20, []float32{-83.419, 24.435, -28.04, -16.493, 41.75, 49.972, -47.233, -71.825}},
		{"int4 measured", map[string]any{"dynamic": false, "strategy": "tensor", "num_bits": 4}, 0.2, 0, []float32{-83.178, 17.066, -27.375, -27.353, 62.771, 54.609, -42.065, -91.652}},
		{"int8 of all tokens, asymmetric", map[string]any{"strategy": "tensor", "symmetric": false}, 0, 0, []float32{-58.41, 21.653, -33.476, -8.7531, 8.0923, 21.319, -38.875, -57.651}},
		{"int4 of all tokens, asymmetric", map[string]any{"strategy": "tensor", "symmetric": false, "num_bits": 4}, 0, 0, []float32{-46.568, 24.853, -27.704, 3.801, -11.763, 6.7273, -29.638, -31.368}},
		{"float8 of all tokens", map[string]any{"strategy": "tensor", "type": "float"}, 0, 0, []float32{-58.546, 22.834, -34.313, -7.6366, 9.7671, 21.452, -38.616, -59.88}},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := openSource(t, withInputs(t, dir, c.change, c.scale, c.zero))
			dev := cpu.New(cpu.Options{})
			m, err := model.Load(dev, src, model.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			tape := &autograd.Tape{Dev: dev}
			defer tape.Free()
			all, err := tape.Values(m.Logits(tape, m.Hidden(tape, model.Pack(ids))))
			if err != nil {
				t.Fatal(err)
			}
			got := all[len(all)-src.Spec.V:][:len(c.want)]
			for i, v := range got {
				if d := v - c.want[i]; d > 2e-3 || d < -2e-3 {
					t.Fatalf("logits %v, want %v", got, c.want)
				}
			}
		})
	}
	for _, c := range []struct {
		typ  string
		bad  []byte
		want string
	}{
		{"F32", kernels.Bytes([]float32{-1}), "a scale measured beforehand that is -1"}, {"F32", make([]byte, 4), "a scale measured beforehand that is 0"},
		{"F32", kernels.Bytes([]float32{float32(math.NaN())}), "a scale measured beforehand that is NaN"}, {"F64", make([]byte, 8), "a scale measured beforehand of type F64"},
	} {
		src := openSource(t, withScale(t, dir, map[string]any{"dynamic": false, "strategy": "tensor"}, formats.NamedTensor{DType: c.typ, Shape: []int64{1}, Data: c.bad}, 0))
		if x := src.At(0, arch.Up); x.Unrounded != c.want || x.Act != (dtype.Type{}) || x.Grid != (kernels.Grid{}) {
			t.Errorf("%s %v: inputs are rounded to %v on %v, %q, want %q", c.typ, c.bad, x.Act, x.Grid, x.Unrounded, c.want)
		}
	}
}

// withInputs is a copy of a folder with other input_activations, and a scale and a zero point for every module; none for 0.
func withInputs(t *testing.T, dir string, change map[string]any, scale float32, zero int8) string {
	t.Helper()
	x := formats.NamedTensor{}
	if scale != 0 {
		x = formats.NamedTensor{DType: "F32", Shape: []int64{1}, Data: kernels.Bytes([]float32{scale})}
	}
	return withScale(t, dir, change, x, zero)
}

// withScale is withInputs with a scale of any type.
func withScale(t *testing.T, dir string, change map[string]any, scale formats.NamedTensor, zero int8) string {
	t.Helper()
	out := t.TempDir()
	var c map[string]any
	if err := json.Unmarshal(testdir.ReadFile(t, filepath.Join(dir, "config.json")), &c); err != nil {
		t.Fatal(err)
	}
	group := c["quantization_config"].(map[string]any)["config_groups"].(map[string]any)["group_0"].(map[string]any)
	maps.Copy(group["input_activations"].(map[string]any), change)
	raw, err := json.Marshal(c)
	if err == nil {
		err = os.WriteFile(filepath.Join(out, "config.json"), raw, 0o666)
	}
	tensors, meta, e := formats.ReadSafetensors(filepath.Join(dir, "model.safetensors"))
	for _, x := range slices.Clone(tensors) {
		if module, ok := strings.CutSuffix(x.Name, ".weight_scale"); ok && scale.DType != "" {
			scale.Name = module + ".input_scale"
			tensors = append(tensors, scale, formats.NamedTensor{Name: module + ".input_zero_point", DType: "I8", Shape: []int64{1}, Data: []byte{byte(zero)}})
		}
	}
	if err = errors.Join(err, e, formats.WriteSafetensors(filepath.Join(out, "model.safetensors"), tensors, meta)); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestTiles: a folder of blocks of 8-bit floats holds what block.EncodeTiles makes of the weights, and with rounded inputs gives
// nearly the model's logits; both layouts, whose scales are F32 here, give the same.
func TestTiles(t *testing.T) {
	src := openSource(t, testdir.Shared(t, "golden/quant/orig"))
	ids := idsOf(readLayers(t, testdir.Shared(t, "golden/quant/ct-w8a8-int8/expected.safetensors")))
	whole := logits(t, src, ids)
	keep, both := dtype.F32, [][]float32{}
	for _, format := range []string{formats.FP8, formats.CompressedTensors} {
		t.Run(format, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			folder(t, src, nil, FolderJob{Path: path, Method: "rtn", Scheme: "FP8_BLOCK", Format: format, Keep: &keep})
			made := openSource(t, path)
			checkTiles(t, src, made)
			with, without := runActs(t, made, ids, formats.ActFP8Block)
			off := func(a, b []float32) float64 { return distance(a, b) / dot(b, b) }
			t.Logf("%.2e, with rounded activations %.2e", off(without, whole), off(with, whole))
			if !(off(without, whole) > 0 && off(without, whole) < off(with, whole) && off(with, whole) < 0.02) {
				t.Errorf("relative errors %g and %g", off(without, whole), off(with, whole))
			}
			both = append(both, with)
		})
	}
	if len(both) == 2 && !slices.Equal(both[0], both[1]) {
		t.Error("the two layouts differ")
	}
}

// checkTiles compares the quantized weights of made, in blocks, with those of src.
func checkTiles(t *testing.T, src, made *arch.Source) {
	t.Helper()
	quantized := 0
	for _, x := range made.Reader.Tensors() {
		if !x.Type.Quantized() {
			continue
		}
		all := src.Reader.Tensors()
		i := slices.IndexFunc(all, func(o formats.Tensor) bool { return o.Name == x.Name })
		plain, err := src.Reader.Read(&all[i])
		got, e := made.Reader.Read(&x)
		if err = errors.Join(err, e); err != nil {
			t.Fatal(err)
		}
		n := x.Rows() * x.Cols()
		was, now, want := make([]float32, n), make([]float32, n), make([]float32, n)
		block.DecodeAll(was, block.Raw{Type: all[i].Type, Rows: x.Rows(), Cols: x.Cols(), Data: plain})
		block.DecodeAll(now, block.Raw{Type: x.Type, Rows: x.Rows(), Cols: x.Cols(), Data: got})
		m := block.New(dtype.Type{Kind: dtype.F8E4M3, Group: block.FloatRows}, x.Rows(), x.Cols())
		if err := block.EncodeTiles(m, was); err != nil {
			t.Fatal(err)
		}
		if block.DecodeAll(want, m); !slices.Equal(now, want) {
			t.Errorf("%s: %v decodes to other values", x.Name, x.Type)
		}
		quantized++
	}
	if quantized == 0 {
		t.Error("nothing is quantized")
	}
}

// TestTilesCut: rows need not fill the last block, columns must; who takes blocks for equally high does not load the folder.
func TestTilesCut(t *testing.T) {
	src := tiny(t, shape{c: 128, v: 64, layers: 1, h: 4, k: 1, d: 64, f: 384})
	for _, format := range []string{formats.FP8, formats.CompressedTensors} {
		job := FolderJob{Path: filepath.Join(t.TempDir(), "out"), Method: "rtn", Scheme: "FP8_BLOCK", Format: format, For: []string{"vllm"}}
		_, err := PlanFolder(src, job)
		usage(t, format, err, "ignore", "no multiple of 128")
		keep := dtype.F32
		job.For, job.Keep = []string{}, &keep
		folder(t, src, nil, job)
		checkTiles(t, src, openSource(t, job.Path))
	}
	_, err := PlanFolder(src, FolderJob{Path: "out", Method: "rtn", Scheme: "FP8_BLOCK", Format: formats.FP8, For: []string{"transformers"}})
	usage(t, "transformers", err, "ignore", "equal height")
	job := FolderJob{Path: "out", Method: "rtn", Scheme: "FP8_BLOCK", Format: formats.FP8, For: []string{}}
	_, err = PlanFolder(tiny(t, small), job)
	usage(t, "columns", err, "ignore", "multiple of 128")
	job.Scheme = "FP8_DYNAMIC"
	_, err = PlanFolder(src, job)
	usage(t, "another scheme", err, "format", "FP8_BLOCK")
}
