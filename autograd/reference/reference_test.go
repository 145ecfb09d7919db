package reference

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

func random(r *rand.Rand, rows, cols int, scale float64) Matrix {
	m := NewMatrix(rows, cols)
	for i := range m.Data {
		m.Data[i] = scale * r.NormFloat64()
	}
	return m
}

// cases are the layers with the matrices their gradients are taken of; build
// makes the layer from them.
func cases(r *rand.Rand) []struct {
	in    map[string]Matrix
	build func(in map[string]Matrix) *Layer
} {
	type c = struct {
		in    map[string]Matrix
		build func(in map[string]Matrix) *Layer
	}
	angle := random(r, 5, 2, 2)
	return []c{
		{map[string]Matrix{"x": random(r, 3, 4, 1), "w": random(r, 5, 4, 1), "bias": random(r, 1, 5, 1), "a": random(r, 2, 4, 1), "b": random(r, 5, 2, 1)},
			func(in map[string]Matrix) *Layer { return Linear(in["x"], in["w"], in["bias"], in["a"], in["b"], 1.5) }},
		{map[string]Matrix{"x": random(r, 3, 4, 1), "w": random(r, 1, 4, 1)},
			func(in map[string]Matrix) *Layer { return RMSNorm(in["x"], in["w"], 1e-3) }},
		{map[string]Matrix{"gate": random(r, 3, 4, 1), "up": random(r, 3, 4, 1)},
			func(in map[string]Matrix) *Layer { return SwiGLU(in["gate"], in["up"]) }},
		{map[string]Matrix{"x": random(r, 5, 8, 1)},
			func(in map[string]Matrix) *Layer { return Rope(in["x"], angle, 4, false) }},
		{map[string]Matrix{"x": random(r, 5, 8, 1)},
			func(in map[string]Matrix) *Layer { return Rope(in["x"], angle, 4, true) }},
		{map[string]Matrix{"q": random(r, 6, 8, 1), "k": random(r, 6, 4, 1), "v": random(r, 6, 4, 1)},
			func(in map[string]Matrix) *Layer {
				return Attention(in["q"], in["k"], in["v"], AttentionShape{H: 4, K: 2, D: 2, Starts: []int{0, 4}, Scale: 0.7, Window: 3})
			}},
		{map[string]Matrix{"h": random(r, 4, 3, 1), "w": random(r, 5, 3, 1)},
			func(in map[string]Matrix) *Layer {
				return CrossEntropy(in["h"], in["w"], []int{1, -1, 4, 0}, []float64{0.5, 1, 0.25, 2})
			}},
	}
}

// weighted is Σ dy·y of a layer.
func weighted(t *testing.T, l *Layer, dy Matrix) (float64, *Result) {
	t.Helper()
	r, err := l.Run(dy)
	if err != nil {
		t.Fatal(err)
	}
	s := 0.0
	for i, v := range r.Y.Data {
		s += v * dy.Data[i]
	}
	return s, r
}

// The oracle itself against central differences.
func TestGradients(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range cases(r) {
		l := c.build(c.in)
		shape := l.y.Shape()
		dy := random(r, shape[0], shape.TotalSize()/shape[0], 1)
		_, got := weighted(t, l, dy)
		for name, m := range c.in {
			for i, v := range m.Data {
				const h = 1e-5
				m.Data[i] = v + h
				up, _ := weighted(t, c.build(c.in), dy)
				m.Data[i] = v - h
				down, _ := weighted(t, c.build(c.in), dy)
				m.Data[i] = v
				want := (up - down) / (2 * h)
				if d := math.Abs(got.Grads[name].Data[i] - want); d > 1e-7*(1+math.Abs(want)) {
					t.Fatalf("%s: gradient of %s[%d] is %g, central difference %g", l.Name, name, i, got.Grads[name].Data[i], want)
				}
			}
		}
	}
}

func TestGraph(t *testing.T) {
	for _, name := range Names() {
		plain, err := Graph(name, false)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(plain, "digraph") || !strings.Contains(plain, "->") {
			t.Errorf("%s: no graph: %.60q", name, plain)
		}
		both, err := Graph(name, true)
		if err != nil || strings.Count(both, "->") <= strings.Count(plain, "->") {
			t.Errorf("%s: gradients add no edges (%v)", name, err)
		}
		if again, err := Graph(name, true); again != both || err != nil || strings.Contains(both, "0x") {
			t.Errorf("%s: another graph each time (%v)", name, err)
		}
	}
	if _, err := Graph("softmax", false); fail.Code(err) != int(fail.Usage) {
		t.Errorf("unknown layer: %v", err)
	}
}
