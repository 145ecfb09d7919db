package dry

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
)

// moved is the work of touching every given buffer once; nil is none.
func moved(bufs ...kernels.Buffer) (w Work) {
	for _, b := range bufs {
		if b != nil {
			w.Moved += float64(b.Len()) * float64(b.Type().Kind.Info().Bytes)
		}
	}
	return w
}

// product is the work of n·k·m multiply-adds.
func product(n, k, m int) float64 { return 2 * float64(n) * float64(k) * float64(m) }

// need panics unless b, when given, holds n elements: the same programmer
// errors show in a plan as in a run.
func need(what string, b kernels.Buffer, n int) {
	if b == nil {
		return
	}
	if b.(*Buf).root.freed {
		panic(fmt.Sprintf("dry: %s: buffer used after it was freed", what))
	}
	if b.Len() < n {
		panic(fmt.Sprintf("dry: %s: buffer of %d elements, needs %d", what, b.Len(), n))
	}
}

// Linear counts both products.
func (d *Dry) Linear(y kernels.Dst, a *kernels.LinearArgs) {
	out := a.Out()
	need("linear: y", y.Buffer, a.N*out)
	need("linear: x", a.X, a.N*a.W.Cols)
	need("linear: group", a.Group, a.Parts()+1)
	w := product(a.N, a.W.Cols, out)
	if a.U != nil {
		need("linear: u", a.U, a.N*a.B.Cols)
		w += product(a.N, a.B.Cols, out)
	}
	d.add("Linear", Work{Matrix: w})
}

// LinearBackward counts the products of the wanted gradients.
func (d *Dry) LinearBackward(dx, dw, dbias kernels.Dst, dy kernels.Buffer, a *kernels.LinearArgs) {
	out := a.Out()
	need("linear backward: dy", dy, a.N*out)
	need("linear backward: dx", dx.Buffer, a.N*a.W.Cols)
	need("linear backward: dw", dw.Buffer, a.W.Rows*a.W.Cols)
	need("linear backward: dbias", dbias.Buffer, a.W.Rows)
	need("linear backward: group", a.Group, a.Parts()+1)
	var w Work
	if !dx.Skip() {
		w.Matrix += product(a.N, a.W.Cols, out)
		if a.U != nil {
			w.Matrix += product(a.N, a.B.Rows/a.Parts(), a.W.Cols)
		}
	}
	if !dw.Skip() {
		w.Matrix += product(a.N, a.W.Cols, out)
	}
	if !dbias.Skip() {
		w.Moved = moved(dy).Moved
	}
	d.add("LinearBackward", w)
}

// Gather counts the rows it writes, once for every choice.
func (d *Dry) Gather(y kernels.Dst, a *kernels.GatherArgs) {
	k := a.Choices()
	need("gather: y", y.Buffer, a.N*a.Table.Cols)
	need("gather: idx", a.Idx, a.N*k)
	need("gather: weight", a.Weight, a.N*k)
	w := moved(y.Buffer)
	w.Moved *= float64(k)
	d.add("Gather", w)
}

// GatherBackward counts the rows it reads and adds, for every choice and result.
func (d *Dry) GatherBackward(dtable, dweight kernels.Dst, dy kernels.Buffer, a *kernels.GatherArgs) {
	k := a.Choices()
	need("gather backward: dy", dy, a.N*a.Table.Cols)
	need("gather backward: idx", a.Idx, a.N*k)
	need("gather backward: weight", a.Weight, a.N*k)
	need("gather backward: dtable", dtable.Buffer, a.Table.Rows*a.Table.Cols)
	need("gather backward: dweight", dweight.Buffer, a.N*k)
	var w Work
	for _, x := range []kernels.Dst{dtable, dweight} {
		if !x.Skip() {
			w.Moved += float64(k) * moved(dy, dy).Moved
		}
	}
	d.add("GatherBackward", w)
}

// Rope counts what it reads and writes.
func (d *Dry) Rope(y, x kernels.Heads, n, h, dim, rot int, cs kernels.Buffer, _ kernels.Pairs, _ bool) {
	needHeads("rope: x", x, n, h, dim)
	needHeads("rope: y", y, n, h, dim)
	need("rope: cs", cs, n*rot)
	d.add("Rope", Work{Moved: 8 * float64(n) * float64(h) * float64(dim)})
}

func needHeads(what string, v kernels.Heads, n, h, d int) {
	if !v.Skip() && n > 0 && h > 0 {
		need(what, v.Buffer, v.Off+(n-1)*v.Tok+(h-1)*v.Head+d)
	}
}

