// Package reference computes the layers of a transformer and their gradients a
// second time, in float64 and with Gorgonia's symbolic differentiation. It
// shares no line with package autograd, which is what a gradient check needs.
// It is an oracle for tests, `tune doctor` and `tune graph`, not an engine:
// everything is built from matrix products and element-wise operations, one
// graph a call.
//
// It is the only package that imports Gorgonia.
package reference

import (
	"fmt"
	"strings"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// Matrix is a float64 matrix, row major.
type Matrix struct {
	Rows, Cols int
	Data       []float64
}

// NewMatrix returns a matrix of zeros.
func NewMatrix(rows, cols int) Matrix {
	return Matrix{rows, cols, make([]float64, rows*cols)}
}

// Layer is one layer with its inputs, ready to be evaluated or drawn. Y is the
// graph of its result; for a loss Y is 1×1.
type Layer struct {
	Name string

	g      *G.ExprGraph
	y      *G.Node
	names  []string // of the inputs that have gradients
	inputs []*G.Node
	consts int
	err    error
}

// Result is a layer's output and the gradients of Σ dy·y, by input.
type Result struct {
	Y     Matrix
	Grads map[string]Matrix
}

// builder makes a layer; the first error sticks.
func newLayer(name string) *Layer { return &Layer{Name: name, g: G.NewGraph()} }

func (l *Layer) input(name string, m Matrix) *G.Node {
	n := l.node(name, m)
	l.names = append(l.names, name)
	l.inputs = append(l.inputs, n)
	return n
}

// constant is a matrix that no gradient is wanted for.
func (l *Layer) constant(m Matrix) *G.Node {
	l.consts++
	return l.node(fmt.Sprintf("const%d", l.consts), m)
}

func (l *Layer) node(name string, m Matrix) *G.Node {
	if len(m.Data) != m.Rows*m.Cols || m.Rows == 0 || m.Cols == 0 {
		panic(fmt.Sprintf("reference: %s %s: %d values for [%d %d]", l.Name, name, len(m.Data), m.Rows, m.Cols))
	}
	v := tensor.New(tensor.WithShape(m.Rows, m.Cols), tensor.WithBacking(append([]float64(nil), m.Data...)))
	return G.NewMatrix(l.g, tensor.Float64, G.WithName(name), G.WithShape(m.Rows, m.Cols), G.WithValue(v))
}

func (l *Layer) keep(n *G.Node, err error) *G.Node {
	if err != nil && l.err == nil {
		l.err = fmt.Errorf("reference: %s: %w", l.Name, err)
	}
	return n
}

// Each operation does nothing once one has failed.

func (l *Layer) two(f func(a, b *G.Node) (*G.Node, error), a, b *G.Node) *G.Node {
	if l.err != nil {
		return nil
	}
	return l.keep(f(a, b))
}

func (l *Layer) one(f func(a *G.Node) (*G.Node, error), a *G.Node) *G.Node {
	if l.err != nil {
		return nil
	}
	return l.keep(f(a))
}

func (l *Layer) mul(a, b *G.Node) *G.Node { return l.two(G.Mul, a, b) } // matrix product
func (l *Layer) add(a, b *G.Node) *G.Node { return l.two(G.Add, a, b) }
func (l *Layer) sub(a, b *G.Node) *G.Node { return l.two(G.Sub, a, b) }
func (l *Layer) times(a, b *G.Node) *G.Node { // element by element
	return l.two(G.HadamardProd, a, b)
}
func (l *Layer) over(a, b *G.Node) *G.Node { return l.two(G.HadamardDiv, a, b) }
func (l *Layer) exp(a *G.Node) *G.Node     { return l.one(G.Exp, a) }
func (l *Layer) log(a *G.Node) *G.Node     { return l.one(G.Log, a) }
func (l *Layer) sqrt(a *G.Node) *G.Node    { return l.one(G.Sqrt, a) }
func (l *Layer) sigmoid(a *G.Node) *G.Node { return l.one(G.Sigmoid, a) }
func (l *Layer) transpose(a *G.Node) *G.Node {
	return l.one(func(a *G.Node) (*G.Node, error) { return G.Transpose(a) }, a)
}

// rowSums is a·1 [n, 1] spread over cols columns: a·1·1ᵀ.
func (l *Layer) rowSums(a *G.Node, n, width, cols int, scale float64) *G.Node {
	return l.mul(l.mul(a, l.constant(full(width, 1, scale))), l.constant(full(1, cols, 1)))
}

// spread repeats a row [1, c] n times.
func (l *Layer) spread(row *G.Node, n int) *G.Node {
	return l.mul(l.constant(full(n, 1, 1)), row)
}

func full(rows, cols int, v float64) Matrix {
	m := NewMatrix(rows, cols)
	for i := range m.Data {
		m.Data[i] = v
	}
	return m
}

// Run evaluates the layer and the gradients of Σ dy·y; dy [rows, cols of y].
func (l *Layer) Run(dy Matrix) (*Result, error) {
	grads := l.cost(dy)
	if l.err != nil {
		return nil, l.err
	}
	out := make([]G.Value, len(grads)+1)
	for i, n := range append(grads, l.y) {
		G.Read(n, &out[i])
	}
	vm := G.NewTapeMachine(l.g)
	defer vm.Close()
	if err := vm.RunAll(); err != nil {
		return nil, fmt.Errorf("reference: %s: %w", l.Name, err)
	}
	r := &Result{Y: matrix(out[len(grads)], l.y), Grads: map[string]Matrix{}}
	for i, name := range l.names {
		r.Grads[name] = matrix(out[i], l.inputs[i])
	}
	return r, nil
}

// cost adds Σ dy·y and its gradients to the graph and returns the gradients.
func (l *Layer) cost(dy Matrix) G.Nodes {
	c := l.one(func(a *G.Node) (*G.Node, error) { return G.Sum(a) }, l.times(l.y, l.constant(dy)))
	if l.err != nil {
		return nil
	}
	grads, err := G.Grad(c, l.inputs...)
	l.keep(nil, err)
	return grads
}

// matrix copies a value in the shape of n.
func matrix(v G.Value, n *G.Node) Matrix {
	s := n.Shape()
	m := NewMatrix(s[0], s.TotalSize()/s[0])
	d, ok := v.(*tensor.Dense)
	if !ok {
		m.Data[0] = v.Data().(float64)
		return m
	}
	if d.RequiresIterator() || d.DataOrder().IsColMajor() {
		d = d.Materialize().(*tensor.Dense)
	}
	copy(m.Data, d.Data().([]float64))
	return m
}

// Dot returns the layer's graph in the DOT language.
func (l *Layer) Dot() (string, error) {
	if l.err != nil {
		return "", l.err
	}
	var b strings.Builder
	b.WriteString("digraph layer {\n\trankdir=TB;\n\tnode [fontname=monospace shape=box];\n")
	for _, n := range l.g.AllNodes() { // in the order in which they were made
		label, style := n.Name(), " style=filled"
		if op := n.Op(); op != nil {
			label, style = op.String(), ""
		}
		fmt.Fprintf(&b, "\tn%d [label=%q%s];\n", n.ID(), fmt.Sprintf("%s\n%v", label, n.Shape()), style)
		for from := l.g.From(n.ID()); from.Next(); {
			fmt.Fprintf(&b, "\tn%d -> n%d;\n", from.Node().ID(), n.ID())
		}
	}
	b.WriteString("}\n")
	return b.String(), nil
}
