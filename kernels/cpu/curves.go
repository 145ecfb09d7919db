package cpu

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
)

// A curve computes an activation's values v and slopes s; v or s may be x.

// curves are the activations without numbers of their own.
var curves = map[kernels.ActKind]func(v, s, x []float32){
	kernels.GELU: vec.GELU.Slope, kernels.GELUTanh: vec.GELUTanh.Slope, kernels.Tanh: vec.Tanh.Slope, kernels.ReLU: relu,
	kernels.ReLU2: curve64(relu2), kernels.Sigmoid: curve64(sigmoid), kernels.Softplus: curve64(softplus),
	kernels.QuickGELU: curve64(swish(1.702, math.Inf(1))),
}

// curveOf is the curve of an activation other than SiLU.
func curveOf(a *kernels.ActArgs) func(v, s, x []float32) {
	if f := curves[a.Kind]; f != nil {
		return f
	}
	switch a.Kind {
	case kernels.XIELU:
		return curve64(xielu(a.ActParams))
	case kernels.ClampedSwiGLU:
		return curve64(swish(float64(a.Alpha), limitOf(a.Limit)))
	case kernels.LimitedSwiGLU:
		return curve64(swish(1, limitOf(a.Limit)))
	case kernels.Clip:
		return clip(float32(limitOf(a.Limit)))
	case kernels.Rsqrt:
		return curve64(rsqrt(float64(a.Limit)))
	}
	panic(fmt.Sprintf("cpu: act: no activation %d", a.Kind))
}

func relu(v, s, x []float32) {
	for i, x := range x {
		switch {
		case x > 0:
			v[i], s[i] = x, 1
		case x != x:
			v[i], s[i] = x, x
		default:
			v[i], s[i] = 0, 0
		}
	}
}

func clip(limit float32) func(v, s, x []float32) {
	return func(v, s, x []float32) {
		for i, x := range x {
			v[i], s[i] = min(max(x, -limit), limit), 1
			if x > limit || x < -limit {
				s[i] = 0
			}
		}
	}
}

// curve64 computes a function of one number in float64.
func curve64(f func(x float64) (v, s float64)) func(v, s, x []float32) {
	return func(v, s, x []float32) {
		for i, x := range x {
			a, b := f(float64(x))
			v[i], s[i] = float32(a), float32(b)
		}
	}
}

// rsqrt is 1/√x, flat below the least value.
func rsqrt(least float64) func(x float64) (v, s float64) {
	return func(x float64) (v, s float64) {
		v = 1 / math.Sqrt(max(x, least))
		if x > least {
			s = -v / (2 * x)
		}
		return v, s
	}
}

func relu2(x float64) (v, s float64) {
	if x < 0 {
		return 0, 0
	}
	return x * x, 2 * x
}

func sigmoid(x float64) (v, s float64) {
	v = 1 / (1 + math.Exp(-x))
	return v, v * (1 - v)
}

func softplus(x float64) (v, s float64) {
	s, _ = sigmoid(x)
	return max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))), s
}

// swish is x·σ(alpha·x), flat from limit on.
func swish(alpha, limit float64) func(x float64) (v, s float64) {
	return func(x float64) (v, s float64) {
		cut := min(x, limit)
		p, dp := sigmoid(alpha * cut)
		v = cut * p
		if x <= limit {
			s = p + alpha*cut*dp
		}
		return v, s
	}
}

func xielu(p kernels.ActParams) func(x float64) (v, s float64) {
	pos, neg, beta, eps := float64(p.AlphaP), float64(p.AlphaN), float64(p.Beta), float64(p.Eps)
	return func(x float64) (v, s float64) {
		if x > 0 {
			return pos*x*x + beta*x, 2*pos*x + beta
		}
		s = beta - neg
		if x <= eps {
			s += neg * math.Exp(x)
		}
		return neg*(math.Expm1(min(x, eps))-x) + beta*x, s
	}
}

// limitOf is a bound where 0 is none.
func limitOf(limit float32) float64 {
	if limit == 0 {
		return math.Inf(1)
	}
	return float64(limit)
}

// opened writes u within ±limit, plus add.
func opened(dst, u []float32, limit, add float32) []float32 {
	most := float32(limitOf(limit))
	for i, v := range u {
		dst[i] = min(max(v, -most), most) + add
	}
	return dst
}

// shut clears v where u lies outside of ±limit: no gradient flows there.
func shut(v, u []float32, limit float32) {
	most := float32(limitOf(limit))
	for i, x := range u {
		if x > most || x < -most {
			v[i] = 0
		}
	}
}
