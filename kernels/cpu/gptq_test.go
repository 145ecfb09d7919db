package cpu

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
	blocks "github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// gptqPlain is algorithm 1 of the paper, one element at a time in float64.
func gptqPlain(w, u, scale, zero []float32, rows, cols, maxCode int) (codes []byte, dq, err []float64) {
	codes, dq, err = make([]byte, rows*cols), make([]float64, rows*cols), make([]float64, rows*cols)
	for r := range rows {
		v := make([]float64, cols)
		for j := range cols {
			v[j] = float64(w[j*rows+r])
		}
		for j := range cols {
			i := j*rows + r
			s, z := float64(scale[i]), float64(zero[i])
			q := min(max(math.RoundToEven(v[j]/s)+z, 0), float64(maxCode))
			codes[i], dq[i] = byte(q), (q-z)*s
			err[i] = (v[j] - dq[i]) / float64(u[j*cols+j])
			for k := j + 1; k < cols; k++ {
				v[k] -= err[i] * float64(u[j*cols+k])
			}
		}
	}
	return codes, dq, err
}

func bytesBuffer(t *testing.T, c *CPU, n int) kernels.Buffer {
	t.Helper()
	b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.U8), n)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGPTQBlock(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		for _, s := range [][3]int{{1, 1, 15}, {3, 5, 3}, {64, 16, 15}, {131, 37, 7}, {70, 128, 255}} {
			rows, cols, maxCode := s[0], s[1], s[2]
			w, u := random(rows*cols), random(cols*cols)
			for i := range u {
				u[i] *= 0.05
				if i%(cols+1) == 0 {
					u[i] = 1.5
				}
			}
			scale, zero := fill(rows*cols, 0), fill(rows*cols, 0)
			for i := range scale {
				scale[i] = 6 / float32(maxCode+1) * (1 + float32(i%rows)/float32(rows))
				zero[i] = float32((maxCode+1)/2 + i%3 - 1)
			}
			codes, dq, errs := gptqPlain(w, u, scale, zero, rows, cols, maxCode)
			wb, eb, cb := buffer(t, c, "w", w), buffer(t, c, "err", fill(rows*cols, 7)), bytesBuffer(t, c, rows*cols)
			c.GPTQBlock(&kernels.GPTQArgs{Rows: rows, Cols: cols, W: wb.buf(), Err: eb.buf(), U: buffer(t, c, "u", u).buf(), Codes: cb,
				Scale: buffer(t, c, "scale", scale).buf(), Zero: buffer(t, c, "zero", zero).buf(), MaxCode: maxCode})
			close64(t, fmt.Sprint(s, " w"), wb.values(), dq, 2e-5)
			close64(t, fmt.Sprint(s, " err"), eb.values(), errs, 2e-5)
			for i, v := range u8(cb) {
				if v != codes[i] {
					t.Fatalf("%v: code %d is %d, want %d", s, i, v, codes[i])
				}
			}
		}
	})
}

// Ties go to the even neighbour, as torch.round does, and codes stay in range.
func TestGPTQBlockRounding(t *testing.T) {
	c := New(Options{})
	w := []float32{0.5, 1.5, 2.5, -0.5, -1.5, 100, -100, 0.49999997}
	want := []byte{4, 6, 6, 4, 2, 7, 0, 4}
	n := len(w)
	cb := bytesBuffer(t, c, n)
	c.GPTQBlock(&kernels.GPTQArgs{Rows: n, Cols: 1, W: buffer(t, c, "w", w).buf(), Err: buffer(t, c, "err", w).buf(), U: buffer(t, c, "u", fill(1, 1)).buf(),
		Codes: cb, Scale: buffer(t, c, "scale", fill(n, 1)).buf(), Zero: buffer(t, c, "zero", fill(n, 4)).buf(), MaxCode: 7})
	for i, v := range u8(cb) {
		if v != want[i] {
			t.Errorf("%g: code %d, want %d", w[i], v, want[i])
		}
	}
}