// scores is how many pairs of a query and a key a batch has.
func scores(a *kernels.AttnArgs) float64 {
	seq := values(a.Seq)
	if len(seq) < 2 {
		seq = []int32{0, int32(a.N)}
	}
	var total float64
	for i := 1; i < len(seq); i++ {
		total += causal(int(seq[i]-seq[i-1]), a.Window)
	}
	return total
}

// causal is the number of keys that the t tokens of a sequence see.
func causal(t, window int) float64 {
	w := t
	if window > 0 {
		w = min(window, t)
	}
	return float64(w)*float64(w+1)/2 + float64(t-w)*float64(w)
}

// Attention counts the visible scores: two products of D each.
func (d *Dry) Attention(o kernels.Heads, lse kernels.Buffer, q, k, v kernels.Heads, a *kernels.AttnArgs) {
	for _, x := range []kernels.Heads{o, q} {
		needHeads("attention: o, q", x, a.N, a.H, a.D)
	}
	for _, x := range []kernels.Heads{k, v} {
		needHeads("attention: k, v", x, a.N, a.K, a.D)
	}
	need("attention: lse", lse, a.N*a.H)
	d.add("Attention", Work{Attention: 2 * 2 * float64(a.H) * float64(a.D) * scores(a)})
}

// AttentionBackward counts five products.
func (d *Dry) AttentionBackward(dq, dk, dv kernels.Heads, do, o kernels.Heads, lse kernels.Buffer, q, k, v kernels.Heads, a *kernels.AttnArgs) {
	for _, x := range []kernels.Heads{dq, do, o, q} {
		needHeads("attention backward: dq, do, o, q", x, a.N, a.H, a.D)
	}
	for _, x := range []kernels.Heads{dk, dv, k, v} {
		needHeads("attention backward: dk, dv, k, v", x, a.N, a.K, a.D)
	}
	need("attention backward: lse", lse, a.N*a.H)
	d.add("AttentionBackward", Work{Attention: 5 * 2 * float64(a.H) * float64(a.D) * scores(a)})
}

// KVAppend counts what it copies.
func (d *Dry) KVAppend(c *kernels.KV, k, v kernels.Heads, n int, slot, pos kernels.Buffer) {
	needHeads("kvappend: k", k, n, c.K, c.D)
	needHeads("kvappend: v", v, n, c.K, c.D)
	need("kvappend: slot", slot, n)
	need("kvappend: pos", pos, n)
	d.add("KVAppend", Work{Moved: 16 * float64(n) * float64(c.K) * float64(c.D)})
}

// KVAttention counts the visible scores, and the cache it reads.
func (d *Dry) KVAttention(o, q kernels.Heads, c *kernels.KV, n, h int, slot, pos kernels.Buffer, _ float32, window int, _ float32) {
	needHeads("kvattention: q", q, n, h, c.D)
	needHeads("kvattention: o", o, n, h, c.D)
	need("kvattention: slot", slot, n)
	seen := float64(n) * float64(c.Max)
	if p := values(pos); p != nil {
		seen = 0
		for _, at := range p[:n] {
			keys := int(at) + 1
			if window > 0 {
				keys = min(keys, window)
			}
			seen += float64(keys)
		}
	}
	d.add("KVAttention", Work{Attention: 4 * float64(h) * float64(c.D) * seen, Moved: 8 * float64(c.K) * float64(c.D) * seen})
}

// LogProb counts the product of the head, twice more with gradients.
func (d *Dry) LogProb(out *kernels.LogProbOut, dx, dw kernels.Dst, a *kernels.LogProbArgs) {
	need("logprob: x", a.X, a.N*a.W.Cols)
	need("logprob: target", a.Target, a.N)
	need("logprob: coef", a.Coef, a.N)
	for _, b := range []kernels.Buffer{out.LogP, out.LSE, out.Argmax} {
		need("logprob: out", b, a.N)
	}
	need("logprob: dx", dx.Buffer, a.N*a.W.Cols)
	need("logprob: dw", dw.Buffer, a.W.Rows*a.W.Cols)
	times := 1.0
	for _, g := range []kernels.Dst{dx, dw} {
		if !g.Skip() && a.Coef != nil {
			times++
		}
	}
	d.add("LogProb", Work{Matrix: times * product(a.N, a.W.Cols, a.W.Rows), Moved: 4 * float64(a.N) * float64(a.W.Rows)})
}
