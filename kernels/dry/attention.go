package dry

import (
	"github.com/tunekit/tunekit/kernels"
)

// Rope counts what it reads and writes.
func (d *Dry) Rope(y, x kernels.Heads, a *kernels.RopeArgs) {
	needHeads("rope: x", x, a.N, a.H, a.D)
	needHeads("rope: y", y, a.N, a.H, a.D)
	need("rope: cs", a.CS, a.N*a.Rot)
	d.add("Rope", Work{Moved: float64(a.N*a.H*a.D) * (width(x.Buffer) + width(y.Buffer))})
}

// width is the bytes of an element; 0 of a buffer that is not there.
func width(b kernels.Buffer) float64 {
	if b == nil {
		return 0
	}
	return float64(b.Type().Kind.Info().Bytes)
}

func needHeads(what string, v kernels.Heads, n, h, d int) {
	if !v.Skip() && n > 0 && h > 0 {
		need(what, v.Buffer, v.Off+(n-1)*v.Tok+(h-1)*v.Head+d)
	}
}

// scores is how many pairs of a query and a key a batch has.
func scores(a *kernels.AttnArgs) float64 {
	seq, keys := values(a.Seq), values(a.Bounds())
	if len(seq) < 2 || len(keys) != len(seq) {
		seq, keys = []int32{0, int32(a.N)}, []int32{0, int32(a.Keys())}
	}
	var total float64
	for i := 1; i < len(seq); i++ {
		n, of := int(seq[i]-seq[i-1]), int(keys[i]-keys[i-1])
		for t := range n {
			total += seen(a, of-n+t, of)
		}
	}
	return total
}

// seen is how many keys a token at position p sees.
func seen(a *kernels.AttnArgs, p, keys int) float64 {
	lo, hi := a.Seen(p, keys)
	if a.Pick != nil {
		return float64(min(hi-lo, a.P))
	}
	return float64(hi - lo)
}

// needAttention checks the operands of both directions.
func needAttention(what string, o, q, k, v kernels.Heads, a *kernels.AttnArgs) {
	needHeads(what+": q", q, a.N, a.H, a.Dk)
	needHeads(what+": o", o, a.N, a.H, a.Values())
	needHeads(what+": k", k, a.Keys(), a.K, a.Dk)
	needHeads(what+": v", v, a.Keys(), a.K, a.Values())
	need(what+": sinks", a.Sinks, a.H)
	need(what+": rel", a.Rel, a.Span*a.H)
	need(what+": pick", a.Pick, a.N*a.P)
}

// Attention counts the visible scores: a product of Dk and one of Dv each.
func (d *Dry) Attention(o kernels.Heads, lse kernels.Buffer, q, k, v kernels.Heads, a *kernels.AttnArgs) {
	needAttention("attention", o, q, k, v, a)
	need("attention: lse", lse, a.N*a.H)
	d.works(func(w kernels.Working) int64 { return w.Attention(o, q, k, v, a) })
	d.add("Attention", Work{Attention: 2 * float64(a.H) * float64(a.Dk+a.Values()) * scores(a)})
}

// AttentionBackward counts five products: three of Dk, two of Dv.
func (d *Dry) AttentionBackward(g *kernels.AttnGrads, do, o kernels.Heads, lse kernels.Buffer, q, k, v kernels.Heads, a *kernels.AttnArgs) {
	needAttention("attention backward", o, q, k, v, a)
	needAttention("attention backward: gradient", do, g.Q, g.K, g.V, a)
	need("attention backward: lse", lse, a.N*a.H)
	need("attention backward: dsinks", g.Sinks.Buffer, a.H)
	need("attention backward: drel", g.Rel.Buffer, a.Span*a.H)
	d.works(func(w kernels.Working) int64 { return w.AttentionBackward(g, do, q, k, v, a) })
	d.add("AttentionBackward", Work{Attention: 2 * float64(a.H) * float64(3*a.Dk+2*a.Values()) * scores(a)})
}

