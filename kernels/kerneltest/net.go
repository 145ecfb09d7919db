package kerneltest

import (
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// f32Tol is the allowance of operations that round a few times.
const f32Tol = 1e-5

// weights loads a random matrix of type t and returns what it decodes to.
func (s *suite) weights(t dtype.Type, rows, cols int, size float64) (kernels.Mat, []float64) {
	s.Helper()
	x := s.normal(rows*cols, size)
	raw := block.New(t, rows, cols)
	f := make([]float32, len(x))
	for i, v := range x {
		f[i] = float32(v)
	}
	switch t.Kind {
	case dtype.F32:
		block.PutF32(raw.Data, f)
	case dtype.BF16:
		block.PutBF16(raw.Data, f)
	case dtype.F16:
		block.PutF16(raw.Data, f)
	default:
		var importance []float32
		if block.NeedsImportance(t.Kind) {
			importance = slices.Repeat([]float32{1}, cols)
		}
		if err := block.Encode(raw, f, importance); err != nil {
			s.Fatalf("%v: %v", t, err)
		}
	}
	block.DecodeAll(f, raw)
	for i, v := range f {
		x[i] = float64(v)
	}
	m, err := s.b.Load(kernels.Weights, t, rows, cols, raw.Data, kernels.Copy)
	if err != nil {
		s.Fatal(err)
	}
	s.bufs = append(s.bufs, m.Buffer)
	return m, x
}

// view is a strided layout of heads inside a buffer.
type view struct{ n, h, d, off, tok, head int }

// views returns a dense layout and one with gaps everywhere.
func views(n, h, d int) []view {
	return []view{{n, h, d, 0, h * d, d}, {n, h, d, 5, h*(d+3) + 7, d + 3}}
}

func (v view) size() int { return v.off + v.n*v.tok }

// at is the place of element i of the dense [n, h, d].
func (v view) at(i int) int { return v.off + i/(v.h*v.d)*v.tok + i/v.d%v.h*v.head + i%v.d }

func (v view) of(d kernels.Dst) kernels.Heads {
	if d.Skip() {
		return kernels.Heads{}
	}
	return kernels.Heads{Buffer: d.Buffer, Off: v.off, Tok: v.tok, Head: v.head, Add: d.Add}
}

// heads uploads a dense [n, h, d] in layout v; the gaps are NaN.
func (s *suite) heads(v view, x []float64) kernels.Heads {
	p := make([]float64, v.size())
	for i := range p {
		p[i] = math.NaN()
	}
	for i, e := range x {
		p[v.at(i)] = e
	}
	return v.of(kernels.Dst{Buffer: s.up(p)})
}
