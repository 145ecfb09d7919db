package autograd

import (
	"fmt"

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
	t.recordAll(made, []*Tensor{logits, r.Idx}, func() {
		dl := t.grad(logits)
		a.Logits, a.Chosen = t.value(logits), nil // r.Idx has them
		if t.err == nil {
			t.Dev.RouteBackward(dl, r.Weight.gradient(), r.Probs.gradient(), &kernels.RouteOut{Idx: r.Idx.Data}, &a)
		}
	})
	return r
}

// gradient is the memory of x's gradient, nil while nothing has flowed there.
func (x *Tensor) gradient() kernels.Buffer {
	if x.grad == nil {
		return nil
	}
	return x.grad.buf
}
