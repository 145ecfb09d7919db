package block_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

func TestCodeMaps(t *testing.T) {
	want := readST(t, testdir.Shared(t, "golden/blocks/bnb/code_maps.safetensors"))
	nf4, fp4 := block.CodeMap4(dtype.NF4), block.CodeMap4(dtype.FP4)
	got := map[string][]float32{
		"nf4": nf4[:], "fp4": fp4[:],
		"dynamic_signed": values(block.Signed), "dynamic_unsigned": values(block.Unsigned),
	}
	for name, v := range got {
		w := want[name].f32()
		if len(w) != len(v) {
			t.Errorf("%s: %d values, want %d", name, len(v), len(w))
			continue
		}
		for i := range v {
			if v[i] != w[i] {
				t.Errorf("%s[%d] = %v, want %v", name, i, v[i], w[i])
			}
		}
	}
}

// values are what the 256 codes of a map stand for.
func values(d *block.Dynamic) []float32 {
	codes, out := make([]byte, 256), make([]float32, 256)
	for i := range codes {
		codes[i] = byte(i)
	}
	d.Decode(out, codes, 1)
	return out
}

type bnbCase struct {
	Key   string
	Shape []int
	DQ    string `json:"dq_sha256"`
}

// as rounds x to a storage type and back.
func as(name string, x []float32) []float32 {
	out := make([]float32, len(x))
	b := make([]byte, 2*len(x))
	switch name {
	case "bf16":
		block.PutBF16(b, x)
		block.GetBF16(out, b)
	case "f16":
		block.PutF16(b, x)
		block.GetF16(out, b)
	default:
		copy(out, x)
	}
	return out
}

// TestBnB4 compares packed codes, scales and decoded values with bitsandbytes
// 0.50.2 (golden/blocks/bnb).
func TestBnB4(t *testing.T) {
	dir := testdir.Shared(t, "golden/blocks/bnb")
	all := readST(t, filepath.Join(dir, "quant4.safetensors"))
	var index struct{ Quant4 []bnbCase }
	readJSON(t, filepath.Join(dir, "index.json"), &index)
	for _, kind := range []dtype.Kind{dtype.NF4, dtype.FP4} {
		cases := slices.DeleteFunc(slices.Clone(index.Quant4), func(c bnbCase) bool {
			return strings.Split(c.Key, "/")[2] != strings.ToLower(kind.String())
		})
		t.Run(kind.String(), func(t *testing.T) { checkBnB4(t, kind, cases, all) })
	}
}

func checkBnB4(t *testing.T, kind dtype.Kind, cases []bnbCase, all map[string]tensor) {
	t.Helper()
	codes, offsets := 0, 0
	for _, c := range cases {
		p := strings.Split(c.Key, "/")
		var size int
		fmt.Sscan(p[3], &size)
		x := as(p[1], all[p[0]+"/"+"f32/x"].f32())
		m := block.New(dtype.Type{Kind: kind, Group: int32(size)}, 1, len(x))
		if strings.HasPrefix(c.Key, "special") && p[1] == "f16" {
			if err := block.Encode(m, x, nil); !errors.Is(err, block.ErrNotFinite) {
				t.Errorf("%s: %v, want an error: half precision overflows", c.Key, err)
			}
			continue
		}
		if err := block.Encode(m, x, nil); err != nil {
			t.Errorf("%s: %v", c.Key, err)
			continue
		}
		if got, want := m.Plane(dtype.Codes), all[c.Key+"/packed"].Data; string(got) != string(want) {
			n := 0
			for i := range want {
				if got[i] != want[i] {
					n++
				}
			}
			t.Errorf("%s: %d of %d packed bytes differ", c.Key, n, len(want))
		}
		codes += len(x)
		if string(m.Plane(dtype.Scales)) != string(all[c.Key+"/absmax"].Data) {
			t.Errorf("%s: absmax differs", c.Key)
		}
		out := make([]float32, len(x))
		block.DecodeAll(out, m)
		for _, d := range []string{"f32", "bf16", "f16"} {
			if w, ok := all[c.Key+"/dq_"+d]; ok && !sameBits(as(d, out), widen(w)) {
				t.Errorf("%s: decoded values as %s differ", c.Key, d)
			}
		}
		if c.DQ != "" && p[1] == "f32" && c.DQ != sum(bytesOf(out)) {
			t.Errorf("%s: sha256 of decoded values differs", c.Key)
		}
		if _, ok := all[c.Key+"/nested/absmax"]; ok {
			if nested(t, all, c.Key, m.Type, x) {
				offsets++
			}
		}
	}
	if codes == 0 {
		t.Error("no case has the type")
	}
	t.Logf("%d codes, %d nested offsets equal to the last bit", codes, offsets)
}

