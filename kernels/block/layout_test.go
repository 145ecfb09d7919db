package block_test

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

type expectedLayers struct {
	Layers map[string]struct {
		Shape []int
		SHA   string `json:"sha256_f32"`
	}
}

type quantConfig struct {
	Quantization struct {
		Bits     int
		Group    int    `json:"group_size"`
		Method   string `json:"quant_method"`
		DescAct  bool   `json:"desc_act"`
		Format   string
		Checkpnt string `json:"checkpoint_format"`
		Groups   struct {
			Zero struct {
				Weights struct {
					Bits      int  `json:"num_bits"`
					Group     *int `json:"group_size"`
					Symmetric bool
				}
			} `json:"group_0"`
		} `json:"config_groups"`
	} `json:"quantization_config"`
}

var intKinds = map[int]dtype.Kind{2: dtype.Int2, 3: dtype.Int3, 4: dtype.Int4, 8: dtype.Int8}

// TestCheckpoints decodes every layer of the GPTQ, AWQ, AutoRound and
// compressed-tensors folders to the values their consumers compute, and packs
// them again into the very bytes of the file (golden/quant).
func TestCheckpoints(t *testing.T) {
	root := testdir.Shared(t, "golden/quant")
	dirs, _ := filepath.Glob(filepath.Join(root, "*", "expected.json"))
	seen := 0
	for _, e := range dirs {
		dir := filepath.Dir(e)
		name := filepath.Base(dir)
		var c quantConfig
		readJSON(t, filepath.Join(dir, "config.json"), &c)
		q := c.Quantization
		if q.Method == "compressed-tensors" && q.Format != "pack-quantized" && q.Format != "int-quantized" {
			continue // FP4 and FP8 schemes are not integer groups
		}
		seen++
		bits := max(q.Bits, q.Groups.Zero.Weights.Bits)
		t.Run(intKinds[bits].String()+"/"+name, func(t *testing.T) { checkFolder(t, dir, c) })
	}
	if seen < 5 {
		t.Errorf("only %d folders found", seen)
	}
}

func checkFolder(t *testing.T, dir string, c quantConfig) {
	all := readST(t, filepath.Join(dir, "model.safetensors"))
	var want expectedLayers
	readJSON(t, filepath.Join(dir, "expected.json"), &want)
	q := c.Quantization
	for layer, l := range want.Layers {
		get := func(s string) []byte { return all[layer+"."+s].Data }
		rows, cols := l.Shape[0], l.Shape[1]
		var m block.Raw
		var err error
		var back func() bool
		switch {
		case q.Method == "gptq":
			ty := dtype.Type{Kind: intKinds[q.Bits], Group: int32(q.Group), Scale: kindOf(all[layer+".scales"])}
			if q.DescAct {
				ty.Flags |= dtype.Perm
			}
			p := block.GPTQ{QWeight: get("qweight"), QZeros: get("qzeros"), Scales: get("scales"), GIdx: get("g_idx"), V2: q.Checkpnt == "gptq_v2"}
			if m = block.New(ty, rows, cols); block.ImportGPTQ(m, p) != nil {
				ty.Flags |= dtype.Zero
				m = block.New(ty, rows, cols)
				err = block.ImportGPTQ(m, p)
			}
			back = func() bool {
				o, err := block.ExportGPTQ(m, p.V2)
				return err == nil && bytes.Equal(o.QWeight, p.QWeight) && bytes.Equal(o.QZeros, p.QZeros) && bytes.Equal(o.Scales, p.Scales) && bytes.Equal(o.GIdx, p.GIdx)
			}
		case q.Method == "awq":
			m = block.New(dtype.Type{Kind: dtype.Int4, Group: int32(q.Group), Scale: kindOf(all[layer+".scales"]), Flags: dtype.Zero}, rows, cols)
			p := block.AWQ{QWeight: get("qweight"), QZeros: get("qzeros"), Scales: get("scales")}
			err = block.ImportAWQ(m, p)
			back = func() bool {
				o, err := block.ExportAWQ(m)
				return err == nil && bytes.Equal(o.QWeight, p.QWeight) && bytes.Equal(o.QZeros, p.QZeros) && bytes.Equal(o.Scales, p.Scales)
			}
		default:
			m, back, err = importCT(c, get, all[layer+".weight_scale"], rows, cols)
		}
		if err != nil {
			t.Errorf("%s: %v", layer, err)
			continue
		}
		out := make([]float32, rows*cols)
		block.DecodeAll(out, m)
		if got := sum(bytesOf(out)); got != l.SHA {
			t.Errorf("%s as %v: sha256 %s, want %s", layer, m.Type, got, l.SHA)
		}
		if !back() {
			t.Errorf("%s as %v: packing again gives other bytes", layer, m.Type)
		}
	}
}

