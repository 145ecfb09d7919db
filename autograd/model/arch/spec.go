// Package arch describes model architectures as data: how a config.json or the
// metadata of a GGUF becomes a Spec, what each tensor is called in every file
// format and how its rows are ordered there. It holds no tensors and runs
// nothing; a new architecture is one file and one line in archs.go.
//
// In memory everything has Hugging Face orientation ([out, in]), experts one
// below another. A Rule says what a tensor is (its Role) and in which pieces a
// file keeps it; Source and Sink apply the rules on the way in and out, so that
// names and layouts of files end here.
package arch

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
)

// Spec is a decoder-only transformer as data. Letters as in package kernels.
type Spec struct {
	Arch   string // key of the table in archs.go
	C      int    // hidden size
	V      int    // vocabulary rows of the embedding
	Layers int
	H, K   int // query and key/value heads
	D      int // head size
	F      int // feed-forward size
	Rot    int // rotated elements of a head
	MaxPos int // context length

	Eps      float32
	Act      kernels.ActKind
	Pairs    kernels.Pairs // in Hugging Face row order
	Rope     RopeSpec
	Tied     bool // the head is the embedding
	AttnBias bool // q, k, v
	OutBias  bool // attention output
	MLPBias  bool
	Window   []int // by layer, 0: full attention; nil: all full

	// Scalars of some families; 0 stands for the usual value.
	EmbedScale, LogitScale, ResidualScale, AttnScale float32
}

// WindowOf is the attention window of a layer, 0 for none.
func (s *Spec) WindowOf(layer int) int {
	if layer < len(s.Window) {
		return s.Window[layer]
	}
	return 0
}

// ScoreScale is the factor on attention scores.
func (s *Spec) ScoreScale() float32 {
	if s.AttnScale != 0 {
		return s.AttnScale
	}
	return float32(1 / math.Sqrt(float64(s.D)))
}

// Limits on what a file may claim, far above every published model.
const (
	maxLayers = 4096
	maxWidth  = 1 << 20
	maxHeads  = 4096
	maxVocab  = 1 << 24
)

// check refuses sizes that no model has and that would make later arithmetic
// divide by zero or overflow.
func (s *Spec) check() error {
	for _, d := range []struct {
		name     string
		v, limit int
	}{
		{"hidden size", s.C, maxWidth}, {"vocabulary", s.V, maxVocab}, {"layers", s.Layers, maxLayers},
		{"attention heads", s.H, maxHeads}, {"key/value heads", s.K, maxHeads}, {"head size", s.D, 1 << 14},
		{"feed-forward size", s.F, maxWidth}, {"rotary size", s.Rot, 1 << 14}, {"context length", s.MaxPos, 1 << 28},
	} {
		if d.v <= 0 || d.v > d.limit {
			return fmt.Errorf("%s is %d, allowed 1 to %d", d.name, d.v, d.limit)
		}
	}
	if s.H%s.K != 0 {
		return fmt.Errorf("%d attention heads are no multiple of %d key/value heads", s.H, s.K)
	}
	if s.Rot > s.D || s.Rot%2 != 0 {
		return fmt.Errorf("rotary size %d does not fit head size %d", s.Rot, s.D)
	}
	if !(s.Eps > 0 && s.Eps < 1) {
		return fmt.Errorf("normalisation epsilon is %g", s.Eps)
	}
	return s.Rope.check()
}
