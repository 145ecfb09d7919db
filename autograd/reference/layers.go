package reference

import (
	"math"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

// Linear is y = x·wᵀ + bias + scale·x·aᵀ·bᵀ: x [n, in], w [out, in], bias
// [1, out], a [r, in], b [out, r] (Hu et al. 2021, arXiv:2106.09685).
// Inputs: x, w, bias, a, b.
func Linear(x, w, bias, a, b Matrix, scale float64) *Layer {
	l := newLayer("linear with LoRA")
	nx := l.input("x", x)
	base := l.mul(nx, l.transpose(l.input("w", w)))
	base = l.add(base, l.spread(l.input("bias", bias), x.Rows))
	u := l.mul(nx, l.transpose(l.input("a", a)))
	u = l.times(u, l.constant(full(x.Rows, a.Rows, scale)))
	l.y = l.add(base, l.mul(u, l.transpose(l.input("b", b))))
	return l
}

// RMSNorm is x·w/√(mean x² + eps): x [n, c], w [1, c] (Zhang and Sennrich 2019,
// arXiv:1910.07467). Inputs: x, w.
func RMSNorm(x, w Matrix, eps float64) *Layer {
	l := newLayer("rmsnorm")
	nx := l.input("x", x)
	mean := l.rowSums(l.times(nx, nx), x.Rows, x.Cols, x.Cols, 1/float64(x.Cols))
	rms := l.sqrt(l.add(mean, l.constant(full(x.Rows, x.Cols, eps))))
	l.y = l.times(l.over(nx, rms), l.spread(l.input("w", w), x.Rows))
	return l
}

// SwiGLU is silu(gate)·up, [n, f] each (Shazeer 2020, arXiv:2002.05202).
// Inputs: gate, up.
func SwiGLU(gate, up Matrix) *Layer {
	l := newLayer("swiglu")
	g := l.input("gate", gate)
	l.y = l.times(l.times(g, l.sigmoid(g)), l.input("up", up))
	return l
}

// Rope rotates element i of each head of x [n, h·d] with element i+d/2, or 2i
// with 2i+1 where adjacent is set, by angle[n, i] (Su et al. 2021,
// arXiv:2104.09864). angle [n, d/2]. Inputs: x.
func Rope(x, angle Matrix, d int, adjacent bool) *Layer {
	l := newLayer("rope")
	cos, sin, swap := NewMatrix(x.Rows, x.Cols), NewMatrix(x.Rows, x.Cols), NewMatrix(x.Cols, x.Cols)
	for c := range x.Cols {
		i, j, sign := partner(c%d, d, adjacent)
		swap.Data[(c-c%d+j)*x.Cols+c] = sign
		for n := range x.Rows {
			s, co := math.Sincos(angle.Data[n*angle.Cols+i])
			cos.Data[n*x.Cols+c], sin.Data[n*x.Cols+c] = co, s
		}
	}
	nx := l.input("x", x)
	turned := l.mul(nx, l.constant(swap))
	l.y = l.add(l.times(nx, l.constant(cos)), l.times(turned, l.constant(sin)))
	return l
}

// partner gives the pair of element e of a head: its index, the other element,
// and the sign with which the other enters.
func partner(e, d int, adjacent bool) (pair, other int, sign float64) {
	if adjacent {
		if e%2 == 0 {
			return e / 2, e + 1, -1
		}
		return e / 2, e - 1, 1
	}
	if e < d/2 {
		return e, e + d/2, -1
	}
	return e - d/2, e - d/2, 1
}

// AttentionShape describes causal grouped-query attention: H query heads, K
// key/value heads of D, sequences that start at Starts, a window of Window
// tokens (0: none).
type AttentionShape struct {
	H, K, D int
	Starts  []int // the first is 0
	Scale   float64
	Window  int
}

// sees is the mask of query i and key j.
func (a *AttentionShape) sees(i, j int) bool {
	start := 0
	for _, s := range a.Starts {
		if s <= i {
			start = s
		}
	}
	return j <= i && j >= start && (a.Window == 0 || i-j < a.Window)
}

// Attention is softmax(scale·q·kᵀ)·v by head: q [n, H·D], k, v [n, K·D].
// Inputs: q, k, v.
func Attention(q, k, v Matrix, a AttentionShape) *Layer {
	l := newLayer("attention")
	n := q.Rows
	mask := NewMatrix(n, n)
	for i := range n {
		for j := range n {
			if a.sees(i, j) {
				mask.Data[i*n+j] = 1
			}
		}
	}
	nq, nk, nv, nm := l.input("q", q), l.input("k", k), l.input("v", v), l.constant(mask)
	for h := range a.H {
		kv := h * a.K / a.H
		qh := l.mul(nq, l.constant(pick(q.Cols, h*a.D, a.D, a.Scale)))
		kh := l.mul(nk, l.constant(pick(k.Cols, kv*a.D, a.D, 1)))
		vh := l.mul(nv, l.constant(pick(v.Cols, kv*a.D, a.D, 1)))
		e := l.times(l.exp(l.mul(qh, l.transpose(kh))), nm)
		p := l.over(e, l.rowSums(e, n, n, n, 1))
		o := l.mul(l.mul(p, vh), l.constant(place(q.Cols, h*a.D, a.D)))
		if h == 0 {
			l.y = o
		} else {
			l.y = l.add(l.y, o)
		}
	}
	return l
}

// pick selects columns off … off+d of rows·x, times scale: [rows, d].
func pick(rows, off, d int, scale float64) Matrix {
	m := NewMatrix(rows, d)
	for i := range d {
		m.Data[(off+i)*d+i] = scale
	}
	return m
}

// place puts d columns at off of cols: [d, cols].
func place(cols, off, d int) Matrix {
	m := NewMatrix(d, cols)
	for i := range d {
		m.Data[i*cols+off+i] = 1
	}
	return m
}

// CrossEntropy is Σ coef·(-log softmax(h·wᵀ)[target]): h [n, c], w [v, c];
// target -1 contributes nothing. Inputs: h, w.
func CrossEntropy(h, w Matrix, target []int, coef []float64) *Layer {
	l := newLayer("cross-entropy")
	n, v := h.Rows, w.Rows
	hot, weight := NewMatrix(n, v), NewMatrix(1, n)
	for i, t := range target {
		if t >= 0 {
			hot.Data[i*v+t] = 1
			weight.Data[i] = coef[i]
		}
	}
	logits := l.mul(l.input("h", h), l.transpose(l.input("w", w)))
	lse := l.log(l.mul(l.exp(logits), l.constant(full(v, 1, 1))))
	own := l.mul(l.times(logits, l.constant(hot)), l.constant(full(v, 1, 1)))
	l.y = l.mul(l.constant(weight), l.sub(lse, own))
	return l
}

// samples are small layers to draw, by name.
var samples = []struct {
	name string
	make func() *Layer
}{
	{"linear", func() *Layer {
		return Linear(full(2, 4, 1), full(3, 4, 1), full(1, 3, 1), full(1, 4, 1), full(3, 1, 1), 2)
	}},
	{"rmsnorm", func() *Layer { return RMSNorm(full(2, 4, 1), full(1, 4, 1), 1e-5) }},
	{"swiglu", func() *Layer { return SwiGLU(full(2, 4, 1), full(2, 4, 1)) }},
	{"rope", func() *Layer { return Rope(full(2, 4, 1), full(2, 2, 1), 4, false) }},
	{"attention", func() *Layer {
		return Attention(full(3, 4, 1), full(3, 2, 1), full(3, 2, 1), AttentionShape{H: 2, K: 1, D: 2, Starts: []int{0}, Scale: 1})
	}},
	{"cross-entropy", func() *Layer {
		return CrossEntropy(full(2, 3, 1), full(4, 3, 1), []int{1, 2}, []float64{0.5, 0.5})
	}},
}

// Names lists the layers that Graph draws.
func Names() []string {
	var out []string
	for _, s := range samples {
		out = append(out, s.name)
	}
	return out
}

// Graph returns a small instance of a layer in the DOT language, with the
// graph of its gradients where gradients is set.
func Graph(name string, gradients bool) (string, error) {
	for _, s := range samples {
		if s.name != name {
			continue
		}
		l := s.make()
		if gradients && l.err == nil {
			shape := l.y.Shape()
			l.cost(full(shape[0], shape.TotalSize()/shape[0], 1))
		}
		return l.Dot()
	}
	return "", fail.Usagef("graph", "known layers: "+strings.Join(Names(), ", "), "no layer is called %q", name)
}
