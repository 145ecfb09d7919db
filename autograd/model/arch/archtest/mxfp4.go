package archtest

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/kernels/block"
)

// fp4 are the values of 4-bit floats E2M1 by code (OCP Microscaling Formats 1.0,
// section 5.3.3).
var fp4 = [16]float64{0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6}

// MXFP4 writes one model twice, made of the reference case gpt-oss in the folder
// golden: into packed as gpt-oss is released, its experts in 4 bits, and into plain as
// Transformers lays out the values of those. Its width is 64 in place of the case's 48,
// which blocks of 32 do not divide; its values are the case's, in turn.
func MXFP4(golden, packed, plain string) error {
	list, _, err := formats.ReadSafetensors(filepath.Join(golden, "model.safetensors"))
	if err != nil {
		return err
	}
	var small, large []formats.NamedTensor
	for _, t := range list {
		t.Shape = slices.Clone(t.Shape)
		n := int64(2)
		for i, d := range t.Shape {
			if d == 48 {
				t.Shape[i] = 64
			}
			n *= t.Shape[i]
		}
		values := t.Data
		for int64(len(t.Data)) < n {
			t.Data = append(t.Data[:len(t.Data):len(t.Data)], values...)
		}
		t.Data = t.Data[:n]
		if len(t.Shape) != 3 {
			small, large = append(small, t), append(large, t)
			continue
		}
		parts, whole := packExperts(t)
		small, large = append(small, parts...), append(large, whole)
	}
	if err := writeFolder(golden, plain, nil, large); err != nil {
		return err
	}
	kept := []string{"model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"}
	return writeFolder(golden, packed, map[string]any{"modules_to_not_convert": kept, "quant_method": "mxfp4"}, small)
}

// packExperts makes of a parameter [experts, in, out] codes and scales of [experts,
// out, in], and the parameter with their values in float32.
func packExperts(t formats.NamedTensor) (parts []formats.NamedTensor, whole formats.NamedTensor) {
	experts, in, out := t.Shape[0], int(t.Shape[1]), int(t.Shape[2])
	x := make([]float32, len(t.Data)/2)
	block.GetBF16(x, t.Data)
	codes := make([]byte, len(x)/2)
	scales := make([]byte, len(x)/32)
	for e := range int(experts) {
		for row := range out {
			for from := 0; from < in; from += 32 {
				at := func(i int) *float32 { return &x[(e*in+from+i)*out+row] }
				largest := 0.0
				for i := range 32 {
					largest = math.Max(largest, math.Abs(float64(*at(i))))
				}
				first := (e*out+row)*in + from
				exponent := int(math.Floor(math.Log2(largest))) - 2
				scales[first/32] = byte(exponent + 127)
				for i := range 32 {
					code := nearestFP4(math.Ldexp(float64(*at(i)), -exponent))
					codes[(first+i)/2] |= byte(code) << (4 * (i % 2))
					*at(i) = float32(math.Ldexp(fp4[code], exponent))
				}
			}
		}
	}
	shape := []int64{experts, int64(out), int64(in / 32), 16}
	whole = formats.NamedTensor{Name: t.Name, DType: "F32", Shape: t.Shape, Data: make([]byte, 4*len(x))}
	block.PutF32(whole.Data, x)
	return []formats.NamedTensor{{Name: t.Name + "_blocks", DType: "U8", Shape: shape, Data: codes}, {Name: t.Name + "_scales", DType: "U8", Shape: shape[:3], Data: scales}}, whole
}

// nearestFP4 is the code of the value nearest to x.
func nearestFP4(x float64) int {
	best := 0
	for code, v := range fp4 {
		if math.Abs(v-x) < math.Abs(fp4[best]-x) {
			best = code
		}
	}
	return best
}

// writeFolder writes tensors and the config.json of golden with the width above.
func writeFolder(golden, dir string, quantization map[string]any, list []formats.NamedTensor) error {
	raw, err := os.ReadFile(filepath.Join(golden, "config.json"))
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(raw, &config); err != nil {
		return err
	}
	if config["hidden_size"] = 64; quantization != nil {
		config["quantization_config"] = quantization
	}
	if raw, err = json.Marshal(config); err != nil {
		return err
	}
	if err := atomic.MkdirAll(dir); err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b formats.NamedTensor) int { return strings.Compare(a.Name, b.Name) })
	if err := formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), list, nil); err != nil {
		return err
	}
	return atomic.WriteFile(filepath.Join(dir, "config.json"), raw)
}
