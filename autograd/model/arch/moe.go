package arch

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// MoE is a feed-forward part of E gated experts, of which a router chooses K
// for each token and sums what they make, weighted.
type MoE struct {
	E, K  int
	F     int // inner size of an expert
	Dense int // of a layer without experts, where files state it beside F; 0: they don't

	Act       kernels.ActKind
	ActParams kernels.ActParams
	Ungated   bool // experts have no gate: what ExpertGateUp and SharedUp name is up alone
	InTurn    bool // gate and up rows of an expert alternate; else all gate rows come first
	Bias      bool // of the router and of the experts' maps

	// Narrow is the width of what experts read and make, of which a map of the input
	// and one of their sum take care; the router and the shared expert read the input.
	// 0: that of the model.
	Narrow int

	Shared      int  // inner size of one more expert, for every token; 0: none
	SharedBias  bool // of its maps, and of those around narrower experts
	SharedGated bool // a token takes as much of it as a gate of its own says; else all
	Average     bool // what it makes and what the others do together are averaged; else added

	// Pre is the norm of what experts read, not the router; None: none.
	Pre Role
	// RouterNorm: the router reads a norm of its own of the input, divided by √C.
	RouterNorm bool
	Scaled     bool // each expert has a factor on its weight for a token

	Hashed bool // a table has the experts of each token; the router weighs them

	// Route says how experts are chosen and weighed. K is above, and what belongs
	// to tokens is set when they are routed.
	Route      kernels.RouteArgs
	Select     bool // Route has a bias: a vector that only chooses
	WeighInput bool // an expert's weight multiplies what it reads, not what it makes
}

func (m *MoE) check(*Spec) error {
	if err := checkSizes(size{"experts", m.E, 1 << 14}, size{"experts per token", m.K, m.E}, size{"feed-forward size", m.F, maxWidth}); err != nil {
		return err
	}
	if m.Shared < 0 || m.Shared > maxWidth {
		return fmt.Errorf("size of the shared expert is %d", m.Shared)
	}
	if m.Narrow < 0 || m.Narrow > maxWidth {
		return fmt.Errorf("width of experts is %d", m.Narrow)
	}
	if m.WeighInput && m.K != 1 && m.Route != (kernels.RouteArgs{Kind: kernels.RouteSigmoid}) {
		return lack{fmt.Errorf("weights on what %d experts of a token read are supported where each is the sigmoid of its own logit", m.K)}
	}
	if g := m.Route.Groups; g != 0 {
		if err := checkSizes(size{"groups of experts", g, m.E}, size{"groups per token", m.Route.TopGroups, g}); err != nil {
			return err
		}
		if m.E%g != 0 || m.K > m.E/g*m.Route.TopGroups || m.Route.Best2 && m.E/g < 2 {
			return fmt.Errorf("%d experts do not make %d groups, of which the best %d have %d experts for a token", m.E, g, m.Route.TopGroups, m.K)
		}
	}
	return checkSizes(size{"experts' rows", 2 * m.E * m.F, 1 << 30})
}

// moe is the first feed-forward part of its kind, nil where there is none.
func (s *Spec) moe() *MoE { return first[*MoE](s) }

// withExperts puts experts like m in place of the feed-forward parts of the
// layers that sparse chooses (nil: all), with their activation and, where m states
// none, their inner size.
func (s *Spec) withExperts(m MoE, sparse func(layer int) bool) {
	if mlp := s.mlp(); mlp != nil {
		if m.Act == 0 {
			m.Act = mlp.Act
		}
		if m.F == 0 {
			m.F = mlp.F
		} else {
			m.Dense = mlp.F
		}
	}
	if sparse == nil {
		sparse = from(0)
	}
	s.rebuild(sparse, func(old Body) Body {
		if _, ok := old.(*MLP); ok {
			return &m
		}
		return old
	})
}

// denseLayers is the number of layers before the first with experts.
func (s *Spec) denseLayers() int {
	if first := slices.Index(s.sparse(), true); first >= 0 {
		return first
	}
	return len(s.Layers)
}

