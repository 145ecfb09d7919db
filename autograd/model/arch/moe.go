package arch

import (
	"fmt"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// MoE is a feed-forward part of E gated experts, of which a router chooses K
// for each token and sums what they make, weighted.
type MoE struct {
	E, K   int
	F      int // inner size of an expert
	Dense  int // of a layer without experts, where files state it beside F; 0: they don't
	Shared int // inner size of one more expert that serves every token, as much as a gate says; 0: none
	Act    kernels.ActKind
	Route  kernels.RouteKind
	Renorm bool // a token's weights sum to 1
}

func (m *MoE) check(*Spec) error {
	if err := checkSizes(size{"experts", m.E, 1 << 14}, size{"experts per token", m.K, m.E}, size{"feed-forward size", m.F, maxWidth}); err != nil {
		return err
	}
	if m.Shared < 0 || m.Shared > maxWidth {
		return fmt.Errorf("size of the shared expert is %d", m.Shared)
	}
	return checkSizes(size{"experts' rows", 2 * m.E * m.F, 1 << 30})
}

// moe is the first feed-forward part of its kind, nil where there is none.
func (s *Spec) moe() *MoE { return first[*MoE](s) }

// withExperts puts experts like m in place of every feed-forward part, with its
// activation and, where m states none, its inner size.
func (s *Spec) withExperts(m MoE) {
	if mlp := s.mlp(); mlp != nil {
		if m.Act = mlp.Act; m.F == 0 {
			m.F = mlp.F
		} else {
			m.Dense = mlp.F
		}
	}
	for _, l := range s.Layers {
		for i := range l.Sublayers {
			if _, ok := l.Sublayers[i].Body.(*MLP); ok {
				l.Sublayers[i].Body = &m
			}
		}
	}
}

// experts reads the numbers of experts; of a model without any they are 0.
func (m *Metadata) experts() MoE {
	return MoE{E: m.Int(0, "expert_count"), K: m.Int(0, "expert_used_count"), F: m.Int(0, "expert_feed_forward_length"), Shared: m.Int(0, "expert_shared_feed_forward_length")}
}

// expertNames are the names of a layer's router and of one expert's maps in
// Hugging Face files; %d is the expert.
type expertNames struct{ router, gate, up, down string }

// hubExperts are the usual ones.
var hubExperts = expertNames{"mlp.gate", "mlp.experts.%d.gate_proj", "mlp.experts.%d.up_proj", "mlp.experts.%d.down_proj"}

// experts adds a router and its experts. In memory, and to adapters, they are
// what Transformers makes of them: one tensor of all experts' gate and up rows,
// and one of their down rows.
func (b *rules) experts(m *MoE, width int, n expertNames) {
	r := b.matrix(Router, "mlp.gate", "ffn_gate_inp", m.E, width)
	r.HF[0].Name = b.hf + n.router + ".weight"
	in := b.add(Rule{Role: ExpertGateUp, Experts: m.E, Rows: 2 * m.E * m.F, Cols: width}, "mlp.experts.gate_up_proj", "")
	in.HF, in.GGUF = nil, []Piece{
		{Name: b.gguf + "ffn_gate_exps.weight", Rows: Rows{0, m.F, 2 * m.F, m.E}},
		{Name: b.gguf + "ffn_up_exps.weight", Rows: Rows{m.F, m.F, 2 * m.F, m.E}},
	}
	for e := range m.E {
		in.HF = append(in.HF,
			Piece{Name: b.hf + fmt.Sprintf(n.gate, e) + ".weight", Rows: Rows{2 * e * m.F, m.F, m.F, 1}},
			Piece{Name: b.hf + fmt.Sprintf(n.up, e) + ".weight", Rows: Rows{(2*e + 1) * m.F, m.F, m.F, 1}})
	}
	out := b.add(Rule{Role: ExpertDown, Experts: m.E, Rows: m.E * width, Cols: m.F}, "mlp.experts.down_proj", "")
	out.HF, out.GGUF = nil, []Piece{{Name: b.gguf + "ffn_down_exps.weight", Shape: []int64{int64(m.E), int64(width), int64(m.F)}}}
	for e := range m.E {
		out.HF = append(out.HF, Piece{Name: b.hf + fmt.Sprintf(n.down, e) + ".weight", Rows: Rows{e * width, width, width, 1}})
	}
	if m.Shared > 0 {
		b.matrix(SharedRouter, "mlp.shared_expert_gate", "ffn_gate_inp_shexp", 1, width)
		b.matrix(SharedGate, "mlp.shared_expert.gate_proj", "ffn_gate_shexp", m.Shared, width)
		b.matrix(SharedUp, "mlp.shared_expert.up_proj", "ffn_up_shexp", m.Shared, width)
		b.matrix(SharedDown, "mlp.shared_expert.down_proj", "ffn_down_shexp", width, m.Shared)
	}
}

// expertKV are the keys of experts below prefix p.
func expertKV(m *MoE, p string) []formats.KV {
	kv := []formats.KV{{Key: p + ".expert_count", Value: uint32(m.E)}, {Key: p + ".expert_used_count", Value: uint32(m.K)}}
	if m.Dense > 0 {
		kv = append(kv, formats.KV{Key: p + ".expert_feed_forward_length", Value: uint32(m.F)})
	}
	if m.Shared > 0 {
		kv = append(kv, formats.KV{Key: p + ".expert_shared_feed_forward_length", Value: uint32(m.Shared)})
	}
	return kv
}
