package lora

import (
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// tableLoRA is the adapter of an embedding: row v of the table [V, C] gets
// s·B·A[:, v] with A [r, V] and B [C, r]. A is held transposed, so that it is a table
// as well.
type tableLoRA struct {
	path, stored string
	r            int
	alpha        float64
	embed        *nn.Embedding
	low          *nn.LoRA
}

// The names of the two in PEFT's files, which have no .weight.
const embeddingA, embeddingB = ".lora_embedding_A", ".lora_embedding_B"

// attachTable makes the adapter of an embedding. A new one has a zero A and a normal B.
func (ad *Adapter) attachTable(e *nn.Embedding, stored string, seed uint64, f *Folder) error {
	if ad.Config.LoRABias {
		return fail.Usagef("lora.lora_bias", "leave it out of the target modules, or use lora_bias: false", "lora_bias is not supported on the embedding %s", e.Path)
	}
	if ad.Config.UseDoRA || ad.Config.InitWeights.onResidual() || ad.Config.InitWeights == InitLoftQ || ad.Config.InitWeights == InitOrthogonal {
		return fail.Usagef("lora.target_modules", "leave it out, or use init_lora_weights: true without use_dora", "use_dora and init_lora_weights: %s are not supported on the embedding %s", string(ad.Config.InitWeights), e.Path)
	}
	r, alpha, err := ad.Config.rankAlpha(e.Path)
	if err != nil {
		return err
	}
	v, c := e.W.Rows, e.W.Cols
	var a, b []float32
	if f != nil {
		if a, b, err = f.table(stored, r, v, c); err != nil {
			return err
		}
	} else {
		a, b = make([]float32, v*r), newStream(seed, stored+embeddingB).normal(c*r, 1)
	}
	l := &tableLoRA{path: e.Path, stored: stored, r: r, alpha: alpha, embed: e, low: &nn.LoRA{Scale: ad.Config.scale(r, alpha)}}
	ad.tables = append(ad.tables, l)
	if l.low.A, err = newParam(ad.dev, stored+embeddingA, v, r, a); err != nil {
		return err
	}
	if l.low.B, err = newParam(ad.dev, stored+embeddingB, c, r, b); err != nil {
		return err
	}
	e.Adapters = append(e.Adapters, l.low)
	return nil
}

// table returns Aᵀ [V, r] and B [C, r] of an embedding of v tokens.
func (f *Folder) table(path string, r, v, c int) (a, b []float32, err error) {
	if a, err = f.take(path+embeddingA, int64(r), int64(v)); err != nil {
		return nil, nil, err
	}
	b, err = f.take(path+embeddingB, int64(c), int64(r))
	return transposed(a, 1, r, v), b, err
}

// params are A and B as stored.
func (l *tableLoRA) params() []Param {
	return []Param{
		{Param: l.low.A, Shape: []int{l.r, l.low.A.Rows}, Group: "A", Decay: true, Table: true, turned: 1},
		{Param: l.low.B, Shape: []int{l.low.B.Rows, l.r}, Group: "B", Decay: true, Table: true},
	}
}

func (l *tableLoRA) free(dev kernels.Backend) {
	l.embed.Adapters = without(l.embed.Adapters, l.low)
	for _, p := range []*Param{{Param: l.low.A}, {Param: l.low.B}} {
		if p.Param != nil {
			dev.Free(p.Buffer)
		}
	}
}