// TestFloat4: layers of 4-bit floats that llm-compressor packed, with scales of
// powers of two (MXFP4) and with nested ones (NVFP4), decode to the values of
// another decoder, and the float model's weights over those scales round to the
// codes of llm-compressor (golden/quant).
func TestFloat4(t *testing.T) {
	root := testdir.Shared(t, "golden/quant")
	orig := readST(t, filepath.Join(root, "orig", "model.safetensors"))
	for dir, ty := range map[string]dtype.Type{
		"ct-mxfp4": {Kind: dtype.F4E2M1, Group: 32, Scale: dtype.F8E8M0},
		"ct-nvfp4": {Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested | dtype.Inverse},
	} {
		all := readST(t, filepath.Join(root, dir, "model.safetensors"))
		var want expectedLayers
		readJSON(t, filepath.Join(root, dir, "expected.json"), &want)
		each := func(f func(layer, sha string, m block.Raw, scale func(r, c int) float32)) {
			for layer, l := range want.Layers {
				m := block.New(ty, l.Shape[0], l.Shape[1])
				copy(m.Plane(dtype.Codes), all[layer+".weight_packed"].Data)
				copy(m.Plane(dtype.Scales), all[layer+".weight_scale"].Data)
				for i, rows := 0, m.Plane(dtype.NestedScales); i < len(rows); i += 4 {
					copy(rows[i:], all[layer+".weight_global_scale"].Data)
				}
				scales := make([]float32, m.Rows*ty.Groups(m.Cols))
				for r := range m.Rows {
					block.MicroScales(scales[r*ty.Groups(m.Cols):][:ty.Groups(m.Cols)], m, r, 0)
				}
				f(layer, l.SHA, m, func(r, c int) float32 { return scales[r*ty.Groups(m.Cols)+c/int(ty.Group)] })
			}
		}
		t.Run(ty.Kind.String()+"/decode/"+dir, func(t *testing.T) {
			each(func(layer, sha string, m block.Raw, _ func(r, c int) float32) {
				out := make([]float32, m.Rows*m.Cols)
				if block.DecodeAll(out, m); sum(bytesOf(out)) != sha {
					t.Errorf("%s as %v decodes to other values", layer, m.Type)
				}
			})
		})
		t.Run(ty.Kind.String()+"/encode/"+dir, func(t *testing.T) {
			each(func(layer, _ string, m block.Raw, scale func(r, c int) float32) {
				w, other := widen(orig[layer+".weight"]), 0
				for r := range m.Rows {
					for c := range m.Cols {
						code := m.Plane(dtype.Codes)[(r*m.Cols+c)/2] >> (c % 2 * 4) & 15
						if got := block.E2M1(w[r*m.Cols+c] / scale(r, c)); got != code && (got|code)&7 != 0 { // of zeros the sign is free
							other++
						}
					}
				}
				if len(w) == 0 || other > 0 {
					t.Errorf("%s: %d of %d codes differ", layer, other, len(w))
				}
			})
		})
	}
}

func importCT(c quantConfig, get func(string) []byte, scale tensor, rows, cols int) (block.Raw, func() bool, error) {
	w := c.Quantization.Groups.Zero.Weights
	ty := dtype.Type{Kind: intKinds[w.Bits], Group: -1, Scale: kindOf(scale)}
	if w.Group != nil {
		ty.Group = int32(*w.Group)
	}
	if !w.Symmetric {
		ty.Flags |= dtype.Zero
	}
	p := block.CT{Scale: scale.Data}
	asInt8 := c.Quantization.Format == "int-quantized"
	if asInt8 {
		p.Int8, p.Zero8 = get("weight"), get("weight_zero_point")
	} else {
		p.Packed, p.ZeroPoint = get("weight_packed"), get("weight_zero_point")
	}
	m := block.New(ty, rows, cols)
	back := func() bool {
		o, err := block.ExportCT(m, asInt8)
		return err == nil && bytes.Equal(o.Packed, p.Packed) && bytes.Equal(o.Int8, p.Int8) && bytes.Equal(o.Scale, p.Scale) && bytes.Equal(o.ZeroPoint, p.ZeroPoint) && bytes.Equal(o.Zero8, p.Zero8)
	}
	return m, back, block.ImportCT(m, p)
}

func kindOf(t tensor) dtype.Kind {
	k, _ := dtype.FromSafetensors(t.DType)
	return k
}

