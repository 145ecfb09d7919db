package formats

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const exl2Files = "testdata/exl2" // made by its make.py with numpy

// TestPackedFolders: weights of EXL2 (all widths, mixed, reordered, padded, with
// scales near the least of F16) are those of a decoder in numpy, and of NVFP4 those
// of ModelOpt itself, bit for bit but for the sign of zeros.
func TestPackedFolders(t *testing.T) {
	for _, dir := range []string{exl2Files, "testdata/modelopt"} {
		r, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		want := byName(t, filepath.Join(dir, "expected.safetensors"))
		if len(r.Tensors()) != len(want) {
			t.Errorf("%s: %d tensors, want %d", dir, len(r.Tensors()), len(want))
		}
		for i := range r.Tensors() {
			x := &r.Tensors()[i]
			w := want[x.Name]
			got, err := r.Read(x)
			if x.Type.ScaledFloat() && err == nil { // in floats
				got = decoded(x, got)
			}
			for i := 0; w.DType == "F32" && i+4 <= len(got) && i+4 <= len(w.Data); i += 4 { // ModelOpt has no -0
				if string(got[i:i+4]) == "\x00\x00\x00\x80" && string(w.Data[i:i+4]) == "\x00\x00\x00\x00" {
					got[i+3] = 0
				}
			}
			if err != nil || !x.Type.ScaledFloat() && x.Type.Kind.Info().ST != w.DType || !slices.Equal(x.Shape, w.Shape) || !bytes.Equal(got, w.Data) {
				t.Errorf("%s: %s: %v %v, want %v; equal values: %v, %v", dir, x.Name, x.Type, x.Shape, w.Shape, bytes.Equal(got, w.Data), err)
			}
		}
		if err := Verify(dir); err != nil {
			t.Error(err)
		}
	}
}

// TestFP8Scales: scales of powers of two (DeepSeek's ue8m0) are read as floats
// are, and 8-bit floats without any are no weights of a quantized folder.
func TestFP8Scales(t *testing.T) {
	read := func(config string, ts ...NamedTensor) ([]byte, error) {
		dir := t.TempDir()
		if err := WriteSafetensors(filepath.Join(dir, "model.safetensors"), ts, nil); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666); err != nil {
			t.Fatal(err)
		}
		r, err := Open(dir)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		x := &r.Tensors()[0]
		b, err := r.Read(x)
		if err == nil && x.Type.ScaledFloat() {
			b = decoded(x, b)
		}
		return b, err
	}
	const config = `{"quantization_config":{"quant_method":"fp8","weight_block_size":[2,2]}}`
	w := NamedTensor{Name: "q.weight", DType: "F8_E4M3", Shape: []int64{3, 4}, Data: []byte{0x38, 0x40, 0xb8, 1, 0x7e, 0x30, 0x20, 8, 0, 0x55, 0xd5, 0x3c}}
	codes, floats := []byte{127, 120, 0, 130}, []byte{}
	for _, f := range []float32{1, 0x1p-7, 0x1p-127, 8} {
		floats = binary.LittleEndian.AppendUint32(floats, math.Float32bits(f))
	}
	a, err1 := read(config, w, NamedTensor{Name: "q.weight_scale_inv", DType: "F8_E8M0", Shape: []int64{2, 2}, Data: codes})
	b, err2 := read(config, w, NamedTensor{Name: "q.weight_scale_inv", DType: "F32", Shape: []int64{2, 2}, Data: floats})
	if err1 != nil || err2 != nil || len(a) != 48 || !bytes.Equal(a, b) {
		t.Errorf("% x, want % x: %v, %v", a, b, err1, err2)
	}
	_, err := read(config, w)
	rejects(t, err, `"q.weight" is F8_E4M3 without a scale, but quantization_config.quant_method is "fp8"`)
	if b, err := read(`{}`, w); err != nil || !bytes.Equal(b, w.Data) { // weights that were cast
		t.Errorf("% x, %v", b, err)
	}
}

// exl2Folder is a folder of the test's weights after a change.
func exl2Folder(t *testing.T, change func(ts map[string]*NamedTensor)) string {
	t.Helper()
	dir := t.TempDir()
	list, _, err := ReadSafetensors(filepath.Join(exl2Files, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	ts := map[string]*NamedTensor{}
	for i := range list {
		ts[list[i].Name] = &list[i]
	}
	if change != nil {
		change(ts)
	}
	list = slices.DeleteFunc(list, func(x NamedTensor) bool { return ts[x.Name] == nil })
	if err := WriteSafetensors(filepath.Join(dir, "model.safetensors"), list, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), must(os.ReadFile(filepath.Join(exl2Files, "config.json"))), 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestEXL2Damaged: parts that are missing or contradict each other are errors that
// name them, on opening or on reading.
func TestEXL2Damaged(t *testing.T) {
	for want, change := range map[string]func(ts map[string]*NamedTensor){
		`"a.q_scale" is missing`:     func(ts map[string]*NamedTensor) { delete(ts, "a.q_scale") },
		`"a.q_invperm" is missing`:   func(ts map[string]*NamedTensor) { delete(ts, "a.q_invperm") },
		`"a.q_groups" has shape [5]`: func(ts map[string]*NamedTensor) { x := ts["a.q_groups"]; x.Shape, x.Data = []int64{5}, x.Data[:10] },
		`"a.q_scale_max" is F32`: func(ts map[string]*NamedTensor) {
			x := ts["a.q_scale_max"]
			x.DType, x.Data = "F32", append(x.Data, x.Data...)
		},
		`"a.q_weight" has shape [4 0]`: func(ts map[string]*NamedTensor) {
			for name, shape := range map[string][]int64{"weight": {4, 0}, "scale": {1, 0}, "scale_max": {1}, "groups": {2}} {
				x := ts["a.q_"+name]
				size := int64(len(x.Data))
				for _, d := range x.Shape {
					size /= d
				}
				for _, d := range shape {
					size *= d
				}
				x.Shape, x.Data = shape, x.Data[:size]
			}
		},
		"group 1 has 7 bits":                               func(ts map[string]*NamedTensor) { ts["a.q_groups"].Data[4] = 7 },
		"group 0 has 0 bits":                               func(ts map[string]*NamedTensor) { ts["a.q_groups"].Data[0] = 0 },
		"group 0 of 8 bits holds words 0 to 65535 of 19":   func(ts map[string]*NamedTensor) { copy(ts["a.q_groups"].Data[6:], "\xff\xff") },
		"group 2 of 4 bits holds words 14 to 19 of 19 for": func(ts map[string]*NamedTensor) { ts["a.q_groups"].Data[8] = 4 },
		"q_invperm[1] is 96, of 96 places each once":       func(ts map[string]*NamedTensor) { copy(ts["a.q_invperm"].Data[4:], "\x60\x00\x00\x00") },
		"q_invperm[0] is -1, of 96 places each once":       func(ts map[string]*NamedTensor) { copy(ts["a.q_invperm"].Data, "\xff\xff\xff\xff") },
		"q_invperm[1] is ":                                 func(ts map[string]*NamedTensor) { d := ts["a.q_invperm"].Data; copy(d[4:8], d[:4]) },
	} {
		r, err := Open(exl2Folder(t, change))
		for i := 0; err == nil && i < len(r.Tensors()); i++ {
			_, err = r.Read(&r.Tensors()[i])
		}
		rejects(t, err, want)
	}
}