// scattered says what of the places of experts a number of leading layers without
// them does not say.
func (s *Spec) scattered() string {
	first := s.denseLayers()
	for i, sparse := range s.sparse() {
		if i > first && !sparse {
			return fmt.Sprintf("layer %d without experts behind such with them", i)
		}
	}
	return ""
}

// from chooses the layers from the nth on.
func from(n int) func(layer int) bool { return func(i int) bool { return i >= n } }

// sparseLayers reads which layers have experts: mlp_layer_types says it of each,
// first_k_dense_replace of the first; d is the number of dense layers where
// neither does.
func (c *Config) sparseLayers(d int) func(layer int) bool {
	first, types := c.Int(d, "first_k_dense_replace"), c.layerTypes("mlp_layer_types", "dense", "sparse")
	if types == nil {
		return from(first)
	}
	if c.has("first_k_dense_replace") {
		for i, t := range types {
			if (t == "sparse") != (i >= first) {
				c.fail("mlp_layer_types", "says that layer %d is %s, but first_k_dense_replace is %d; remove one", i, t, first)
			}
		}
	}
	return func(i int) bool { return i < len(types) && types[i] == "sparse" }
}

// layerTypes reads a list with one of the known words for every layer, nil where
// it is absent.
func (c *Config) layerTypes(key string, known ...string) []string {
	list, ok := get[[]string](c, key)
	if !ok {
		return nil
	}
	if n := c.Int(-1, "num_hidden_layers"); len(list) != n {
		c.fail(key, "has %d entries for %d layers", len(list), n)
	}
	for i, t := range list {
		if !slices.Contains(known, t) {
			c.lack(key, "layer %d is %q; known: %v", i, t, known)
		}
	}
	return list
}

// only refuses every value of a key, as JSON, but those that the family's models have.
func (c *Config) only(key string, values ...string) {
	raw, ok := c.raw[key]
	if ok && !slices.ContainsFunc(values, func(v string) bool { return sameJSON(raw, []byte(v)) }) {
		c.lack(key, "found %.40s, supported is %s", raw, values[0])
	}
}

// feedLength is the inner size of feed-forward parts; that of experts where there
// are no others.
func (m *Metadata) feedLength() int {
	if n := m.Int(0, "feed_forward_length"); n > 0 {
		return n
	}
	if n := m.Int(0, "expert_feed_forward_length"); n > 0 {
		return n
	}
	return m.Int(-1, "feed_forward_length")
}

// experts reads the numbers of experts; of a model without any they are 0.
func (m *Metadata) experts() MoE {
	return MoE{E: m.Int(0, "expert_count"), K: m.Int(0, "expert_used_count"), F: m.Int(0, "expert_feed_forward_length"), Shared: m.Int(0, "expert_shared_feed_forward_length")}
}

// routed puts experts as a GGUF describes them in the layers of s that have a router:
// those of DeepSeek V2 and what followed it.
func (m *Metadata) routed(s *Spec) {
	e := m.experts()
	if e.Route = m.router(); e.Route.Kind == kernels.RouteSigmoid {
		e.Route.Best2, e.Route.Eps = biasedSigmoid.Best2, biasedSigmoid.Eps
	}
	if n := m.Int(0, "expert_shared_count"); n > 0 && e.Shared == 0 {
		e.Shared = n * cmp.Or(e.F, m.Int(0, "feed_forward_length"))
	}
	m.Int(0, "leading_dense_block_count") // the tensors say it, too
	for i := range s.Layers {
		e.Select = e.Select || m.Has(fmt.Sprintf("blk.%d.exp_probs_b.bias", i)) || m.Has(fmt.Sprintf("blk.%d.exp_probs_b", i))
	}
	s.withExperts(e, m.sparse)
}

// routedGGUF reads a GGUF of a decoder of the given name with such experts.
func routedGGUF(name string) func(m *Metadata) (Spec, error) {
	return func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if err != nil {
			return s, err
		}
		s.Arch = name
		m.routed(&s)
		return s, m.err
	}
}

