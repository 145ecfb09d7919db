package arch

import (
	"fmt"
	"slices"
)

// A change b·a of a tensor is [rows, r] times [r, cols], of a stack of experts
// [experts·r, cols], each expert's rows with their own part of a.

// LowRank is such a change as a piece of the file has it: the rows of b that are the
// piece's, in its order, and a with its columns in the file's order. Of experts the
// piece must hold all.
func (f FileTensor) LowRank(a, b []float32, r int) (fa, fb []float32, err error) {
	p, rows := f.piece, f.Of.Rows
	if err := f.keepsRows(); err != nil {
		return nil, nil, err
	}
	n := p.size(rows)
	fb = make([]float32, n*r)
	for i := range n {
		at := p.row(i, rows)
		copy(fb[i*r:(i+1)*r], b[at*r:])
		if e := f.Of.Experts; e > 0 && at/(rows/e) != i/(n/e) {
			return nil, nil, fmt.Errorf("%s does not hold the experts in their order", p.Name)
		}
	}
	p.multiply(fb, r, false)
	fa = append([]float32(nil), a...)
	p.columns(fa, f.Of.Cols, false)
	return fa, fb, nil
}

// FromLowRank is the inverse of LowRank: it writes the piece's rows of b.
func (f FileTensor) FromLowRank(fa, fb []float32, r int, b []float32) (a []float32, err error) {
	p, rows := f.piece, f.Of.Rows
	if err := f.keepsRows(); err != nil {
		return nil, err
	}
	fb = append([]float32(nil), fb...)
	p.multiply(fb, r, true)
	for i := range p.size(rows) {
		copy(b[p.row(i, rows)*r:][:r], fb[i*r:])
	}
	a = append([]float32(nil), fa...)
	p.columns(a, f.Of.Cols, true)
	return a, nil
}

// keepsRows refuses pieces whose rows are no rows of the tensor.
func (f FileTensor) keepsRows() error {
	if f.piece.Transpose || f.Of.Vector {
		return fmt.Errorf("%s is stored transposed: a low-rank change of it is none of its rows", f.Name)
	}
	if e := f.Of.Experts; len(f.Shape) > 2 && f.Matrices() != e || e > 0 && f.piece.size(f.Of.Rows)%e != 0 {
		return fmt.Errorf("%s is %v: a low-rank change of such a stack cannot be stored", f.Name, f.Shape)
	}
	return nil
}

// GGUFName is what GGUF files call the architecture.
func (s *Source) GGUFName() string { return s.arch.GGUF }

// latentUnheard are the matrices of latent attention.
var latentUnheard = []Role{Q, QA, QB, KVA, KVB}

// unheard are, by the architecture's name in GGUF, the matrices with which llama.cpp
// multiplies without looking for an adapter's (ggml_mul_mat beside build_lora_mm in
// src/models of b11549), or scales before it adds the adapter's (experts of Gemma 4).
var unheard = map[string][]Role{
	"deepseek2":   append([]Role{Head}, latentUnheard...),
	"deepseek32":  append([]Role{Head, IndexQ, IndexK, IndexW}, latentUnheard...),
	"glm-dsa":     append([]Role{Head, IndexQ, IndexK, IndexW}, latentUnheard...),
	"minicpm3":    latentUnheard,
	"kimi-linear": append([]Role{Head, K, V, MixDecay, MixDecayUp, MixBeta, MixGate, MixGateUp, MixOut}, latentUnheard...),
	"gemma3n":     {PartProject, AltRouter, StreamsIn, StreamsOut},
	"gemma4":      {PartProject, ExpertDown},
}

// Unheard reports whether llama.cpp, given a low-rank change of the tensor in a GGUF,
// would compute as if there were none, or another one.
func (s *Source) Unheard(r *Rule) bool { return slices.Contains(unheard[s.arch.GGUF], r.Role) }