// goldenTensors reads the tensors of a safetensors file as float32.
func goldenTensors(t *testing.T, path string) map[string][]float32 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := 8 + int(binary.LittleEndian.Uint64(b))
	var head map[string]struct {
		Dtype  string  `json:"dtype"`
		Offset []int64 `json:"data_offsets"`
	}
	if err := json.Unmarshal(b[8:n], &head); err != nil {
		t.Fatal(err)
	}
	out := map[string][]float32{}
	for name, h := range head {
		data := b[n+int(h.Offset[0]) : n+int(h.Offset[1])]
		switch h.Dtype {
		case "F32":
			out[name] = make([]float32, len(data)/4)
			blocks.GetF32(out[name], data)
		case "F16":
			out[name] = make([]float32, len(data)/2)
			blocks.GetF16(out[name], data)
		case "U8":
			for _, v := range data {
				out[name] = append(out[name], float32(v))
			}
		}
	}
	return out
}

// The codes of GPTQModel 7.7.0 for one layer, made with our Gram, Factor and
// GPTQBlock from its scales (golden/quant/layers says how they were made; H =
// 2/n·XᵀX, damping 5 % of the mean diagonal, block 128).
func TestGPTQAgainstGPTQModel(t *testing.T) {
	dir := testdir.Shared(t, "golden/quant/layers")
	in, gold := goldenTensors(t, filepath.Join(dir, "inputs.safetensors")), goldenTensors(t, filepath.Join(dir, "goldens.safetensors"))
	const rows, cols, samples, block = 96, 256, 768, 128
	eachLevel(t, func(t *testing.T) {
		for _, name := range []string{"b4-g128-sym", "b4-g128-asym"} {
			codes := gptqLayer(t, in["W"], in["X"], gold["gptqmodel."+name+".scales"], gold["gptqmodel."+name+".zeros"], rows, cols, samples, block)
			differ := 0
			for i, v := range gold["gptqmodel."+name+".codes"] {
				differ += b2i(float32(codes[i]) != v)
			}
			t.Logf("%s: %d codes of %d differ", name, differ, rows*cols)
			if differ > rows*cols/100 {
				t.Errorf("%s: %d codes of %d differ", name, differ, rows*cols)
			}
		}
	})
}

// gptqLayer returns the codes [rows, cols] of a weight, groups as wide as blocks.
func gptqLayer(t *testing.T, w, x, scales, zeros []float32, rows, cols, samples, block int) []byte {
	c := New(Options{})
	h, u := buffer(t, c, "h", fill(cols*cols, 0)), buffer(t, c, "u", fill(cols*cols, 0))
	c.Gram(kernels.To(h.buf()), &kernels.GramArgs{Rows: samples, Cols: cols, X: buffer(t, c, "x", x).buf()})
	v, mean := h.values(), 0.0
	wt := make([]float32, rows*cols) // [cols, rows]
	for j := range cols {
		for i := range cols {
			v[j*cols+i] *= 2.0 / float32(samples)
		}
		dead := v[j*cols+j] == 0
		if dead {
			v[j*cols+j] = 1
		}
		for r := range rows {
			if !dead {
				wt[j*rows+r] = w[r*cols+j]
			}
		}
		mean += float64(v[j*cols+j]) / float64(cols)
	}
	if err := c.Factor(u.buf(), h.buf(), cols, float32(0.05*mean)); err != nil {
		t.Fatal(err)
	}
	codes := make([]byte, rows*cols)
	for b := 0; b < cols; b += block {
		uu, scale, zero := fill(block*block, 0), fill(block*rows, 0), fill(block*rows, 0)
		for j := range block {
			copy(uu[j*block:][:block], u.values()[(b+j)*cols+b:])
			for r := range rows {
				scale[j*rows+r], zero[j*rows+r] = scales[r*cols/block+b/block], zeros[r*cols/block+b/block]
			}
		}
		wb, eb, cb := buffer(t, c, "w", wt[b*rows:][:block*rows]), buffer(t, c, "err", fill(block*rows, 0)), bytesBuffer(t, c, block*rows)
		c.GPTQBlock(&kernels.GPTQArgs{Rows: rows, Cols: block, W: wb.buf(), Err: eb.buf(), U: buffer(t, c, "u", uu).buf(), Codes: cb,
			Scale: buffer(t, c, "scale", scale).buf(), Zero: buffer(t, c, "zero", zero).buf(), MaxCode: 15})
		err, factor := eb.values(), u.values()
		for j := range block {
			for r := range rows {
				codes[r*cols+b+j] = u8(cb)[j*rows+r]
				for k := b + block; k < cols; k++ {
					wt[k*rows+r] -= err[j*rows+r] * factor[(b+j)*cols+k]
				}
			}
		}
	}
	return codes
}