// sparse reports whether a layer has experts: it has a router.
func (m *Metadata) sparse(layer int) bool {
	return m.Has(fmt.Sprintf("blk.%d.ffn_gate_inp.weight", layer))
}

// Values of expert_gating_func.
const (
	gateSoftmax = 1
	gateSigmoid = 2
)

// router reads how llama.cpp scores, groups and weighs experts.
func (m *Metadata) router() (r kernels.RouteArgs) {
	switch f := m.Int(gateSoftmax, "expert_gating_func"); f {
	case 0, gateSoftmax:
	case gateSigmoid:
		r.Kind = kernels.RouteSigmoid
	default:
		m.lack("expert_gating_func", "is %d; known: %d (softmax), %d (sigmoid)", f, gateSoftmax, gateSigmoid)
	}
	r.Groups, r.TopGroups = groups(m.Int(1, "expert_group_count"), m.Int(1, "expert_group_used_count"))
	r.Renorm, r.Scale = m.Bool(false, "expert_weights_norm"), float32(m.Float(0, "expert_weights_scale"))
	return r
}

// groups are the numbers of groups of experts, 0 where one group has all.
func groups(n, top int) (int, int) {
	if n == 1 && top == 1 {
		return 0, 0
	}
	return n, top
}

// routerKV are the keys that router and leading dense layers have below prefix p
// where several families say them, and the number of shared experts.
func (s *Spec) routerKV(p string) []formats.KV {
	m := s.moe()
	kv := []formats.KV{
		{Key: p + ".expert_group_count", Value: uint32(max(m.Route.Groups, 1))}, {Key: p + ".expert_group_used_count", Value: uint32(max(m.Route.TopGroups, 1))},
		{Key: p + ".leading_dense_block_count", Value: uint32(s.denseLayers())}, {Key: p + ".expert_shared_count", Value: uint32(m.Shared / m.F)},
		{Key: p + ".expert_weights_scale", Value: m.Route.Scale},
	}
	if m.Route.Kind == kernels.RouteSigmoid {
		kv = append(kv, formats.KV{Key: p + ".expert_gating_func", Value: uint32(gateSigmoid)})
	}
	if m.Route.Renorm {
		kv = append(kv, formats.KV{Key: p + ".expert_weights_norm", Value: true})
	}
	return kv
}

// expertConfig are the keys of config.json that latentExperts and sparseLayers read.
func (s *Spec) expertConfig() []formats.KV {
	m := s.moe()
	return []formats.KV{
		{Key: "n_routed_experts", Value: m.E}, {Key: "num_experts_per_tok", Value: m.K}, {Key: "moe_intermediate_size", Value: m.F}, {Key: "n_shared_experts", Value: m.Shared / m.F},
		{Key: "first_k_dense_replace", Value: s.denseLayers()}, {Key: "n_group", Value: max(m.Route.Groups, 1)}, {Key: "topk_group", Value: max(m.Route.TopGroups, 1)},
		{Key: "norm_topk_prob", Value: m.Route.Renorm}, {Key: "routed_scaling_factor", Value: shortFloat(m.Route.Scale)},
	}
}

// expertNames are what a family calls the parts of a layer with experts. In
// memory, and to adapters, they are what Transformers makes of them: one tensor of
// all experts' gate and up rows, and one of their down rows.
type expertNames struct {
	router  string // modules in memory
	experts string // has the parameters gate_up_proj and down_proj
	shared  string
	// Those of Hugging Face files that have others.
	fileRouter, fileShared string
	// gate, up and down are the tensors of one expert in such files, %d its
	// number. Where up is "", gate and down are of all, gate rows before up rows
	// or in turn as in memory.
	gate, up, down string
	transposed     bool // files have the columns of those two as rows
	eitherWay      bool // or not, as their shape says; where it does not, they have not
	// flat: gate, up and down are matrices [E·F, C] of all experts, down with its
	// columns as rows.
	flat         bool
	turned       bool   // as Rule.Turned
	routerLinear bool   // the router is a linear map to Transformers, not a parameter
	routerNorm   string // weights of the router's norm
	scale        string // the experts' factors
	// joined: a GGUF, too, has gate and up rows in one tensor.
	joined       bool
	selects      string // the bias of the choice
	selectsGGUF  string // "": exp_probs_b.bias
	selectsShape []int64
}