func widen(w tensor) []float32 {
	switch w.DType {
	case "BF16":
		out := make([]float32, len(w.Data)/2)
		block.GetBF16(out, w.Data)
		return out
	case "F16":
		out := make([]float32, len(w.Data)/2)
		block.GetF16(out, w.Data)
		return out
	}
	return w.f32()
}

// nested checks double quantization: codes of the scales by the nearest rule,
// decoding of the reference's own file exactly.
func nested(t *testing.T, all map[string]tensor, key string, ty dtype.Type, x []float32) bool {
	t.Helper()
	ty.Flags |= dtype.Nested
	m := block.New(ty, 1, len(x))
	if err := block.Encode(m, x, nil); err != nil {
		t.Errorf("%s nested: %v", key, err)
		return false
	}
	want := all[key+"/nested/absmax"].Data
	if w, ok := all[key+"/nested/absmax_default"]; ok {
		want = w.Data
	}
	p, err := block.ExportBnB(m)
	if err != nil {
		t.Fatal(err)
	}
	offset := all[key+"/nested/offset"].f32()[0]
	same := p.NestedOffset == offset
	if !same {
		t.Errorf("%s: offset %v, want %v", key, p.NestedOffset, offset)
	}
	if same && string(p.AbsMax) != string(want) {
		t.Errorf("%s: nested codes differ:\n got %v\nwant %v", key, p.AbsMax, want)
	}
	if same && string(p.NestedAbsMax) != string(all[key+"/nested/state2_absmax"].Data) {
		t.Errorf("%s: nested absmax differs", key)
	}
	dq, ok := all[key+"/nested/dq"]
	if !ok {
		return same
	}
	p.AbsMax, p.NestedAbsMax, p.NestedOffset = all[key+"/nested/absmax"].Data, all[key+"/nested/state2_absmax"].Data, offset
	if err := block.ImportBnB(m, p); err != nil {
		t.Fatal(err)
	}
	out := make([]float32, len(x))
	block.DecodeAll(out, m)
	if !sameBits(as(strings.Split(key, "/")[1], out), widen(dq)) {
		t.Errorf("%s: nested decoded values differ", key)
	}
	return same
}

// TestBlockwise8 compares the nearest rule of quantize_blockwise.
func TestBlockwise8(t *testing.T) {
	dir := testdir.Shared(t, "golden/blocks/bnb")
	all := readST(t, filepath.Join(dir, "blockwise8.safetensors"))
	var index struct{ Blockwise8 []struct{ Key string } }
	readJSON(t, filepath.Join(dir, "index.json"), &index)
	for _, c := range index.Blockwise8 {
		p := strings.Split(c.Key, "/")
		var size int
		fmt.Sscan(p[3], &size)
		if p[0] == "zero" { // bitsandbytes gives a ragged block of zeros a scale of 1e-38
			continue
		}
		book := map[string]*block.Dynamic{"dynamic_signed": block.Signed, "dynamic_unsigned": block.Unsigned}[p[2]]
		if book == nil {
			t.Errorf("%s: no such code map", c.Key)
			continue
		}
		x := as(p[1], all[p[0]+"/f32/x"].f32())
		q, absmax, back := make([]byte, len(x)), make([]float32, (len(x)+size-1)/size), make([]float32, len(x))
		for b := range absmax {
			lo, hi := b*size, min((b+1)*size, len(x))
			absmax[b] = book.Encode(q[lo:hi], x[lo:hi])
			book.Decode(back[lo:hi], all[c.Key+"/q"].Data[lo:hi], all[c.Key+"/absmax"].f32()[b])
		}
		want, n := all[c.Key+"/q"].Data, 0
		for i := range want {
			if q[i] != want[i] {
				n++
			}
		}
		if n > 0 || len(q) != len(want) {
			t.Errorf("%s: %d of %d codes differ", c.Key, n, len(want))
		}
		if !sameBits(absmax, all[c.Key+"/absmax"].f32()) {
			t.Errorf("%s: absmax differs", c.Key)
		}
		if w, ok := all[c.Key+"/dq"]; ok && !sameBits(as(p[1], back), widen(w)) {
			t.Errorf("%s: decoded values differ", c.Key)
		}
	}
}