// needCache checks the buffers of a cache.
func needCache(c *kernels.KV) {
	need("kv: keys", c.Keys, c.Slots*c.Max*c.K*c.Dk)
	need("kv: values", c.Values, c.Slots*c.Max*c.K*c.ValueSize())
}

// KVAppend counts what it copies.
func (d *Dry) KVAppend(c *kernels.KV, a *kernels.KVAppendArgs) {
	needCache(c)
	needHeads("kvappend: k", a.K, a.N, c.K, c.Dk)
	need("kvappend: slot", a.Slot, a.N)
	need("kvappend: pos", a.Pos, a.N)
	moved := float64(c.Dk) * (width(a.K.Buffer) + width(c.Keys))
	if c.Values != nil {
		needHeads("kvappend: v", a.V, a.N, c.K, c.ValueSize())
		moved += float64(c.ValueSize()) * (width(a.V.Buffer) + width(c.Values))
	}
	d.add("KVAppend", Work{Moved: float64(a.N) * float64(c.K) * moved})
}

// KVAttention counts the visible scores, and the cache it reads.
func (d *Dry) KVAttention(o, q kernels.Heads, c *kernels.KV, args *kernels.KVAttnArgs) {
	a := args.Attn(c)
	needCache(c)
	needAttention("kvattention", o, q, kernels.Heads{}, kernels.Heads{}, a)
	need("kvattention: slot", args.Slot, a.N)
	need("kvattention: pos", args.Pos, a.N)
	keys := float64(a.N) * float64(c.Max)
	if p := values(args.Pos); p != nil {
		keys = 0
		for _, at := range p[:a.N] {
			keys += seen(a, int(at), int(at)+1)
		}
	}
	row := float64(c.Dk)*width(c.Keys) + float64(a.Values())*width(c.Values)
	d.add("KVAttention", Work{Attention: 2 * float64(a.H) * float64(a.Dk+a.Values()) * keys, Moved: float64(c.K) * row * keys})
}

// answered is the number of rows that LogProb makes logits of: without a target a
// row needs none where only log-probabilities are asked for.
func answered(out *kernels.LogProbOut, a *kernels.LogProbArgs) int {
	list := values(a.Target)
	if out.LSE != nil || out.Argmax != nil || list == nil {
		return a.N
	}
	n := 0
	for _, t := range list[:a.N] {
		n += b2i(t >= 0)
	}
	return n
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// LogProb counts the product of the head, once more for each gradient of its operands.
func (d *Dry) LogProb(out *kernels.LogProbOut, dx, dw, dbias kernels.Dst, a *kernels.LogProbArgs) {
	need("logprob: x", a.X, a.N*a.W.Cols)
	need("logprob: bias", a.Bias, a.W.Rows)
	need("logprob: target", a.Target, a.N)
	need("logprob: coef", a.Coef, a.N)
	for _, b := range []kernels.Buffer{out.LogP, out.LSE, out.Argmax, out.Mean} {
		need("logprob: out", b, a.N)
	}
	need("logprob: dx", dx.Buffer, a.N*a.W.Cols)
	need("logprob: dw", dw.Buffer, a.W.Rows*a.W.Cols)
	need("logprob: dbias", dbias.Buffer, a.W.Rows)
	d.works(func(w kernels.Working) int64 {
		return w.LogProb(kernels.LogProbShape{N: a.N, Answered: answered(out, a), V: a.W.Rows, C: a.W.Cols, BF16: a.BF16, F16: a.F16,
			DX: a.Coef != nil && !dx.Skip(), DW: a.Coef != nil && !dw.Skip(), X: kindOf(a.X), W: kindOf(a.W.Buffer)})
	})
	times := 1.0
	for _, g := range []kernels.Dst{dx, dw} {
		if !g.Skip() && a.Coef != nil {
			times++
		}
	}
	d.add("LogProb", Work{Matrix: times * product(a.N, a.W.Cols, a.W.Rows), Moved: 4 * float64(a.N) * float64(a.W.Rows)})
}