// hubExperts are the usual ones.
var hubExperts = expertNames{router: "mlp.gate", experts: "mlp.experts", shared: "mlp.shared_experts",
	gate: "mlp.experts.%d.gate_proj.weight", up: "mlp.experts.%d.up_proj.weight", down: "mlp.experts.%d.down_proj.weight",
	selects: "mlp.gate.e_score_correction_bias"}

// experts adds a router, its experts and the shared one.
func (b *rules) experts(m *MoE, width int, n expertNames) {
	router := b.matrix(Router, n.router, "ffn_gate_inp", m.E, width)
	router.HF[0].Name, router.module = b.hf+cmp.Or(n.fileRouter, n.router)+".weight", n.routerLinear
	if m.Bias {
		b.vector(Router, n.router+".bias", "ffn_gate_inp.bias", m.E).Bias = true
	}
	if m.RouterNorm {
		b.vector(RouterNorm, n.routerNorm, "ffn_gate_inp.scale", width)
	}
	if m.Scaled {
		b.vector(ExpertScale, n.scale, "ffn_down_exps.scale", m.E)
	}
	if m.Select {
		v := b.vector(RouteBias, n.selects, cmp.Or(n.selectsGGUF, "exp_probs_b.bias"), m.E)
		v.HF[0].Shape, v.GGUF[0].Shape = n.selectsShape, n.selectsShape
	}
	inner := cmp.Or(m.Narrow, width)
	if m.Narrow > 0 {
		b.linear(ExpertIn, "mlp.fc1_latent_proj", "ffn_latent_down", inner, width, m.SharedBias, 0)
		b.linear(ExpertOut, "mlp.fc2_latent_proj", "ffn_latent_up", width, inner, m.SharedBias, 0)
	}
	gate, up := Rows{0, m.F, 2 * m.F, m.E}, Rows{m.F, m.F, 2 * m.F, m.E}
	if m.InTurn {
		gate, up = Rows{0, 1, 2, m.E * m.F}, Rows{1, 1, 2, m.E * m.F}
	}
	files := []string{n.gate, n.up}
	if n.up == "" {
		files = files[:1]
	}
	switch {
	case m.Ungated:
		b.stack(ExpertGateUp, m, n, "up_proj", m.F, inner, files[1:], Piece{Name: "ffn_up_exps"})
	case n.joined:
		b.stack(ExpertGateUp, m, n, "gate_up_proj", 2*m.F, inner, files, Piece{Name: "ffn_gate_up_exps"})
	default:
		b.stack(ExpertGateUp, m, n, "gate_up_proj", 2*m.F, inner, files, Piece{Name: "ffn_gate_exps", Rows: gate}, Piece{Name: "ffn_up_exps", Rows: up})
	}
	b.stack(ExpertDown, m, n, "down_proj", inner, m.F, []string{n.down}, Piece{Name: "ffn_down_exps"})
	if m.Shared == 0 {
		return
	}
	if m.SharedGated {
		b.matrix(SharedRouter, n.shared+"_gate", "ffn_gate_inp_shexp", 1, width)
	}
	for _, x := range []struct {
		role     Role
		hf, gguf string
		out, in  int
	}{{SharedGate, ".gate_proj", "ffn_gate_shexp", m.Shared, width}, {SharedUp, ".up_proj", "ffn_up_shexp", m.Shared, width}, {SharedDown, ".down_proj", "ffn_down_shexp", width, m.Shared}} {
		if x.role == SharedGate && m.Ungated {
			continue
		}
		first, file := len(b.list), b.hf+cmp.Or(n.fileShared, n.shared)+x.hf
		b.linear(x.role, n.shared+x.hf, x.gguf, x.out, x.in, m.SharedBias, 0)
		if b.list[first].HF[0].Name = file + ".weight"; m.SharedBias {
			b.list[first+1].HF[0].Name = file + ".bias"
		}
	}
}

