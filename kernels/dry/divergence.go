package dry

import "github.com/tunekit/tunekit/kernels"

// Divergence counts what it reads and writes.
func (d *Dry) Divergence(out *kernels.DivergenceOut, dlogits kernels.Dst, a *kernels.DivergenceArgs) {
	need("divergence: logits", a.Logits, a.N*a.V)
	need("divergence: teacher", a.Teacher, a.N*a.V)
	need("divergence: ids", a.TopIDs, a.N*a.Top)
	need("divergence: log-probabilities", a.TopLogP, a.N*a.Top)
	need("divergence: coef", a.Coef, a.N)
	for _, b := range []kernels.Buffer{out.Loss, out.Entropy} {
		need("divergence: out", b, a.N)
	}
	need("divergence: dlogits", dlogits.Buffer, a.N*a.V)
	d.add("Divergence", moved(a.Logits, a.Teacher, a.TopIDs, a.TopLogP, dlogits.Buffer))
}