// TestBnBFolder imports a folder that save_pretrained wrote and compares with
// the values bitsandbytes itself decodes, by quantizing the base again.
func TestBnBFolder(t *testing.T) {
	root := testdir.Shared(t, "golden/blocks/bnb_model")
	base := readST(t, filepath.Join(root, "base", "model.safetensors"))
	for _, dir := range []string{"nf4", "nf4_double", "fp4_double"} {
		all := readST(t, filepath.Join(root, dir, "model.safetensors"))
		layers, codes := 0, 0
		for name, w := range all {
			if w.DType != "U8" || !strings.HasSuffix(name, "proj.weight") {
				continue
			}
			x := widen(base[name])
			shape := base[name].Shape
			ty := dtype.Type{Kind: dtype.NF4, Group: 64}
			if strings.HasPrefix(dir, "fp4") {
				ty.Kind = dtype.FP4
			}
			p := block.BnB{Weight: w.Data, AbsMax: all[name+".absmax"].Data}
			if n, ok := all[name+".nested_absmax"]; ok {
				ty.Flags |= dtype.Nested
				p.NestedAbsMax, p.NestedMap = n.Data, all[name+".nested_quant_map"].Data
			}
			m, ours := block.New(ty, shape[0], shape[1]), block.New(ty, shape[0], shape[1])
			if err := block.ImportBnB(m, p); err != nil {
				t.Fatalf("%s %s: %v", dir, name, err)
			}
			if err := block.Encode(ours, x, nil); err != nil {
				t.Fatal(err)
			}
			o, err := block.ExportBnB(ours)
			if err != nil || !bytes.Equal(o.Weight, p.Weight) {
				t.Errorf("%s %s: codes differ (%v)", dir, name, err)
			}
			for i := range p.AbsMax {
				d := int(o.AbsMax[i]) - int(p.AbsMax[i])
				if d < -1 || d > 1 || ty.Flags&dtype.Nested == 0 && d != 0 {
					t.Errorf("%s %s: scale byte %d is %d, want %d", dir, name, i, o.AbsMax[i], p.AbsMax[i])
				}
			}
			if ty.Flags&dtype.Nested != 0 && !bytes.Equal(o.NestedMap, p.NestedMap) {
				t.Errorf("%s %s: nested map differs", dir, name)
			}
			layers, codes = layers+1, codes+len(x)
		}
		if layers == 0 {
			t.Errorf("%s: no 4-bit layers", dir)
		}
		t.Logf("%s: %d layers, %d codes", dir, layers, codes)
	}
}

// TestV1Zeros: version 1 of GPTQ subtracts from the whole word, so a zero point
// of 0 borrows from its neighbour.
func TestV1Zeros(t *testing.T) {
	for bits, kind := range intKinds {
		m := block.New(dtype.Type{Kind: kind, Group: 32, Scale: dtype.F16, Flags: dtype.Zero}, 32, 32)
		for i := range m.Plane(dtype.Zeros) {
			m.Plane(dtype.Zeros)[i] = byte(i*i) % byte(1<<bits-1)
		}
		for i, c := range m.Plane(dtype.Codes) {
			m.Plane(dtype.Codes)[i] = c + byte(i*7)
		}
		for _, v2 := range []bool{false, true} {
			p, err := block.ExportGPTQ(m, v2)
			if err != nil {
				t.Fatal(err)
			}
			o := block.New(m.Type, 32, 32)
			if err := block.ImportGPTQ(o, p); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(o.Data, m.Data) {
				t.Errorf("%d bits, v2 %v: another matrix comes back", bits, v2)
			}
		}
	}
	// One word by hand: zeros 0,0,1,2,3,4,5,6 are 0x65432100 - 0x11111111.
	m := block.New(dtype.Type{Kind: dtype.Int4, Group: -1, Scale: dtype.F16, Flags: dtype.Zero}, 8, 8)
	copy(m.Plane(dtype.Zeros), []byte{0, 0, 1, 2, 3, 4, 5, 6})
	p, err := block.ExportGPTQ(m, false)
	if w := binary.LittleEndian.Uint32(p.QZeros); err != nil || w != 0x65432100-0x11111111 {
		t.Errorf("word %08x (%v)", w, err)
	}
}

// TestImportErrors: every part of a wrong size, an index out of range and a
// hidden permutation are refused.
func TestImportErrors(t *testing.T) {
	ty := dtype.Type{Kind: dtype.Int4, Group: 32, Scale: dtype.F16, Flags: dtype.Zero}
	m := block.New(ty, 16, 64)
	good, err := block.ExportGPTQ(m, false)
	if err != nil {
		t.Fatal(err)
	}
	perm := ty
	perm.Flags |= dtype.Perm
	bad := append([]byte{9}, good.GIdx[1:]...)
	sym := ty
	sym.Flags = 0
	for name, f := range map[string]func() error{
		"qweight": func() error { p := good; p.QWeight = p.QWeight[4:]; return block.ImportGPTQ(m, p) },
		"qzeros":  func() error { p := good; p.QZeros = nil; return block.ImportGPTQ(m, p) },
		"scales":  func() error { p := good; p.Scales = p.Scales[2:]; return block.ImportGPTQ(m, p) },
		"g_idx":   func() error { p := good; p.GIdx = bad; return block.ImportGPTQ(m, p) },
		"g_idx: ": func() error { p := good; p.GIdx = bad; return block.ImportGPTQ(block.New(perm, 16, 64), p) },
		"zero":    func() error { return block.ImportGPTQ(block.New(sym, 16, 64), good) },
		"INT4":    func() error { return block.ImportBnB(m, block.BnB{}) },
		"NF4":     func() error { return block.ImportAWQ(block.New(dtype.NF4Double, 8, 64), block.AWQ{}) },
		"absmax": func() error {
			b := block.New(dtype.NF4Double, 8, 64)
			return block.ImportBnB(b, block.BnB{Weight: make([]byte, 256)})
		},
		"needs":    func() error { o := m; o.Data = o.Data[1:]; return block.ImportGPTQ(o, good) },
		"whole 32": func() error { return block.ImportGPTQ(block.New(ty, 3, 64), good) },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(name)) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