// stack adds the maps [out, in] of all experts and their biases: the parameter
// name in memory, hf the tensors of Hugging Face files that share the rows of an
// expert, or have all, gguf those of all experts.
func (b *rules) stack(role Role, m *MoE, n expertNames, name string, out, in int, hf []string, gguf ...Piece) {
	w := b.add(Rule{Role: role, Experts: m.E, Rows: m.E * out, Cols: in, Turned: n.turned}, n.experts+"."+name, "")
	w.GGUF = nil
	together := []Piece{{Name: w.Name, Shape: []int64{int64(m.E), int64(out), int64(in)}}}
	apart := func(hf []string) (list []Piece) {
		rows := out / len(hf)
		for e := range m.E {
			for i, f := range hf {
				at := Rows{(e*len(hf) + i) * rows, rows, rows, 1}
				if m.InTurn && len(hf) > 1 {
					at = Rows{e*out + i, 1, 2, rows}
				}
				list = append(list, Piece{Name: b.hf + fmt.Sprintf(f, e), Rows: at, Shape: []int64{int64(rows), int64(in)}})
			}
		}
		return list
	}
	switch {
	case n.flat && role == ExpertDown:
		w.HF = []Piece{{Name: b.hf + n.down, Rows: Rows{0, out, out, m.E}, Transpose: true, Shape: []int64{int64(m.E * in), int64(out)}}}
		w.Other = apart([]string{n.experts + ".%d.w2.weight"})
	case n.flat:
		w.HF = nil
		for i, f := range hf {
			w.HF = append(w.HF, Piece{Name: b.hf + f, Rows: Rows{i * m.F, m.F, out, m.E}, Shape: []int64{int64(m.E * m.F), int64(in)}})
		}
		w.Other = apart([]string{n.experts + ".%d.w1.weight", n.experts + ".%d.v1.weight"})
	case n.up != "":
		w.HF, w.Other = apart(hf), together
	default:
		each := []string{n.experts + ".%d.down_proj.weight"}
		if role == ExpertGateUp {
			each = []string{n.experts + ".%d.gate_proj.weight", n.experts + ".%d.up_proj.weight"}
		}
		w.HF, w.Other = together, apart(each)
		if w.HF[0].Name = b.hf + hf[0]; n.transposed {
			w.HF = []Piece{{Name: b.hf + hf[0], Rows: Rows{0, out, out, m.E}, Transpose: true}}
			if n.eitherWay && out == in {
				w.HF = together
			} else if n.eitherWay {
				w.Also = append(w.Also, together)
			}
		}
	}
	for _, p := range gguf {
		part := int64(out / len(gguf))
		w.GGUF = append(w.GGUF, Piece{Name: b.gguf + p.Name + ".weight", Rows: p.Rows, Shape: []int64{int64(m.E), part, int64(in)}})
	}
	if !m.Bias {
		return
	}
	v := b.vector(role, n.experts+"."+name+"_bias", "", m.E*out)
	v.Bias, v.GGUF = true, nil
	v.HF[0].Shape = []int64{int64(m.E), int64(out)}
	for _, p := range gguf {
		v.GGUF = append(v.GGUF, Piece{Name: b.gguf + p.Name + ".bias", Rows: p.Rows, Shape: []int64{int64(m.E), int64(out / len(gguf))}})
	}
}

// expertKV are the keys of experts below prefix p that every family has.
func expertKV(m *MoE, p string) []formats.KV {
	kv := []formats.KV{{Key: p + ".expert_count", Value: uint32(m.E)}, {Key: p + ".expert_used_count", Value: uint32(m.K)}}
	if m.Dense > 0 {
		kv = append(kv, formats.KV{Key: p + ".expert_feed_forward_length", Value: uint32(m.F)})
	}
	if m.SharedGated {
		kv = append(kv, formats.KV{Key: p + ".expert_shared_feed_forward_length", Value: uint32(m.Shared)})
	}
	return kv
}
