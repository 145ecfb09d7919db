package autograd_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// TestDivergence: a head in parts of two rows, compared with a teacher: loss,
// entropy, and the gradients of hidden states and head.
func TestDivergence(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	const n, c, v = 5, 4, 9
	r := rand.New(rand.NewPCG(3, 1))
	in := [][]float64{normal(r, n*c), normal(r, v*c)}
	teacher, coef := normal(r, n*v), []float64{0.5, 1, 0, 2, -1}
	for _, beta := range []float64{0, 0.3, 1} {
		forward := func(in [][]float64) []float64 {
			out := make([]float64, n)
			for i := range n {
				z := make([]float64, v)
				for k := range v {
					z[k] = 0.5 * dot(in[0][i*c:(i+1)*c], in[1][k*c:(k+1)*c])
				}
				out[i] = jensen(probabilities(z), probabilities(teacher[i*v:(i+1)*v]), beta)
			}
			return out
		}
		want := central(&gradCase{forward: forward}, in, coef)
		w := newParam(t, dev, "w", v, c, in[1])
		tape := &autograd.Tape{Dev: dev, Record: true}
		x := tape.Input(single(in[0]), n, c)
		other := tape.Upload(single(teacher), n, v)
		var loss []float32
		tape.Parts(x, 2, func(part *autograd.Tape, x *autograd.Tensor, from int) {
			m := x.Rows()
			logits := part.Linear(x, w, nil)
			spec := autograd.DivergenceSpec{Scale: 0.5, Teacher: part.View(other, from, m), Beta: float32(beta)}
			l, _ := part.Divergence(logits, spec, part.Upload(single(coef)[from:from+m], m))
			part.Done(logits)
			got, err := part.Values(l)
			if err != nil {
				t.Fatal(err)
			}
			loss = append(loss, got...)
		})
		compare(t, "loss", loss, forward(in), tolerance)
		if err := tape.Backward(); err != nil {
			t.Fatal(err)
		}
		gx, err := tape.GradOf(x)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, "gradient of h", gx, want[0], tolerance)
		compare(t, "gradient of w", download(t, dev, w.Grad), want[1], tolerance)
		tape.Free()
	}
	leaks(t, dev)
}

func probabilities(z []float64) []float64 {
	out, sum := make([]float64, len(z)), 0.0
	for i, v := range z {
		out[i] = math.Exp(v)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// jensen is the generalized Jensen-Shannon divergence of p and a teacher's q.
func jensen(p, q []float64, beta float64) float64 {
	sum := 0.0
	for i := range p {
		m := beta*q[i] + (1-beta)*p[i]
		switch beta {
		case 0:
			sum += q[i] * math.Log(q[i]/p[i])
		case 1:
			sum += p[i] * math.Log(p[i]/q[i])
		default:
			sum += beta*q[i]*math.Log(q[i]/m) + (1-beta)*p[i]*math.Log(p[i]/m)
		}
	}
	return sum
}
