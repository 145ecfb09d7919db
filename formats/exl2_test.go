package formats

import (
	"bytes"
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
			for i := 0; w.DType == "F32" && i+4 <= len(got) && i+4 <= len(w.Data); i += 4 { // ModelOpt has no -0
				if string(got[i:i+4]) == "\x00\x00\x00\x80" && string(w.Data[i:i+4]) == "\x00\x00\x00\x00" {
					got[i+3] = 0
				}
			}
			if err != nil || x.Type.Kind.Info().ST != w.DType || !slices.Equal(x.Shape, w.Shape) || !bytes.Equal(got, w.Data) {
				t.Errorf("%s: %s: %v %v, want %v; equal values: %v, %v", dir, x.Name, x.Type, x.Shape, w.Shape, bytes.Equal(got, w.Data), err)
			}
		}
		if err := Verify(dir); err != nil {
			t.Error(err)
		}
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
