package formats

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

const exl2Files = "testdata/exl2" // made by its make.py with numpy

// TestPackedFolders: weights of EXL2 (all widths, mixed, reordered, padded, with
// scales near the least of F16) are those of a decoder in numpy, and of NVFP4 those
// of ModelOpt itself, bit for bit but for the sign of zeros.
func TestPackedFolders(t *testing.T) {
	for _, dir := range []string{exl2Files, "testdata/modelopt"} {
		t.Run(filepath.Base(dir), func(t *testing.T) { packedFolder(t, dir) })
	}
}

func packedFolder(t *testing.T, dir string) {
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

// exl2Matrix is a weight as EXL2 can have it: any codes, any order of columns, and
// in each group scales of the sixteen, the largest in use.
func exl2Matrix(seed uint64, typ dtype.Type, rows, cols int) block.Raw {
	rng := rand.New(rand.NewPCG(seed, uint64(typ.Kind)))
	m := block.New(typ, rows, cols)
	for i := range m.Plane(dtype.Codes) {
		m.Plane(dtype.Codes)[i] = byte(rng.Uint32())
	}
	groups := typ.Groups(cols)
	for at, c := range rng.Perm(cols) {
		binary.LittleEndian.PutUint32(m.Plane(dtype.PermIndex)[4*c:], uint32(at/int(typ.Group)))
	}
	for g := range groups {
		all := EXL2Scales(EXL2Top(float32(math.Exp(-1 - 5*rng.Float64())))) // down to scales that are no normal halves
		top := rng.IntN(rows)
		for r := range rows {
			n := rng.IntN(16)
			if r == top {
				n = 15
			}
			binary.LittleEndian.PutUint16(m.Plane(dtype.Scales)[2*(r*groups+g):], block.F16(all[n]))
		}
	}
	return m
}

// TestEXL2Written: matrices of every width, group size and shape that can be
// written come back bit by bit from what was written, and as the products that
// ExLlamaV2 computes from the reader, which a decoder in numpy holds; the parts are
// as documented.
func TestEXL2Written(t *testing.T) { t.Run(EXL2, exl2Written) }

func exl2Written(t *testing.T) {
	var plan []TensorPlan
	data := map[string]block.Raw{}
	for i, kind := range []dtype.Kind{dtype.Int2, dtype.Int3, dtype.Int4, dtype.Int5, dtype.Int6, dtype.Int8} {
		for _, s := range [][3]int{{32, 32, 32}, {96, 160, 32}, {32, 192, 64}, {64, 384, 128}, {160, 96, 96}} {
			name := fmt.Sprintf("m.%v.%dx%dg%d.weight", kind, s[0], s[1], s[2])
			typ := dtype.Type{Kind: kind, Group: int32(s[2]), Scale: dtype.F16, Flags: dtype.Perm}
			data[name] = exl2Matrix(uint64(i), typ, s[0], s[1])
			plan = append(plan, TensorPlan{Name: name, Shape: []int64{int64(s[0]), int64(s[1])}, Type: typ})
		}
	}
	out := filepath.Join(t.TempDir(), "out")
	w := must(CreateFolder(out, FolderOptions{Config: []byte(`{}`), Plan: plan, Layout: EXL2}))
	for _, p := range plan {
		if err := w.Write(p.Name, data[p.Name].Data); err != nil {
			t.Fatal(err)
		}
		if back, err := w.Read(p.Name); err != nil || !bytes.Equal(back, data[p.Name].Data) {
			t.Errorf("%s: read back differs: %v", p.Name, err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := Verify(out); err != nil {
		t.Error(err)
	}
	r := mustOpen(t, out)
	stored := byName(t, filepath.Join(out, "model.safetensors"))
	var bits, n float64
	for _, p := range plan {
		m := data[p.Name]
		x := find(t, r, p.Name)
		want, products := make([]byte, 2*m.Rows*m.Cols), make([]float32, m.Rows*m.Cols)
		block.DecodeAll(products, m)
		block.PutF16(want, products)
		if got := must(r.Read(x)); x.Type != dtype.Of(dtype.F16) || !slices.Equal(x.Shape, p.Shape) || !bytes.Equal(got, want) {
			t.Errorf("%s: comes back as %v %v; equal values: %v", p.Name, x.Type, x.Shape, bytes.Equal(got, want))
		}
		prefix := strings.TrimSuffix(p.Name, ".weight")
		size, width, groups := int(p.Type.Group), p.Type.Bits(), p.Type.Groups(m.Cols)
		meta, order := stored[prefix+".q_groups"], stored[prefix+".q_invperm"]
		for g := range groups {
			if b, at := binary.LittleEndian.Uint16(meta.Data[4*g:]), binary.LittleEndian.Uint16(meta.Data[4*g+2:]); int(b) != width || int(at) != g*size*width/32 {
				t.Errorf("%s: group %d has %d bits from word %d", p.Name, g, b, at)
			}
		}
		for c := range m.Cols {
			at := int(binary.LittleEndian.Uint32(order.Data[4*c:]))
			if own := int(binary.LittleEndian.Uint32(m.Plane(dtype.PermIndex)[4*c:])); at/size != own {
				t.Errorf("%s: column %d of group %d is stored at %d", p.Name, c, own, at)
			}
		}
		total := 0
		for _, part := range []string{exl2Weight, ".q_scale", ".q_scale_max", ".q_groups", ".q_invperm"} {
			total += len(stored[prefix+part].Data)
		}
		if got := EXL2Bits(p.Type, m.Rows, m.Cols); got != float64(8*total) {
			t.Errorf("%s: takes %d bits, counted as %g", p.Name, 8*total, got)
		}
		bits, n = bits+float64(8*total), n+float64(m.Rows*m.Cols)
	}
	var config struct {
		Q struct {
			Method string  `json:"quant_method"`
			Bits   float64 `json:"bits"`
		} `json:"quantization_config"`
	}
	if err := json.Unmarshal(r.Config(), &config); err != nil || config.Q.Method != EXL2 || math.Abs(config.Q.Bits-bits/n) > 0.005 {
		t.Errorf("config.json says %+v, %v; want %.3f bits", config.Q, err, bits/n)
	}
}

// TestEXL2Refused: what EXL2 has no room for is refused before a file is made, or
// with the row and the group.
func TestEXL2Refused(t *testing.T) {
	good := dtype.Type{Kind: dtype.Int4, Group: 32, Scale: dtype.F16, Flags: dtype.Perm}
	for want, change := range map[string]func(p *TensorPlan){
		"multiples of 32":         func(p *TensorPlan) { p.Shape = []int64{40, 64} },
		"does not divide":         func(p *TensorPlan) { p.Shape = []int64{32, 80} },
		"symmetric codes":         func(p *TensorPlan) { p.Type.Flags |= dtype.Zero },
		"order of columns":        func(p *TensorPlan) { p.Type.Flags = 0 },
		"groups of whole words":   func(p *TensorPlan) { p.Type.Group = 16 },
		"F16 scales":              func(p *TensorPlan) { p.Type.Scale = dtype.BF16 },
		"do not fit EXL2's":       func(p *TensorPlan) { p.Shape[1] = 1 << 19 },
		"cannot be stored in thi": func(p *TensorPlan) { p.Type = dtype.Type{Kind: dtype.NF4, Group: 64, Scale: dtype.F32} },
	} {
		p := TensorPlan{Name: "a.weight", Shape: []int64{32, 64}, Type: good}
		change(&p)
		w, err := CreateFolder(filepath.Join(t.TempDir(), "out"), FolderOptions{Config: []byte(`{}`), Plan: []TensorPlan{p}, Layout: EXL2})
		if err == nil {
			w.Abort()
		}
		rejects(t, err, want)
	}
	for want, change := range map[string]func(m block.Raw){
		"is none of the sixteen": func(m block.Raw) { // all are of the largest's
			for i := range 32 * 2 {
				binary.LittleEndian.PutUint16(m.Plane(dtype.Scales)[2*i:], block.F16(0.1+float32(i)/1000))
			}
		},
		"one too many in group": func(m block.Raw) { clear(m.Plane(dtype.PermIndex)) },
	} {
		m := exl2Matrix(1, good, 32, 64)
		change(m)
		w := must(CreateFolder(filepath.Join(t.TempDir(), "out"), FolderOptions{Config: []byte(`{}`), Plan: []TensorPlan{{Name: "a.weight", Shape: []int64{32, 64}, Type: good}}, Layout: EXL2}))
		rejects(t, w.Write("a.weight", m.Data), want)
		w.Abort()
	}
}

// TestEXL2Scales: the largest scale of a group is what was asked for or the next
// that survives the division by 256 in halves, the others are squares of it.
func TestEXL2Scales(t *testing.T) {
	for _, v := range []float32{0, 1e-9, 1e-5, 7.7e-4, 0.013, 0.3, 1, 250, 65504} {
		top := EXL2Top(v)
		unit := half(top / 256)
		if top < v || unit == 0 || 256*unit != top || half(top) != top || v > 0.02 && top > v*1.001 {
			t.Errorf("the largest for %g is %g", v, top)
		}
		for n, s := range EXL2Scales(top) {
			if s != half(float32((n+1)*(n+1))*unit) {
				t.Errorf("scale %d of %g is %g", n, top, s)
			}
		}
	}
}
