package autograd

import (
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Routed is where N tokens go: K of E experts each. Sorted rows are the choices
// by expert, those of one expert by token (see kernels.RouteOut).
//
// What experts read is Rows(x, Token), what they made goes back to the tokens
// by Combine(y, Place, Weight).
type Routed struct {
	Idx    *Tensor // [N, K] int32: the experts of each token
	Weight *Tensor // [N, K] f32: their weights; has a gradient
	Token  *Tensor // [N·K] int32: the token of each sorted row
	Place  *Tensor // [N, K] int32: the sorted row of each choice
	Group  *Tensor // [E+1] int32: where the rows of each expert begin
	// Probs [E] f32 is Σ_n of the router's distribution, for a loss that balances
	// experts; has a gradient. nil outside training.
	Probs *Tensor
}

// Experts is E; 1 of a nil r, which is the rows of a single weight.
func (r *Routed) Experts() int {
	if r == nil {
		return 1
	}
	return r.Group.Len() - 1
}

// Tensors lists all that r holds, for Done.
func (r *Routed) Tensors() []*Tensor {
	return []*Tensor{r.Idx, r.Weight, r.Token, r.Place, r.Group, r.Probs}
}

// RoutedOf is the Routed whose Tensors are ts.
func RoutedOf(ts []*Tensor) *Routed {
	return &Routed{Idx: ts[0], Weight: ts[1], Token: ts[2], Place: ts[3], Group: ts[4], Probs: ts[5]}
}

// reads lists what a linear map over experts reads of r; nothing of nil.
func (r *Routed) reads() []*Tensor {
	if r == nil {
		return nil
	}
	return []*Tensor{r.Group, r.Token}
}

// Route sends the tokens of logits [N, E] to experts as a says, whose N, E and
// Logits are set here. Its other buffers are not the tape's: they must outlive it.
func (t *Tape) Route(logits *Tensor, a kernels.RouteArgs) *Routed {
	a.N, a.E = logits.Rows(), logits.Cols()
	if a.K < 1 || a.K > a.E {
		panic(fmt.Sprintf("autograd: route: %d of the %d experts of logits %v", a.K, a.E, logits.Shape))
	}
	ints := func(shape ...int) *Tensor { return t.alloc(kernels.Activations, dtype.I32, shape...) }
	r := &Routed{Idx: ints(a.N, a.K), Weight: t.New(a.N, a.K), Token: ints(a.N * a.K), Place: ints(a.N, a.K), Group: ints(a.E + 1)}
	made := []*Tensor{r.Weight}
	out := &kernels.RouteOut{Idx: r.Idx.Data, Weight: r.Weight.Data, Token: r.Token.Data, Place: r.Place.Data, Group: r.Group.Data}
	if t.Record || t.redo {
		r.Probs = t.New(a.E)
		out.Probs = r.Probs.Data
		made = append(made, r.Probs)
	}
	for _, y := range made {
		y.needs = logits.needs
	}
	if a.Logits = t.value(logits); t.err != nil {
		return r
	}
	t.Dev.Route(out, &a)
	if t.Balance != nil && r.Probs != nil && !t.lazy {
		t.Balance.see(t, r, logits)
	}
	t.recordAll(made, []*Tensor{logits, r.Idx}, func() {
		dl := t.grad(logits)
		a.Logits, a.Chosen = t.value(logits), nil // r.Idx has them
		dprobs := r.Probs.gradient()
		if t.Balance != nil {
			dprobs = t.Balance.slope
		}
		if t.err == nil {
			t.Dev.RouteBackward(dl, r.Weight.gradient(), dprobs, &kernels.RouteOut{Idx: r.Idx.Data}, &a)
		}
		if t.Balance != nil && t.Balance.Z != 0 {
			t.Balance.shrink(t, logits, dl.Buffer)
		}
	})
	return r
}

// Balance is what is added to a loss for the routers of a tape, over all of them together
// as Transformers has it. It spreads tokens over experts (Fedus et al. 2021,
// arXiv:2101.03961, section 2.2): Coef·E·Σ_e f_e·P_e with f_e the choices of expert e and
// P_e the router's probability for it, both for each token and router; f has no gradient.
// And it keeps logits small (Zoph et al. 2022, arXiv:2202.08906, equation 5): Z times the
// mean over tokens and routers of (log Σ_e e^l)².
type Balance struct {
	Coef, Z float64
	f, p    []float64 // [E] sums
	z       float64   // sum of (log Σ e^l)²
	rows    int       // tokens of all routers
	slope   kernels.Buffer
}

// see counts what one router did with the tokens of logits.
func (b *Balance) see(t *Tape, r *Routed, logits *Tensor) {
	group, err := t.Ints(r.Group)
	t.Fail(err)
	probs, err := t.Values(r.Probs)
	t.Fail(err)
	var each []float32
	if b.Z != 0 {
		each, err = t.Values(logits)
		t.Fail(err)
	}
	if t.err != nil {
		return
	}
	if b.f == nil {
		b.f, b.p = make([]float64, len(probs)), make([]float64, len(probs))
	}
	if len(probs) != len(b.f) {
		panic(fmt.Sprintf("autograd: balance of routers of %d and %d experts", len(b.f), len(probs)))
	}
	b.rows += logits.Rows()
	for e, p := range probs {
		b.f[e] += float64(group[e+1] - group[e])
		b.p[e] += float64(p)
	}
	for row := range slices.Chunk(each, len(probs)) {
		z := logSum(row)
		b.z += float64(z * z)
	}
}

// shrink adds the gradient of Z's part to that of logits.
func (b *Balance) shrink(t *Tape, logits *Tensor, to kernels.Buffer) {
	each, err := t.Values(logits)
	if t.Fail(err); t.err != nil {
		return
	}
	for row := range slices.Chunk(each, logits.Cols()) {
		z := logSum(row)
		c := 2 * b.Z * z / float64(b.rows)
		for i, l := range row {
			row[i] = float32(c * math.Exp(float64(l)-z))
		}
	}
	d := t.Upload(each, logits.Shape...)
	if t.err == nil {
		t.Dev.Add(kernels.Into(to), &kernels.AddArgs{N: len(each), A: d.Data, Alpha: 1})
	}
	t.Done(d)
}

// logSum is log Σ e^l.
func logSum(ls []float32) float64 {
	top, sum := float64(slices.Max(ls)), 0.0
	for _, l := range ls {
		sum += math.Exp(float64(l) - top)
	}
	return top + math.Log(sum)
}

// Loss returns the loss of what t ran, 0 without a router, and gives Backward its
// gradient. Call it once, between the last router and Backward.
func (b *Balance) Loss(t *Tape) float64 {
	if b.rows == 0 {
		return 0
	}
	e, n := float64(len(b.f)), float64(b.rows)
	loss, slope := float64(b.Z*b.z)/n, make([]float32, len(b.f))
	for i, f := range b.f {
		loss += float64(b.Coef * e * f / n * b.p[i] / n)
		slope[i] = float32(b.Coef * e * f / n / n)
	}
	b.slope = t.Upload(slope, len(slope)).Data
	return loss
}

// gradient is the memory of x's gradient, nil while nothing has flowed there.
func (x *Tensor) gradient() kernels.Buffer {
	if x.grad == nil {
		return nil
	}
	return x.grad.buf
}
