package formats

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// mxFolder writes codes and scales of one parameter as gpt-oss has them.
func mxFolder(t *testing.T, method string, shape []int64, codes, scales []byte) string {
	t.Helper()
	dir := t.TempDir()
	config := `{"quantization_config": {"quant_method": "` + method + `"}}`
	if method == "" {
		config = `{}`
	}
	err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666)
	if err == nil {
		err = WriteSafetensors(filepath.Join(dir, "model.safetensors"), []NamedTensor{
			{Name: "x.down_proj_blocks", DType: "U8", Shape: shape, Data: codes},
			{Name: "x.down_proj_scales", DType: "U8", Shape: shape[:len(shape)-1], Data: scales},
		}, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestMXFP4Values: every code under scales from the least to one below the largest, by
// the formula of the OCP Microscaling specification 1.0: low nibbles first.
func TestMXFP4Values(t *testing.T) {
	e2m1 := []float64{0, 0.5, 1, 1.5, 2, 3, 4, 6}
	var codes []byte
	for i := range 16 { // code i, then code 15-i
		codes = append(codes, byte(i|(15-i)<<4))
	}
	scales := []byte{0, 1, 2, 126, 127, 128, 200, 252}
	var all []byte
	for range scales {
		all = append(all, codes...)
	}
	r := mustOpen(t, mxFolder(t, "mxfp4", []int64{2, 2, 2, 16}, all, scales))
	ten := find(t, r, "x.down_proj")
	if ten.Type != dtype.Of(dtype.MXFP4) || len(ten.Shape) != 3 || ten.Shape[0] != 2 || ten.Shape[1] != 2 || ten.Shape[2] != 64 {
		t.Fatalf("%v %v", ten.Type, ten.Shape)
	}
	got := make([]float32, ten.Elements())
	block.GetF32(got, values(t, r, ten))
	for i, v := range got {
		code := i % 32 / 2
		if i%2 == 1 {
			code = 15 - code
		}
		want := math.Ldexp(e2m1[code&7], int(scales[i/32])-127)
		if code >= 8 {
			want = -want
		}
		if float64(v) != want {
			t.Errorf("[%d] code %d, scale %d: %g, want %g", i, code, scales[i/32], v, want)
		}
	}
}

// TestMXFP4Golden: layers that llm-compressor packed, in the layout of gpt-oss, have the
// values that its own decoder found.
func TestMXFP4Golden(t *testing.T) {
	dir := testdir.Shared(t, "golden/quant/ct-mxfp4")
	list, _, err := ReadSafetensors(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]NamedTensor{}
	for _, a := range list {
		by[a.Name] = a
	}
	var want struct{ Layers map[string]json.RawMessage }
	b, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err == nil {
		err = json.Unmarshal(b, &want)
	}
	if err != nil || len(want.Layers) == 0 {
		t.Fatal(len(want.Layers), err)
	}
	theirs := mustOpen(t, dir) // TestQuantizedFolders holds it to the values of the other decoder
	for layer := range want.Layers {
		codes, scales := by[layer+".weight_packed"], by[layer+".weight_scale"]
		rows, groups := scales.Shape[0], scales.Shape[1]
		r := mustOpen(t, mxFolder(t, "mxfp4", []int64{1, rows, groups, 16}, codes.Data, scales.Data))
		ten, other := find(t, r, "x.down_proj"), find(t, theirs, layer+".weight")
		got, exp := make([]float32, ten.Elements()), make([]float32, other.Elements())
		block.GetF32(got, values(t, r, ten))
		block.GetF32(exp, values(t, theirs, other))
		for i := range exp {
			if got[i] != exp[i] { // which takes 0 and -0 for one
				t.Fatalf("%s[%d] is %g, want %g", layer, i, got[i], exp[i])
			}
		}
	}
}

// TestMXFP4Refusals: what cannot be the layout is refused in words.
func TestMXFP4Refusals(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		shape  []int64
		want   string
		code   int
	}{
		"no configuration": {"", []int64{1, 2, 1, 16}, "quantization_config is missing", 3},
		"another method":   {"gptq", []int64{1, 2, 1, 16}, `quant_method is "gptq"`, 3},
		"short blocks":     {"mxfp4", []int64{1, 2, 2, 8}, "fits no known layout", 3},
		"flat":             {"mxfp4", []int64{2, 16}, "fits no known layout", 3},
	} {
		n := 1
		for _, d := range c.shape {
			n *= int(d)
		}
		r, err := Open(mxFolder(t, c.method, c.shape, make([]byte, n), make([]byte, n/int(c.shape[len(c.shape)-1]))))
		if err == nil {
			r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || fail.Code(err) != c.code {
			t.Errorf("%s: exit %d, %v", name, fail.Code(err), err)
		}
	}
	r := mustOpen(t, mxFolder(t, "mxfp4", []int64{1, 1, 1, 16}, make([]byte, 16), []byte{255}))
	if _, err := r.Read(find(t, r, "x.down_proj")); err == nil || !strings.Contains(err.Error(), "not a number") {
		t.Errorf("a scale that is no number: %v", err)
	}
}
